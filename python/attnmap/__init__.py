"""Record where a diffusers pipeline looked for every word of a prompt.

    import attnmap

    with attnmap.record(pipe) as recorder:
        images = pipe("a red apple to the left of a green frog").images
    runs = recorder.save("outputs")
    runs[0].show()

Attention describes what a head looked at; it does not explain why the model decided.
"""

from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

from ._errors import RecordError
from ._run import Run, program

if TYPE_CHECKING:
    from ._record import Recorder, record


def _version() -> str:
    try:
        return version("attnmap")
    except PackageNotFoundError:
        return "0.1.0"


def __getattr__(name: str) -> Any:
    # Run folders are read without torch, which is imported when something is to be recorded.
    if name not in ("Recorder", "record"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        from . import _record
    except ModuleNotFoundError as error:
        raise ImportError(f"attnmap.{name} needs torch and diffusers, and there is no {error.name}: pip install {error.name}") from error
    return getattr(_record, name)


__version__ = _version()

__all__ = ["RecordError", "Recorder", "Run", "program", "record"]
