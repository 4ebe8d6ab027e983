"""The one error that recording raises."""


class RecordError(RuntimeError):
    """Attention that would be missed or misread: the message says which, and the way out."""
