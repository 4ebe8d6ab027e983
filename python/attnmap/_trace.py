"""Writes what was recorded in the format of docs/TRACE.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL.PngImagePlugin import PngInfo
from safetensors.numpy import save_file

from ._prompt import Prompt

if TYPE_CHECKING:
    from ._record import Recording

#: The format of the traces that are written here.
FORMAT_VERSION = 2


def _stage(path: str) -> str:
    for start, stage in (("down_blocks", "down"), ("mid_block", "mid"), ("up_blocks", "up")):
        if path.startswith(start):
            return stage
    return "transformer"


def sites(recording: Recording) -> list[dict[str, Any]]:
    """The sites in network order, as run.json and the trace have them."""
    own = list(recording.sites.values())
    return [
        {
            "path": site.path,
            "stage": _stage(site.path),
            "depth": float(np.float32(np.float32(index + 0.5) / np.float32(len(own)))),
            "kind": recording.owner.family.kind,
            "index": index,
            "heads": site.heads,
            "height": site.grid[0],
            "width": site.grid[1],
        }
        for index, site in enumerate(own)
    ]


def write(folder: Path, recording: Recording, image: int) -> None:
    """Writes `image.png`, `trace.safetensors` and a `run.json` that `attnmap view` completes."""
    from . import _version
    from ._record import digest

    prompt: Prompt = recording.prompt(image)
    picture = recording.images[image]
    source = str(getattr(recording.pipe.config, "_name_or_path", "") or recording.owner.pipeline_name)
    checkpoint = {"id": source, "digest": digest(source)}
    settings = recording.settings(image)
    latent = {"height": recording.latent[0], "width": recording.latent[1]} if recording.latent else {}
    size = {"height": picture.height, "width": picture.width}
    info = prompt.info()
    own = sites(recording)

    text = PngInfo()
    for key, value in (
        ("Description", prompt.text),
        ("Software", f"attnmap {_version()} for Python"),
        ("Settings", json.dumps(settings)),
        ("Checkpoint", source),
    ):
        text.add_itxt(key, value)
    picture.save(folder / "image.png", pnginfo=text)

    metadata = {
        "format_version": str(FORMAT_VERSION),
        "writer": f"attnmap {_version()} for Python",
        "prompt": prompt.text,
        "tokens": json.dumps(info["tokens"]),
        "words": json.dumps(info["words"]),
        "sites": json.dumps(own),
        "timesteps": json.dumps(recording.timesteps),
        "latent": json.dumps(latent),
        "image": json.dumps(size),
        "settings": json.dumps(settings),
        "checkpoint": json.dumps(checkpoint),
    }
    if prompt.encoders:
        metadata["encoders"] = json.dumps(prompt.encoders)
    tensors: dict[str, np.ndarray] = {}
    for site in recording.sites.values():
        tensors[f"sum/{site.path}"] = recording.sums(site, image)
        steps = recording.single_steps(site, image)
        if steps is not None:
            tensors[f"step/{site.path}"] = steps
    save_file(tensors, folder / "trace.safetensors", metadata)
    # safetensors lets the owner alone read what it writes.
    shutil.copymode(folder / "image.png", folder / "trace.safetensors")

    run = {
        "format_version": FORMAT_VERSION,
        "attnmap": _version(),
        "kind": "record",
        "command": "",
        "prompt": prompt.text,
        "negative": recording.negative(image),
        "checkpoint": checkpoint,
        "settings": settings,
        "latent": latent,
        "image": size,
        "tokens": [],
        "padding_share": 1.0,
        "words": [],
        "cut_off": prompt.cut_off,
        "warnings": recording.warnings(image),
        "aggregate": "compete",
        "display": {},
        "sites": own,
        "timesteps": recording.timesteps,
    }
    if prompt.encoders:
        run["encoders"] = prompt.encoders
    (folder / "run.json").write_text(json.dumps(run, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
