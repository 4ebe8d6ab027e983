"""Attention as it is computed: each call of `scaled_dot_product_attention` while the denoiser runs, and the module it is in.

Queries and keys are caught as the network made them, after norms and rotary embedding, so that no attention processor has
to be imitated. The network's own result is left alone: an image is the same to the bit with and without this.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from ._errors import RecordError

#: Bytes of one piece of the score matrix, by default.
WORKSPACE = 256 << 20


class AttentionMode(TorchFunctionMode):
    """Shows `seen` the arguments of every attention, then lets it run."""

    def __init__(self, seen: Callable[[torch.Tensor, torch.Tensor, dict[str, Any]], None]):
        super().__init__()
        self._seen = seen

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is torch.nn.functional.scaled_dot_product_attention:
            names = ("query", "key", "value", "attn_mask", "dropout_p", "is_causal")
            given = dict(zip(names, args)) | kwargs
            with torch.no_grad():
                self._seen(given["query"], given["key"], given)
        return func(*args, **kwargs)


def shares(
    query: torch.Tensor,
    key: torch.Tensor,
    given: dict[str, Any],
    row: int,
    queries: slice,
    tokens: torch.Tensor,
    text: slice,
    image: slice | None,
    workspace: int = WORKSPACE,
) -> torch.Tensor:
    """What the image's places of one row give to each token, to the rest of the text, and to the image.

    The softmax is over all keys, in f32; only the columns asked for are kept. Rows sum to one.

    Args:
        query: `[batch, heads, queries, width]`, any float type.
        key: `[batch, heads, keys, width]`; fewer heads where several queries share a key.
        given: the other arguments of the attention.
        row: row of the batch.
        queries: the image's places.
        tokens: keys of the prompt's tokens.
        text: all keys that are text.
        image: all keys that are not, in joint attention.
        workspace: bytes of scores that are formed at a time.

    Returns:
        f32 `[heads, tokens + 1 or 2, places]`.
    """
    if query.ndim != 4 or given.get("is_causal"):
        raise RecordError("an attention that sees the text is causal, or is not [batch, heads, places, width]; report this")
    q, k = query[row, :, queries], key[row].float()
    heads, places, width = q.shape
    if k.shape[0] != heads:
        k = k.repeat_interleave(heads // k.shape[0], dim=0)
    scale = given.get("scale")
    scale = width**-0.5 if scale is None else scale
    mask = given.get("attn_mask")
    if mask is not None:
        while mask.ndim < 4:
            mask = mask.unsqueeze(0)
        mask = mask[row if mask.shape[0] > 1 else 0]
        if mask.shape[-2] > 1:
            mask = mask[:, queries]
    count = len(tokens)
    out = torch.empty((heads, count + (2 if image else 1), places), dtype=torch.float32, device=q.device)
    step = max(1, workspace // (heads * k.shape[1] * 4))
    k = k.transpose(-1, -2)
    for start in range(0, places, step):
        part = slice(start, start + step)
        scores = torch.matmul(q[:, part].float(), k).mul_(scale)
        if mask is not None:
            own = mask if mask.shape[-2] == 1 else mask[:, part]
            scores = scores.masked_fill_(~own, -torch.inf) if own.dtype == torch.bool else scores.add_(own)
        probabilities = scores.softmax(-1)
        own = probabilities.index_select(-1, tokens)
        out[:, :count, part] = own.transpose(-1, -2)
        held = own.sum(-1)
        if image is None:
            out[:, count, part] = probabilities.sum(-1).sub_(held)
        else:
            pixels = probabilities[..., image].sum(-1)
            out[:, count + 1, part] = pixels
            out[:, count, part] = probabilities.sum(-1).sub_(held).sub_(pixels)
    return out.clamp_(min=0.0)
