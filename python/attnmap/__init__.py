"""Record where a diffusers pipeline looked for every word of a prompt.

    import attnmap

    with attnmap.record(pipe) as recorder:
        images = pipe("a red apple to the left of a green frog").images
    runs = recorder.save("outputs")
    runs[0].show()

Attention describes what a head looked at; it does not explain why the model decided.
"""

from importlib.metadata import PackageNotFoundError, version

from ._errors import RecordError
from ._record import Recorder, record
from ._run import Run, program



def _version() -> str:
    try:
        return version("attnmap")
    except PackageNotFoundError:
        return "0.1.0"


__version__ = _version()

__all__ = ["RecordError", "Recorder", "Run", "program", "record"]
