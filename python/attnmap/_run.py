"""A finished run's folder: its files as numbers, and the commands of `attnmap` that read it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import webbrowser
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from safetensors import safe_open


def program() -> str:
    """The `attnmap` program: that of the environment variable `ATTNMAP`, the one installed with this module, or the first in `PATH`.

    Raises:
        FileNotFoundError: when there is none.
    """
    own = os.environ.get("ATTNMAP")
    if own:
        return own
    name = "attnmap.exe" if sys.platform == "win32" else "attnmap"
    for folder in (Path(sys.executable).parent, Path(sysconfig.get_path("scripts"))):
        if (folder / name).is_file():
            return str(folder / name)
    found = shutil.which("attnmap")
    if found is None:
        raise FileNotFoundError("no attnmap program: install this package with `pip install .`, or set ATTNMAP to it")
    return found


def call(*arguments: str) -> str:
    """Runs `attnmap` and returns what it prints.

    Raises:
        RuntimeError: with its message when it fails.
    """
    done = subprocess.run([program(), *arguments], capture_output=True, text=True, encoding="utf-8")
    if done.returncode != 0:
        raise RuntimeError(done.stderr.strip() or done.stdout.strip())
    return done.stdout


class Words(Mapping[str, np.ndarray]):
    """A run's maps by word: `words["frog"]` is f32 `[height, width]` on the latent grid, mean attention probability of a step.

    They are made as the run's `aggregate` says: `concept` and `goca` have other units (docs/NUMBERS.md).
    A word that the prompt repeats is `apple`, then `apple#2`.
    """

    def __init__(self, folder: Path):
        with safe_open(folder / "heatmaps.safetensors", framework="np") as file:
            metadata = file.metadata()
            maps = file.get_tensor("words")
        steps = max(float(metadata["steps"]), 1.0)
        self._maps: dict[str, np.ndarray] = {}
        for word, values in zip(json.loads(metadata["words"]), maps):
            name = word["text"] if word["occurrence"] == 1 else f"{word['text']}#{word['occurrence']}"
            self._maps[name] = values / np.float32(steps)

    def __getitem__(self, word: str) -> np.ndarray:
        if word in self._maps:
            return self._maps[word]
        raise KeyError(f"no word {word!r}; the prompt has {', '.join(self._maps)}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._maps)

    def __len__(self) -> int:
        return len(self._maps)


class Run:
    """A run folder."""

    def __init__(self, folder: str | os.PathLike[str]):
        self.folder = Path(folder)

    def __repr__(self) -> str:
        return f"attnmap.Run({str(self.folder)!r})"

    @property
    def record(self) -> dict[str, Any]:
        """What `run.json` says."""
        return json.loads((self.folder / "run.json").read_text(encoding="utf-8"))

    @property
    def image(self) -> Image.Image:
        """The image."""
        return Image.open(self.folder / "image.png")

    @property
    def words(self) -> Words:
        """The maps by word."""
        return Words(self.folder)

    @property
    def report(self) -> Path:
        """The interactive page: one file that needs nothing else."""
        return self.folder / "report.html"

    def facts(self) -> dict[str, Any]:
        """What the maps tell of the layout, as `attnmap facts` prints it."""
        return json.loads(call("facts", str(self.folder), "--json"))

    def ask(
        self, at: tuple[float, float] | None = None, box: tuple[float, float, float, float] | None = None
    ) -> list[dict[str, Any]]:
        """The words ranked by their attention at a pixel `(x, y)` or in a box `(x, y, width, height)`."""
        if (at is None) == (box is None):
            raise ValueError("give at=(x, y) or box=(x, y, width, height)")
        place = ("--at", at) if at is not None else ("--box", box)
        return json.loads(call("ask", str(self.folder), place[0], ",".join(f"{n:g}" for n in place[1] or ()), "--json"))

    def check(self) -> list[dict[str, str]]:
        """What is wrong with the folder, by docs/TRACE.md; nothing when it is as it should be."""
        done = subprocess.run(
            [program(), "check", str(self.folder), "--json"], capture_output=True, text=True, encoding="utf-8"
        )
        if done.returncode not in (0, 1) or not done.stdout:
            raise RuntimeError(done.stderr.strip())
        return json.loads(done.stdout)[0]["faults"]

    def show(self) -> Any:
        """The page: inside a notebook, else in the browser.

        Raises:
            FileNotFoundError: when the run was saved without its page.
        """
        if not self.report.is_file():
            raise FileNotFoundError(f"{self.report} is not there: `attnmap report {self.folder}` makes it")
        try:
            from IPython import get_ipython
            from IPython.display import IFrame

            if get_ipython() is not None:
                return IFrame(os.path.relpath(self.report), width="100%", height=900)
        except ImportError:
            pass
        webbrowser.open(self.report.resolve().as_uri())
        return None
