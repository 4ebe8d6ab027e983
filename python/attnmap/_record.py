"""Records a diffusers pipeline while it runs: ``with attnmap.record(pipe) as recorder``."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from . import _own, _trace
from ._capture import WORKSPACE, AttentionMode, shares
from ._errors import RecordError
from ._families import Call, Family, State, family_of, unet_grid
from ._prompt import Prompt, TokenizerWatch, read, without_words
from ._run import Run, call
from ._words import slug

_TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3", "tokenizer_4")

#: Arguments that change the image and are no settings of attnmap's, with the value at which they do nothing.
_FURTHER = {
    "eta": 0.0, "guidance_rescale": 0.0, "clip_skip": None, "denoising_start": None, "denoising_end": None,
    "true_cfg_scale": 1.0, "cfg_normalization": False, "cfg_truncation": 1.0, "mu": None,
}  # fmt: skip


#: Arguments that change the image where something is given.
_GIVEN = ("cross_attention_kwargs", "joint_attention_kwargs", "skip_guidance_layers")


class _Site:
    """One attention layer: its place in the network and the running sums of each image."""

    def __init__(self, path: str, heads: int, grid: tuple[int, int]):
        self.path, self.heads, self.grid = path, heads, grid
        #: Image to f32 `[heads, channels, cells]` on the network's device, while the pipeline runs.
        self.sums: dict[int, torch.Tensor] = {}
        #: Image to the place of its sums in the spool, and their shape, once it has run.
        self.kept: dict[int, tuple[int, torch.Size]] = {}
        #: Image to the places of its single steps in the spool, f16 `[channels, cells]` each.
        self.steps: dict[int, list[tuple[int, int]]] = {}


class Recording:
    """What was seen in one call of the pipeline."""

    def __init__(self, owner: Recorder, pipe: Any, arguments: dict[str, Any]):
        self.owner, self.pipe = owner, pipe
        # Pipelines write into lists that they are given: Z-Image's puts a chat template around each prompt.
        self.arguments = {name: list(value) if isinstance(value, list) else value for name, value in arguments.items()}
        if arguments.get("padding_mask_crop") is not None:
            raise RecordError(
                "padding_mask_crop draws a part of the picture alone, and the maps of that part would be shown on all of it; "
                "leave it out to record, or crop the picture yourself"
            )
        # A pipeline may be loaded without one of its encoders, and have the tokenizer of it all the same.
        self.tokenizers = {n: getattr(pipe, n) for n in _TOKENIZERS if _is_used(pipe, n)}
        self.watch = TokenizerWatch(self.tokenizers)
        self.sites: dict[str, _Site] = {}
        self.timesteps: list[float] = []
        self.latent: tuple[int, int] | None = None
        self.images: list[Image.Image] = []
        self.spool: IO[bytes] = tempfile.TemporaryFile()
        self.prompts: list[Prompt] = []
        self.state: State | None = None
        self._call: Call | None = None
        self._seen: set[str] = set()
        self._bytes = 0
        self._keys: dict[tuple[int, int], torch.Tensor] = {}
        #: The call's single steps, which go to the spool together: one wait for the device per call.
        self._pending: list[tuple[_Site, int, torch.Tensor]] = []
        #: Calls of the denoiser, and those of them that were given the prompt.
        self._calls = 0
        self._guided = False
        self.device, self.dtype = "cpu", "f32"
        given = arguments.get("generator")
        generators = list(given) if isinstance(given, (list, tuple)) else [given]
        #: Per generator, whether it stood at its start when the pipeline was called, and its seed.
        self._fresh = [_is_fresh(one) for one in generators]
        # Noted now: the same generator, scheduler or adapters may be others at the next call.
        self._seeds = [None if one is None else int(one.initial_seed()) for one in generators]
        self.scheduler, self.adapters = pipe.scheduler, _adapters(pipe)

    # What the pipeline was asked for

    @property
    def per_prompt(self) -> int:
        return int(self.arguments.get("num_images_per_prompt") or 1)

    def _texts(self) -> list[str] | None:
        """The prompts that the denoiser's text encoders were given.

        Raises:
            RecordError: when encoders were given different prompts.
        """
        own: list[str] | None = None
        for encoder in self.owner.family.encoders(self.pipe):
            if encoder.tokenizer not in self.tokenizers:
                continue
            # `tokenizer_2` is given `prompt_2` where that is set.
            name = encoder.tokenizer.replace("tokenizer", "prompt")
            given = self.arguments.get(name) or self.arguments.get("prompt")
            if given is None:
                return None
            texts = [given] if isinstance(given, str) else list(given)
            if own is not None and texts != own:
                raise RecordError(f"{name} is another text than prompt, and a run has one; leave {name} out to record")
            own = texts
        return own

    def _begin(self, call_args: dict[str, Any], denoiser: Any) -> None:
        texts = self._texts()
        if texts is None:
            embeds = self.arguments.get("prompt_embeds")
            if embeds is None:
                raise RecordError(f"{self.owner.pipeline_name} was given no prompt, so there is nothing to record")
            count = len(embeds)
        else:
            count = len(texts)
        self.state = State(count * self.per_prompt)

    def _read_prompts(self, call: Call) -> None:
        texts = self._texts()
        if texts is None:
            lengths = {row.image: row.text_len for row in call.rows if row is not None}
            first_images = range(0, self.state.images, self.per_prompt)  # type: ignore[union-attr]
            self.prompts = [without_words(lengths[image]) for image in first_images]
            return
        encoders = self.owner.family.encoders(self.pipe)
        self.prompts = read(texts, encoders, self.watch.seen, self.tokenizers)

    def prompt(self, image: int) -> Prompt:
        return self.prompts[image // self.per_prompt]

    # The denoiser's calls

    def enter(self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        """The denoiser is called; returns whether the call is to be watched."""
        bound = inspect.signature(type(denoiser).forward).bind(denoiser, *args, **kwargs)
        bound.apply_defaults()
        if self.state is None:
            self._begin(bound.arguments, denoiser)
        assert self.state is not None
        self._calls += 1
        self._call = self.owner.family.call(denoiser, bound.arguments, self.state)
        self._seen.clear()
        if self._call is None:
            self._guided = True
            return False
        self._guided |= any(row is None for row in self._call.rows)
        if not self.prompts:
            self._read_prompts(self._call)
        if self.latent not in (None, self._call.latent):
            raise RecordError("the latent changed its size during the run; record one pass at a time")
        self.latent = self._call.latent
        self.timesteps.append(self._call.timestep)
        return True

    def observe(self, path: str, query: torch.Tensor, key: torch.Tensor, given: dict[str, Any]) -> None:
        """One attention of the site `path`."""
        call, joint = self._call, self.owner.family.kind == "joint"
        assert call is not None
        if path in self._seen:
            raise RecordError(f"{path} attends twice per call, as with an IP-Adapter, which is not recorded; unload it")
        if not self._seen:
            # Weights may lie on another device, or be quantised: what is multiplied tells.
            names = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}
            self.device = {"mps": "metal"}.get(query.device.type, query.device.type)
            self.dtype = names.get(query.dtype, str(query.dtype).removeprefix("torch."))
        self._seen.add(path)
        heads, queries = query.shape[1], query.shape[2]
        for index, row in enumerate(call.rows):
            if row is None:
                continue
            if query.shape[0] != len(call.rows):
                raise RecordError(f"{path} splits the batch; turn that off to record")
            grid = call.grid or unet_grid(queries, call.latent)
            cells = grid[0] * grid[1]
            expected = row.text_len if not joint else None
            if (not joint and queries != cells) or (expected is not None and key.shape[2] != expected):
                raise RecordError(
                    f"{path} has {queries} queries and {key.shape[2]} keys, not the {cells} and {row.text_len} of this "
                    "family; report this pipeline"
                )
            if max(self.prompt(row.image).keys, default=0) >= row.text_len:
                raise RecordError(f"{path} has fewer text keys than the prompt has tokens; report this pipeline")
            tokens = self._token_keys(row.image, row.text_start, query.device)
            text = slice(row.text_start, row.text_start + row.text_len)
            image = slice(row.image_start, row.image_start + (row.image_len or cells)) if joint else None
            places = slice(row.image_start, row.image_start + cells)
            values = shares(query, key, given, index, places, tokens, text, image, self.owner.workspace)
            self._add(path, heads, grid, row.image, values)

    def _token_keys(self, image: int, start: int, device: torch.device) -> torch.Tensor:
        known = self._keys.get((image, start))
        if known is None:
            keys = [start + key for key in self.prompt(image).keys]
            known = self._keys[image, start] = torch.tensor(keys, dtype=torch.long, device=device)
        return known if known.device == device else known.to(device)

    def _add(self, path: str, heads: int, grid: tuple[int, int], image: int, values: torch.Tensor) -> None:
        site = self.sites.setdefault(path, _Site(path, heads, grid))
        if self.owner.per_step:
            self._pending.append((site, image, values.mean(0).half()))
        if self.owner.heads == "mean":
            values = values.mean(0, keepdim=True)
            site.heads = 1
        if image in site.sums:
            site.sums[image].add_(values)
            return
        self._bytes += values.numel() * 4
        if self._bytes > self.owner.memory:
            raise RecordError(
                f"the sums take more than the {self.owner.memory / 2**20:.0f} MiB that memory= allows; allow more, or record "
                "the mean over the heads with heads='mean'"
            )
        site.sums[image] = values

    def leave(self) -> None:
        """The denoiser's call is over: every layer that sees the text must have been seen.

        Raises:
            RecordError: naming the layers that were not, with the ways out.
        """
        missed = [path for path in self.owner.expected if path not in self._seen]
        if missed:
            some = ", ".join(missed[:3]) + (f" and {len(missed) - 3} more" if len(missed) > 3 else "")
            kind = self.owner.processor(missed[0])
            raise RecordError(
                f"{len(missed)} of {len(self.owner.expected)} attention layers that see the text were not recorded: {some}. "
                f"Their {kind} did not call torch's scaled_dot_product_attention: call pipe.disable_attention_slicing() or "
                "pipe.disable_xformers_memory_efficient_attention(), set_attn_processor(AttnProcessor2_0()), "
                "set_attention_backend('native') or disable_cache() on the denoiser, and skip no layers"
            )
        if self._pending:
            bytes_ = torch.cat([values.flatten() for _, _, values in self._pending]).cpu().numpy()
            at = self.spool.tell()
            self.spool.write(bytes_.tobytes())
            for site, image, values in self._pending:
                length = 2 * values.numel()
                site.steps.setdefault(image, []).append((at, length))
                at += length
            self._pending.clear()

    def finish(self, output: Any) -> None:
        # A pipeline that calls once per half has as many calls for the negative prompt as for the prompt, or fewer.
        if self._calls > 2 * len(self.timesteps):
            raise RecordError(
                f"of {self._calls} calls of the denoiser, {len(self.timesteps)} were given the prompt's text; "
                "text that changes during the run is not recorded"
            )
        images = getattr(output, "images", None)
        if images is None:
            images = output[0] if isinstance(output, tuple) else []
        self.images = _pictures(images, self.arguments.get("output_type"))
        # To the disk: the sums of many calls together are more than the device has.
        for site in self.sites.values():
            for image, values in site.sums.items():
                site.kept[image] = (self.spool.seek(0, os.SEEK_END), values.shape)
                self.spool.write(values.cpu().numpy().tobytes())
            site.sums.clear()
        self._keys.clear()

    # The folders

    def sums(self, site: _Site, image: int) -> np.ndarray:
        """f32 `[heads, channels, height, width]`."""
        at, shape = site.kept[image]
        self.spool.seek(at)
        values = np.frombuffer(self.spool.read(4 * shape.numel()), np.float32)
        return values.reshape(shape[0], shape[1], *site.grid)

    def single_steps(self, site: _Site, image: int) -> np.ndarray | None:
        """f16 `[steps, channels, height, width]`."""
        if image not in site.steps:
            return None
        parts = []
        for at, length in site.steps[image]:
            self.spool.seek(at)
            parts.append(np.frombuffer(self.spool.read(length), np.float16))
        return np.stack(parts).reshape(len(parts), -1, *site.grid)

    def settings(self, image: int) -> dict[str, Any]:
        arguments, picture = self.arguments, self.images[image]
        scale = arguments.get("guidance_scale")
        if scale is None and self._guided:
            scale = arguments.get("true_cfg_scale")
        prompt = self.prompt(image)
        # Steps that are given one by one come before their number.
        given = next((name for name in ("timesteps", "sigmas") if arguments.get(name) is not None), None)
        settings = {
            "seed": self.seed(image),
            "steps": len(arguments[given]) if given else int(arguments.get("num_inference_steps") or len(self.timesteps)),
            "guidance_scale": float(scale) if scale is not None else 1.0,
            "scheduler": type(self.scheduler).__name__,
            "width": picture.width,
            "height": picture.height,
            "dtype": self.dtype,
            "device": self.device,
            "pipeline": self.owner.pipeline_name,
            "max_length": max(prompt.keys, default=0) + 1,
        }
        lengths = [row.text_len for row in (self._call.rows if self._call else []) if row is not None]
        if lengths:
            settings["max_length"] = max(lengths)
        if given:
            settings[given] = "given"
        settings.update(self._further())
        if arguments.get("strength") is not None:
            settings["strength"] = float(arguments["strength"])
        if self.owner.heads == "mean":
            settings["heads"] = "mean"
        if not self.seeds_own_noise(image):
            settings["latents"] = "given"
        if self.arguments.get("prompt_embeds") is not None:
            settings["prompt_embeds"] = "given"
        if self.adapters:
            settings["adapters"] = self.adapters
        return settings

    def _further(self) -> dict[str, Any]:
        """What else changed the image, so that it is not drawn again without."""
        arguments = self.arguments
        found = {name: arguments.get(name) for name in _FURTHER}
        if "eta" not in inspect.signature(self.scheduler.step).parameters:
            del found["eta"]
        if not self._guided:
            of_guidance = ("guidance_rescale", "true_cfg_scale", "cfg_normalization", "cfg_truncation")
            found = {name: value for name, value in found.items() if name not in of_guidance}
        further = {name: value for name, value in found.items() if value is not None and value != _FURTHER[name]}
        # A scale of 1 is what LoRAs have unasked.
        given = [name for name in _GIVEN if arguments.get(name) and arguments[name] != {"scale": 1.0}]
        steps = arguments.get("original_inference_steps")
        if steps is not None and steps != getattr(self.scheduler.config, "original_inference_steps", None):
            given.append("original_inference_steps")
        if self._guided:
            own = arguments.get("negative_prompt") or ""
            others = ("negative_prompt_2", "negative_prompt_3")
            given += [name for name in others if arguments.get(name) and arguments[name] != own]
            if None not in (arguments.get("negative_original_size"), arguments.get("negative_target_size")):
                given.append("negative_original_size")
        return further | self._said_sizes() | dict.fromkeys(given, "given")

    def _said_sizes(self) -> dict[str, str]:
        """What SDXL was told of sizes, as attnmap writes them: the width and the left first."""
        found: dict[str, str] = {}
        for name in ("original_size", "target_size"):
            if self.arguments.get(name) is not None:
                height, width = self.arguments[name]
                found[name] = f"{width}x{height}"
        top, left = self.arguments.get("crops_coords_top_left") or (0, 0)
        if (top, left) != (0, 0):
            found["crop"] = f"{left},{top}"
        size = self.images[0]
        if found.get("target_size") == f"{size.width}x{size.height}":
            del found["target_size"]
        return found

    def seeds_own_noise(self, image: int) -> bool:
        """Whether the first noise is what the seed gives on the CPU, so that it can be drawn again from the seed."""
        if self.arguments.get("latents") is not None:
            return False
        if isinstance(self.arguments.get("generator"), (list, tuple)):
            return image < len(self._fresh) and self._fresh[image]
        # One generator draws the noise of all images, one after the other.
        return image == 0 and self._fresh[0]

    def warnings(self, image: int) -> list[str]:
        """What a reader of the run must know."""
        found = list(self.prompt(image).warnings)
        if self._seed(image) is None:
            found.append("no generator was given, so the seed is not known and stands as 0")
        if self.negative(image) and not self._guided:
            found.append("the negative prompt had no effect, as guidance was off")
        (height, width), picture = self.latent or (1, 1), self.images[image]
        if self.latent and picture.height * width != picture.width * height:
            found.append(
                "the image was cut to another shape after it was drawn, so maps lie beside their places; "
                "use_resolution_binning=False keeps the shape"
            )
        return found

    def negative(self, image: int) -> str | None:
        """The negative prompt of an image."""
        given = self.arguments.get("negative_prompt")
        if isinstance(given, (list, tuple)):
            given = given[image // self.per_prompt]
        return given or None

    def _seed(self, image: int) -> int | None:
        """The seed of the generator that an image's noise was drawn with."""
        if isinstance(self.arguments.get("generator"), (list, tuple)):
            return self._seeds[image] if image < len(self._seeds) else None
        return self._seeds[0]

    def seed(self, image: int) -> int:
        return self._seed(image) or 0


class Recorder:
    """Watches a pipeline and writes a run folder per image; made by [`record`](attnmap.record)."""

    def __init__(self, pipe: Any, *, per_step: bool, heads: str, memory: int, workspace: int):
        self.family: Family = family_of(pipe)
        self.per_step, self.heads, self.memory, self.workspace = per_step, heads, memory, workspace
        self.pipeline_name = type(pipe).__name__
        self.recordings: list[Recording] = []
        self._pipe = pipe
        denoiser = getattr(pipe, self.family.denoiser)
        self.expected = [path for path, module in denoiser.named_modules() if self.family.sites(path, module)]
        if not self.expected:
            raise RecordError(f"no attention layer of {self.family.name} is in {type(denoiser).__name__}; report this pipeline")
        known = set(self.expected)
        other = [path for path, module in denoiser.named_modules() if path not in known and _sees_text(module)]
        if self.family.kind == "cross" and other:
            raise RecordError(f"{len(other)} attention layers that see the text are not known: {', '.join(other[:3])}; report this")
        self._current: Recording | None = None
        self._stack: list[str] = []
        self._mode: AttentionMode | None = None

    def _attention(self, query: torch.Tensor, key: torch.Tensor, given: dict[str, Any]) -> None:
        if self._current is None:
            return
        if self._stack:
            self._current.observe(self._stack[-1], query, key, given)
        elif query.shape[-2] != key.shape[-2]:
            raise RecordError(
                f"an attention of {query.shape[-2]} queries and {key.shape[-2]} keys is in none of the layers that "
                f"{self.family.name} has for its text; report this pipeline"
            )

    def processor(self, path: str) -> str:
        """The name of the attention processor of a layer."""
        module = getattr(self._pipe, self.family.denoiser).get_submodule(path)
        return type(getattr(module, "processor", module)).__name__

    @contextmanager
    def _watching(self) -> Iterator[Recorder]:
        pipe = self._pipe
        denoiser = getattr(pipe, self.family.denoiser)
        with ExitStack() as stack:
            for path in self.expected:
                module = denoiser.get_submodule(path)
                push = module.register_forward_pre_hook(lambda *_, path=path: self._stack.append(path))
                pop = module.register_forward_hook(lambda *_: self._stack.pop() and None, always_call=True)
                stack.callback(push.remove)
                stack.callback(pop.remove)
            before = denoiser.register_forward_pre_hook(self._before, with_kwargs=True)
            after = denoiser.register_forward_hook(self._after, always_call=True)
            stack.callback(before.remove)
            stack.callback(after.remove)
            own = type(pipe)
            pipe.__class__ = self._watched_class(own)
            stack.callback(setattr, pipe, "__class__", own)
            yield self

    def _watched_class(self, own: type) -> type:
        recorder = self

        def call_pipeline(pipe: Any, *args: Any, **kwargs: Any) -> Any:
            if recorder._current is not None:
                return own.__call__(pipe, *args, **kwargs)  # type: ignore[misc]
            recording = Recording(recorder, pipe, _arguments(own, pipe, args, kwargs))
            recorder._current = recording
            try:
                with recording.watch:
                    output = own.__call__(pipe, *args, **kwargs)  # type: ignore[misc]
            finally:
                recorder._current = None
                recorder._stack.clear()
                recorder._leave_mode()
            recording.finish(output)
            if not recording.timesteps:
                raise RecordError("the pipeline did not call its denoiser, so there is nothing to record")
            recorder.recordings.append(recording)
            return output

        # The same name, so that nobody who asks the pipeline for its class gets another answer.
        return type(own.__name__, (own,), {"__call__": call_pipeline, "__module__": own.__module__})

    def _before(self, denoiser: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if self._current is None:
            return
        if self._current.enter(denoiser, args, kwargs):
            self._mode = AttentionMode(self._attention)
            self._mode.__enter__()

    def _leave_mode(self) -> bool:
        watched, self._mode = self._mode, None
        if watched is not None:
            watched.__exit__(None, None, None)
        return watched is not None

    def _after(self, denoiser: Any, args: Any, output: Any) -> None:
        if self._leave_mode() and self._current is not None and output is not None:
            self._current.leave()

    def save(self, folder: str | os.PathLike[str], *, force: bool = False, report: bool = True) -> list[Run]:
        """Writes a run folder per image into `folder`, each whole or not at all.

        Args:
            folder: where the run folders go, each named after its prompt and seed.
            force: replace run folders that are there already; what the user put into them stays.
            report: make the interactive page too.

        Raises:
            RecordError: when nothing was recorded, or the pipeline returned no pictures.
            FileExistsError: when a folder is there already and `force` is not set, or it is no run.
        """
        if not self.recordings:
            raise RecordError("nothing was recorded: call the pipeline inside of `with attnmap.record(pipe)`")
        parent = Path(folder)
        wanted: list[tuple[Recording, int, Path]] = []
        for recording in self.recordings:
            if not recording.images:
                raise RecordError("the pipeline returned no pictures; leave output_type at 'pil', 'np' or 'pt'")
            for image in range(len(recording.images)):
                wanted.append((recording, image, self._target(parent, recording, image, {t for _, _, t in wanted})))
        for _, _, target in wanted:
            if target.exists() and not _own.is_run(target):
                raise FileExistsError(f"{target} is there and no run of attnmap; give another folder")
            if target.exists() and not force:
                raise FileExistsError(f"{target} exists; give force=True to replace a run, or another folder")
        parent.mkdir(parents=True, exist_ok=True)
        return [self._save_one(target, recording, image, report) for recording, image, target in wanted]

    def _target(self, parent: Path, recording: Recording, image: int, taken: set[Path]) -> Path:
        name = f"{slug(recording.prompt(image).text)}-{recording.seed(image)}"
        # Images of one prompt from one generator share its seed.
        generator = recording.arguments.get("generator")
        if recording.per_prompt > 1 and not isinstance(generator, (list, tuple)):
            name += f"-{image % recording.per_prompt}"
        names = (name if again == 1 else f"{name}-again-{again}" for again in itertools.count(1))
        return next(parent / name for name in names if parent / name not in taken)

    def _save_one(self, target: Path, recording: Recording, image: int, report: bool) -> Run:
        with tempfile.TemporaryDirectory(prefix=f".{target.name}.", suffix=".partial", dir=target.parent) as partial:
            inner = Path(partial) / target.name
            inner.mkdir()
            _trace.write(inner, recording, image)
            call("view", str(inner))  # which makes the page too
            if not report:
                (inner / "report.html").unlink(missing_ok=True)
            if target.exists():
                _take_over(target, inner)
                old = Path(partial) / "old"
                os.rename(target, old)
                try:
                    os.rename(inner, target)
                except OSError:
                    os.rename(old, target)
                    raise
            else:
                os.rename(inner, target)
        if report:
            call("report", str(target))  # the page names the folder, which had another name before
        return Run(target)


def record(
    pipe: Any, *, per_step: bool = True, heads: str = "all", memory: str | float = "4 GiB", workspace: int = WORKSPACE
) -> Any:
    """Records the calls of a diffusers pipeline.

    Args:
        pipe: a pipeline of diffusers; see the README for the families.
        per_step: keep each step's maps too (mean over the heads), in a temporary file.
        heads: `all`, or `mean` to keep the mean over the heads alone.
        memory: what the sums may take on the network's device: bytes, or a text like `4 GiB`.
        workspace: bytes of attention scores that are formed at a time.

    Returns:
        A context manager that gives the [`Recorder`][attnmap.Recorder].

    Raises:
        RecordError: for a pipeline that is not known, or whose network is compiled.
    """
    if heads not in ("all", "mean"):
        raise ValueError("heads is 'all' or 'mean'")
    options = {"per_step": per_step, "heads": heads, "memory": _size(memory), "workspace": workspace}
    return Recorder(pipe, **options)._watching()  # type: ignore[arg-type]


def _arguments(own: type, pipe: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """What a pipeline is called with, by name. A class derived from it may hand on what it does not name itself."""
    found: dict[str, Any] = {}
    for call in [cls.__dict__["__call__"] for cls in own.__mro__ if "__call__" in cls.__dict__]:
        signature = inspect.signature(call)
        names = {parameter.kind: parameter.name for parameter in signature.parameters.values()}
        positions, words = (names.get(kind) for kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD))
        try:
            if found:
                known = {name: value for name, value in kwargs.items() if words or name in signature.parameters}
                bound = signature.bind_partial(pipe, *args, **known)
            else:
                bound = signature.bind(pipe, *args, **kwargs)
        except TypeError:
            if found:  # the derived class hands on something else
                break
            raise
        bound.apply_defaults()
        found = {name: value for name, value in bound.arguments.items() if name not in (positions, words)} | found
        if positions is None and words is None:
            break
        args = args if positions else ()
    return found


def _take_over(old: Path, new: Path) -> None:
    """Copies what the user put into the folder `old` to its successor `new`."""
    theirs = _own.foreign(old)
    taken = next((path for path in theirs if os.path.lexists(new / path)), None)
    if taken is not None:
        raise FileExistsError(f"{old / taken} is there and not attnmap's; move it, or give another folder")
    for path in theirs:
        if (old / path).is_dir() and not (old / path).is_symlink():
            (new / path).mkdir(parents=True, exist_ok=True)
        else:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(old / path, new / path, follow_symlinks=False)


def _is_used(pipe: Any, tokenizer: str) -> bool:
    encoder = tokenizer.replace("tokenizer", "text_encoder")
    return getattr(pipe, tokenizer, None) is not None and getattr(pipe, encoder, tokenizer) is not None


def _sees_text(module: Any) -> bool:
    """Whether a module is an attention that is given the text, by what diffusers notes at it."""
    return getattr(module, "is_cross_attention", False) is True or getattr(module, "added_kv_proj_dim", None) is not None


def _size(text: str | float) -> int:
    if isinstance(text, (int, float)):
        return int(text)
    units = {"MiB": 1 << 20, "GiB": 1 << 30, "MB": 10**6, "GB": 10**9}
    for unit, size in units.items():
        if text.strip().endswith(unit):
            return int(float(text.strip().removesuffix(unit)) * size)
    raise ValueError(f"{text!r} is no size; write it like '4 GiB' or '500 MiB'")


def _pictures(images: Any, kind: str | None) -> list[Image.Image]:
    if kind == "latent" or images is None:
        return []
    if isinstance(images, torch.Tensor):
        images = images.float().cpu().permute(0, 2, 3, 1).numpy()
    if isinstance(images, np.ndarray):
        return [Image.fromarray((255 * one).round().clip(0, 255).astype("uint8")) for one in images]
    return [one.convert("RGB") for one in images if isinstance(one, Image.Image)]


def _is_fresh(generator: torch.Generator | None) -> bool:
    """Whether nothing has been drawn from a generator of the CPU since it got its seed."""
    if generator is None or generator.device.type != "cpu":
        return False
    return torch.equal(generator.get_state(), torch.Generator().manual_seed(generator.initial_seed()).get_state())


def _adapters(pipe: Any) -> list[str]:
    """The names of the LoRAs that are switched on; those that were fused into the weights have none."""
    try:
        return list(pipe.get_active_adapters())
    except (AttributeError, ValueError):  # the pipeline takes none, or peft is not installed
        return []


def digest(path: str) -> str:
    """A name for weights that were not read here: of the folder or repository that they were loaded from."""
    return hashlib.sha256(path.encode()).hexdigest()[:16]
