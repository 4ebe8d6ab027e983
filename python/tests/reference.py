"""Attention the long way: the full matrix of every layer, formed with plain torch in place of torch's own attention."""

from __future__ import annotations

from collections import defaultdict

import torch


class FullMatrices:
    """Replaces torch's attention while it is entered, and keeps each call's probabilities by module."""

    def __init__(self, denoiser: torch.nn.Module, paths: list[str]):
        self.denoiser, self.paths = denoiser, paths
        #: Path to `[batch, heads, queries, keys]`, one per call.
        self.seen: dict[str, list[torch.Tensor]] = defaultdict(list)

    def __enter__(self) -> FullMatrices:
        self._original = torch.nn.functional.scaled_dot_product_attention
        self._forwards = []
        self._current: str | None = None
        for path in self.paths:
            module = self.denoiser.get_submodule(path)
            forward = module.forward

            def named(*args, path=path, forward=forward, **kwargs):
                self._current = path
                try:
                    return forward(*args, **kwargs)
                finally:
                    self._current = None

            self._forwards.append((module, module.__dict__.get("forward")))
            module.forward = named
        torch.nn.functional.scaled_dot_product_attention = self._attend
        return self

    def __exit__(self, *_: object) -> None:
        torch.nn.functional.scaled_dot_product_attention = self._original
        for module, own in self._forwards:
            if own is None:
                del module.forward
            else:
                module.forward = own

    def _attend(self, query, key, value, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, enable_gqa=False):
        if self._current is None:  # a text encoder's or a layer that does not see the text
            return self._original(query, key, value, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa)
        assert not is_causal and dropout_p == 0
        groups = query.shape[1] // key.shape[1]
        key, value = (x.repeat_interleave(groups, 1) for x in (key, value))
        scores = torch.einsum("bhqd,bhkd->bhqk", query.double(), key.double())
        scores = scores * (query.shape[-1] ** -0.5 if scale is None else scale)
        if attn_mask is not None:
            if attn_mask.dtype == torch.bool:
                scores = torch.where(attn_mask, scores, torch.tensor(-torch.inf, dtype=scores.dtype))
            else:
                scores = scores + attn_mask
        exponents = (scores - scores.amax(-1, keepdim=True)).exp()
        matrix = exponents / exponents.sum(-1, keepdim=True)
        self.seen[self._current].append(matrix)
        return torch.einsum("bhqk,bhkd->bhqd", matrix, value.double()).to(query.dtype)
