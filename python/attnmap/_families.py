"""What differs between families of pipelines: which keys are text, which queries are image, and the grid."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ._errors import RecordError
from ._prompt import Encoder, Encoding

if TYPE_CHECKING:
    import torch

Grid = tuple[int, int]


@dataclass
class Row:
    """One row of the denoiser's batch that was given the prompt."""

    #: Position among the images of the call.
    image: int
    #: First key of the text, and how many there are.
    text_start: int
    text_len: int
    #: First query (and key) of the image; 0 and no keys in cross-attention.
    image_start: int
    #: Keys that are pictures, where they are more than the image: the places of reference pictures follow on its own.
    image_len: int | None = None


@dataclass
class Call:
    """One call of the denoiser."""

    rows: list[Row]
    #: The grid of the image's tokens; `None` for a UNet, where each layer has its own.
    grid: Grid | None
    latent: Grid
    #: In the scheduler's unit, 0 to 1000.
    timestep: float


@dataclass(frozen=True)
class Family:
    """A kind of pipeline."""

    name: str
    #: Pipelines whose text, rows and grid are those below; every one of them is tested.
    pipelines: tuple[str, ...]
    #: The denoiser's attribute in the pipeline, and its class.
    denoiser: str
    denoiser_class: str
    #: `cross` or `joint`.
    kind: str
    #: Names of the modules whose attention sees the text: the end of the weight path, and the root's first name.
    sites: Callable[[str, Any], bool]
    encoders: Callable[[Any], list[Encoder]]
    call: Callable[[Any, dict[str, Any], State], Call | None]


@dataclass
class State:
    """What a recording knows when the denoiser is called."""

    images: int
    #: The first call's text states, which tell the prompt's calls from the negative prompt's.
    first_text: torch.Tensor | None = None
    #: Timestep of the prompt's last call.
    last: float | None = None


def _plain(position: int, _: Encoding) -> int | None:
    return position


def _after(count: int) -> Callable[[int, Encoding], int | None]:
    return lambda position, _: position + count


def _unmasked(position: int, encoding: Encoding) -> int | None:
    """Pipelines that hand on the states of unmasked tokens alone."""
    return sum(encoding.mask[:position]) if encoding.mask[position] else None


def _float(value: Any) -> float:
    return float(value.reshape(-1)[0]) if hasattr(value, "reshape") else float(value)


def _halves(batch: int, state: State, conditional_first: bool = False) -> list[tuple[int, int]]:
    """Rows of the batch that were given the prompt, with their images."""
    if batch == state.images:
        return [(row, row) for row in range(batch)]
    if batch == 2 * state.images:
        start = 0 if conditional_first else state.images
        return [(start + image, image) for image in range(state.images)]
    raise RecordError(
        f"the denoiser was given {batch} rows for {state.images} images; guidance of three parts (InstructPix2Pix, PAG) "
        "is not recorded: run the pipeline without it"
    )


def _rows(batch: int, state: State, conditional_first: bool = False, **place: int) -> list[Row | None]:
    rows: list[Row | None] = [None] * batch
    for row, image in _halves(batch, state, conditional_first):
        rows[row] = Row(image, **place)
    return rows


def _is_prompt(states: torch.Tensor, timestep: float, state: State) -> bool:
    """Whether a call of a pipeline that calls once per half was given the prompt: it comes first at the first step."""
    first = state.first_text
    if first is None:
        state.first_text = first = states
    if states is not first:
        # A copy is the prompt's too, but for a negative prompt of the same text, which comes second at its timestep.
        same = states.shape == first.shape and bool((states == first).all())
        if not same or timestep == state.last:
            return False
    state.last = timestep
    return True


# Stable Diffusion, SDXL, Kolors


def _unet_call(_: Any, args: dict[str, Any], state: State) -> Call:
    sample, states = args["sample"], args["encoder_hidden_states"]
    place = {"text_start": 0, "text_len": states.shape[1], "image_start": 0}
    rows = _rows(sample.shape[0], state, **place)
    return Call(rows, None, tuple(sample.shape[-2:]), _float(args["timestep"]))  # type: ignore[arg-type]


def _unet_sites(path: str, module: Any) -> bool:
    # Blocks of cross-attention alone (the x4 upscaler's) see the text in `attn1` too.
    return path.endswith((".attn1", ".attn2")) and bool(getattr(module, "is_cross_attention", path.endswith("2")))


def _clip(pipe: Any) -> list[Encoder]:
    both = getattr(pipe, "tokenizer_2", None) is not None and getattr(pipe, "tokenizer", None) is not None
    if getattr(pipe, "tokenizer", None) is None:
        return [Encoder("tokenizer_2", _plain)]
    return [Encoder("tokenizer", _plain)] + ([Encoder("tokenizer_2", _plain, beside=True)] if both else [])


def unet_grid(queries: int, latent: Grid) -> Grid:
    """The grid of a UNet's layer of `queries` places: the latent's halved, as its down-samplers round."""
    for up in (True, False):
        height, width = latent
        while height * width >= queries:
            if height * width == queries:
                return height, width
            if (height, width) == (1, 1):
                break
            height, width = (math.ceil(height / 2), math.ceil(width / 2)) if up else (height // 2, width // 2)
    raise RecordError(f"a layer has {queries} places, which is no level of a latent of {latent[1]}x{latent[0]}")


# Transformers


def _patched(denoiser: Any, sample: Any) -> tuple[Grid, Grid]:
    patch = int(getattr(denoiser.config, "patch_size", 1) or 1)
    height, width = sample.shape[-2:]
    return (height // patch, width // patch), (height, width)


def _cross_call(denoiser: Any, args: dict[str, Any], state: State) -> Call:
    sample, states = args["hidden_states"], args["encoder_hidden_states"]
    length = states.shape[1] + (args["encoder_hidden_states_t5"].shape[1] if "encoder_hidden_states_t5" in args else 0)
    grid, latent = _patched(denoiser, sample)
    rows = _rows(sample.shape[0], state, text_start=0, text_len=length, image_start=0)
    scale = float(getattr(denoiser.config, "timestep_scale", 1.0) or 1.0)
    return Call(rows, grid, latent, _float(args["timestep"]) / scale)


def _sd3_call(denoiser: Any, args: dict[str, Any], state: State) -> Call | None:
    if args.get("skip_layers") is not None:
        return None  # skip-layer guidance calls a further time with some layers left out
    sample, states = args["hidden_states"], args["encoder_hidden_states"]
    grid, latent = _patched(denoiser, sample)
    cells = grid[0] * grid[1]
    rows = _rows(sample.shape[0], state, text_start=cells, text_len=states.shape[1], image_start=0)
    return Call(rows, grid, latent, _float(args["timestep"]))


def _packed_call(_: Any, args: dict[str, Any], state: State) -> Call | None:
    """FLUX.1, FLUX.2, Chroma and Qwen-Image: packed patches of 2x2 behind the text, one call per half."""
    sample, states = args["hidden_states"], args["encoder_hidden_states"]
    if not _is_prompt(states, _float(args["timestep"]), state):
        return None
    if args.get("img_shapes") is not None:
        shapes = args["img_shapes"][0]
        shapes = shapes if isinstance(shapes, list) else [shapes]
        grid = tuple(shapes[0][-2:])
    else:
        ids = args["img_ids"]
        ids = ids[0] if ids.ndim == 3 else ids
        # The image's own places come first; those of reference pictures have another first coordinate.
        own = ids[ids[:, 0] == ids[0, 0]]
        grid = (int(own[:, 1].max()) + 1, int(own[:, 2].max()) + 1)
        if len(own) != grid[0] * grid[1] or not bool((ids[: len(own)] == own).all()):
            raise RecordError("the image's places do not come first in this pipeline, which is not recorded")
    if sample.shape[1] < grid[0] * grid[1]:
        raise RecordError(f"the network was given {sample.shape[1]} places for a grid of {grid[1]}x{grid[0]}; report this")
    text = states.shape[1]
    place = {"text_start": 0, "text_len": text, "image_start": text, "image_len": sample.shape[1]}
    rows = _rows(sample.shape[0], state, **place)
    latent = (2 * grid[0], 2 * grid[1])
    return Call(rows, grid, latent, 1000 * _float(args["timestep"]))  # type: ignore[arg-type]


def _z_image_call(denoiser: Any, args: dict[str, Any], state: State) -> Call:
    samples, texts = args["x"], args["cap_feats"]
    if isinstance(samples[0], list):
        raise RecordError("Z-Image Omni is not recorded; use the text-to-image pipeline")
    patch = int(args.get("patch_size") or 2)
    height, width = samples[0].shape[-2:]
    grid = (height // patch, width // patch)
    cells = grid[0] * grid[1]
    padded = cells + (-cells) % 32
    rows: list[Row | None] = [None] * len(samples)
    for row, image in _halves(len(samples), state, conditional_first=True):
        length = len(texts[row])
        rows[row] = Row(image, padded, length + (-length) % 32, 0)
    return Call(rows, grid, (height, width), 1000 - 1000 * _float(args["t"]))


def _lumina_call(denoiser: Any, args: dict[str, Any], state: State) -> Call | None:
    sample, states = args["hidden_states"], args["encoder_hidden_states"]
    if not _is_prompt(states, _float(args["timestep"]), state):
        return None
    grid, latent = _patched(denoiser, sample)
    lengths = args["encoder_attention_mask"].sum(dim=1).tolist()
    rows: list[Row | None] = [None] * len(lengths)
    for row, image in _halves(len(lengths), state):
        rows[row] = Row(image, 0, int(lengths[row]), int(lengths[row]))
    return Call(rows, grid, latent, 1000 - 1000 * _float(args["timestep"]))


def _ends(*names: str, under: tuple[str, ...]) -> Callable[[str, Any], bool]:
    return lambda path, _: path.split(".")[0] in under and path.split(".")[-1] in names


def _qwen_key(pipe: Any) -> Callable[[int, Encoding], int | None]:
    dropped = int(pipe.prompt_template_encode_start_idx)

    def key(position: int, encoding: Encoding) -> int | None:
        at = _unmasked(position, encoding)
        return None if at is None or at < dropped else at - dropped

    return key


def _sana_key(position: int, encoding: Encoding) -> int | None:
    # The first state and the last 299: the instruction before the prompt is cut away.
    kept = [0, *range(len(encoding.ids) - 299, len(encoding.ids))]
    return kept.index(position) if position in kept else None


def _one(key: Callable[[int, Encoding], int | None], name: str = "tokenizer") -> Callable[[Any], list[Encoder]]:
    return lambda _: [Encoder(name, key)]


def _sd3_encoders(pipe: Any) -> list[Encoder]:
    clip = int(getattr(pipe, "tokenizer_max_length", 77))
    first = [Encoder(name, _plain) for name in ("tokenizer", "tokenizer_2") if getattr(pipe, name, None) is not None]
    first = [first[0], *(Encoder(e.tokenizer, e.key, beside=True) for e in first[1:])] if first else []
    return [*first, Encoder("tokenizer_3", _after(clip))]


def _with(name: str, *ends: str) -> tuple[str, ...]:
    return tuple(name + end for end in ends)


FAMILIES = (
    Family("Stable Diffusion",
           (*_with("StableDiffusion", "Pipeline", "Img2ImgPipeline", "InpaintPipeline", "ControlNetPipeline"),
            *_with("StableDiffusionXL", "Pipeline", "Img2ImgPipeline", "InpaintPipeline", "ControlNetPipeline"),
            *_with("Kolors", "Pipeline", "Img2ImgPipeline"),
            *_with("LatentConsistencyModel", "Pipeline", "Img2ImgPipeline")), "unet", "UNet2DConditionModel", "cross", _unet_sites, _clip, _unet_call),
    Family("Stable Diffusion 3",
           _with("StableDiffusion3", "Pipeline", "Img2ImgPipeline", "InpaintPipeline"), "transformer", "SD3Transformer2DModel", "joint",
           _ends("attn", under=("transformer_blocks",)), _sd3_encoders, _sd3_call),
    Family("FLUX.1", _with("Flux", "Pipeline", "Img2ImgPipeline", "InpaintPipeline"), "transformer", "FluxTransformer2DModel", "joint",
           _ends("attn", under=("transformer_blocks", "single_transformer_blocks")),
           _one(_plain, "tokenizer_2"), _packed_call),
    Family("Z-Image", _with("ZImage", "Pipeline", "Img2ImgPipeline", "InpaintPipeline"), "transformer", "ZImageTransformer2DModel", "joint",
           _ends("attention", under=("layers",)), _one(_unmasked), _z_image_call),
    Family("Qwen-Image", _with("QwenImage", "Pipeline", "Img2ImgPipeline", "InpaintPipeline"), "transformer", "QwenImageTransformer2DModel", "joint",
           _ends("attn", under=("transformer_blocks",)), lambda pipe: [Encoder("tokenizer", _qwen_key(pipe))], _packed_call),
    Family("PixArt", ("PixArtAlphaPipeline", "PixArtSigmaPipeline"), "transformer", "PixArtTransformer2DModel", "cross",
           _ends("attn2", under=("transformer_blocks",)), _one(_plain), _cross_call),
    Family("Sana", ("SanaPipeline",), "transformer", "SanaTransformer2DModel", "cross",
           _ends("attn2", under=("transformer_blocks",)), _one(_sana_key), _cross_call),
    Family("HunyuanDiT", ("HunyuanDiTPipeline",), "transformer", "HunyuanDiT2DModel", "cross",
           _ends("attn2", under=("blocks",)),
           lambda pipe: [Encoder("tokenizer", _plain), Encoder("tokenizer_2", _after(77))], _cross_call),
    Family("Lumina 2", ("Lumina2Pipeline", "Lumina2Text2ImgPipeline"), "transformer", "Lumina2Transformer2DModel", "joint",
           _ends("attn", under=("layers",)), _one(_unmasked), _lumina_call),
    Family("Chroma", _with("Chroma", "Pipeline", "Img2ImgPipeline", "InpaintPipeline"), "transformer", "ChromaTransformer2DModel", "joint",
           _ends("attn", under=("transformer_blocks", "single_transformer_blocks")), _one(_plain), _packed_call),
    Family("FLUX.2", _with("Flux2Klein", "Pipeline", "InpaintPipeline"), "transformer", "Flux2Transformer2DModel", "joint",
           _ends("attn", under=("transformer_blocks", "single_transformer_blocks")), _one(_plain), _packed_call),
)  # fmt: skip


def _is_compiled(module: Any) -> bool:
    forward = getattr(module, "forward", None)
    return (
        hasattr(module, "_orig_mod")
        or getattr(module, "_compiled_call_impl", None) is not None
        or hasattr(forward, "_torchdynamo_orig_callable")
    )


def _refuse_compiled(name: str, denoiser: Any) -> None:
    modules = denoiser.named_modules() if hasattr(denoiser, "named_modules") else []
    compiled = [path for path, module in modules if _is_compiled(module)]
    if not compiled:
        return
    where = f"pipe.{name}" + (f".{compiled[0]}" if compiled[0] else "")
    out = "its _orig_mod in its place" if hasattr(denoiser, "_orig_mod") else "a pipeline that compile() was not called on"
    raise RecordError(f"{where} is compiled, and compiled attention cannot be seen; record with {out}")


def family_of(pipe: Any) -> Family:
    """The family of a pipeline.

    Raises:
        RecordError: for a pipeline whose text keys are not known, and for compiled networks.
    """
    own = {cls.__name__ for cls in type(pipe).__mro__}
    name = type(pipe).__name__
    for family in FAMILIES:
        denoiser = getattr(pipe, family.denoiser, None)
        if own.intersection(family.pipelines):
            if hasattr(denoiser, "_orig_mod") or hasattr(denoiser, "named_modules"):
                _refuse_compiled(family.denoiser, denoiser)
            if type(denoiser).__name__ != family.denoiser_class:
                raise RecordError(f"{name} has a {type(denoiser).__name__}, not a {family.denoiser_class}; it is not recorded")
            return family
    for family in FAMILIES:
        if type(getattr(pipe, family.denoiser, None)).__name__ == family.denoiser_class:
            first = family.pipelines[0]
            raise RecordError(
                f"{name} is not known, and what it gives its network may be read wrongly; "
                f"of {family.name}, {', '.join(family.pipelines)} are recorded: try {first}.from_pipe(pipe)"
            )
    names = ", ".join(dict.fromkeys(family.name for family in FAMILIES))
    raise RecordError(f"{name} is not known; pipelines of these families are recorded: {names}")
