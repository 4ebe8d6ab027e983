"""Which files of a run's folder attnmap wrote, by the rules of ``src/run/own.rs``; all others are the user's."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from PIL import Image

_FILES = frozenset((
    "run.json", "image.png", "trace.safetensors", "queries.safetensors", "heatmaps.safetensors", "words.png",
    "evidence.json", "evidence.safetensors", "attribution.json", "components.json", "components.png", "cell.json",
    "thumb.jpg", "maps.png",
))  # fmt: skip
_FOLDERS = frozenset((
    "overlays", "causal", "counterfactual", "weights", "animations", "self-attention", "ties", "versus", "regions", "why",
))  # fmt: skip


def is_run(folder: Path) -> bool:
    """Whether `folder` has a `run.json` of attnmap's."""
    return _record(folder) is not None


def foreign(folder: Path) -> list[Path]:
    """What the user put into the run's `folder`: files and empty folders, by their paths in it."""
    record = _record(folder) or {}
    words = [*record.get("words", []), *record.get("probes", [])]
    named = {word.get("overlay") for word in words if isinstance(word, dict)}
    settings = record.get("settings")
    has_start = isinstance(settings, dict) and isinstance(settings.get("strength"), (int, float))
    # What another program drew keeps no picture that it set out from.
    has_start = has_start and record.get("kind") != "record"
    try:
        evidence = (folder / "evidence.json").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        evidence = ""
    found: list[Path] = []
    for place, folders, files in os.walk(folder):
        inside = Path(place).relative_to(folder)
        links = [name for name in folders if (Path(place) / name).is_symlink()]
        if not folders and not files and inside.parts and inside.as_posix() not in _FOLDERS | {"steps"}:
            found.append(inside)
        for name in [*files, *links]:
            path = inside / name
            if not _owns(folder, path, named, has_start, evidence):
                found.append(path)
    return found


def _record(folder: Path) -> dict[str, Any] | None:
    try:
        record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    known = isinstance(record, dict) and isinstance(record.get("format_version"), int)
    return record if known and isinstance(record.get("attnmap"), str) else None


def _owns(folder: Path, path: Path, named: set[Any], has_start: bool, evidence: str) -> bool:
    parts = path.parts
    if parts in (("init.png",), ("mask.png",)):
        return has_start
    # Files that others could make of a run under these names.
    if parts in (("report.html",), ("why.json",)):
        return _has_mark(folder / path)
    if len(parts) == 1:
        return parts[0] in _FILES
    if len(parts) == 2 and parts[0] == "steps":
        return re.fullmatch(r"\d+\.png", parts[1]) is not None
    if len(parts) == 2 and parts[0] in _FOLDERS:
        name = path.as_posix()
        return name in named or f'"{name}"' in evidence or _has_mark(folder / path)
    return False


def _has_mark(path: Path) -> bool:
    """Whether a file says of itself that attnmap wrote it."""
    if path.is_symlink() or not path.is_file():
        return False
    try:
        head = path.read_bytes()[:4096]
        if head.startswith(b"\x89PNG"):
            with Image.open(path) as picture:
                return "attnmap " in str(picture.info.get("Software", ""))
        if head.startswith(b"{"):
            found = json.loads(path.read_text(encoding="utf-8"))
            return isinstance(found.get("attnmap"), str) and found["attnmap"] != ""
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):  # what cannot be read is the user's
        return False
    if head.startswith(b"<svg "):
        return b"<metadata>attnmap " in head
    return head.startswith(b"<!doctype html>") and b'<meta name="generator" content="attnmap ' in head
