"""Where the words of a text are, by the rules of ``src/prompt/words.rs``: a run made here has the words that ``attnmap generate`` finds."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Iterable

Range = tuple[int, int]

_IDEOGRAPHS = (
    (0x3005, 0x3007), (0x3041, 0x30FF), (0x31F0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF),
    (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip
_KATAKANA = ((0x30A1, 0x30FA), (0x30FC, 0x30FF), (0x31F0, 0x31FF), (0xFF66, 0xFF9F))
_PUNCTUATION = (
    (0x2000, 0x206F), (0x2E00, 0x2E7F), (0x3000, 0x303F), (0xFE10, 0xFE1F), (0xFE30, 0xFE6F), (0xFEFF, 0xFEFF),
    (0xFF01, 0xFF0F), (0xFF1A, 0xFF20), (0xFF3B, 0xFF40), (0xFF5B, 0xFF65), (0x37E, 0x37E), (0x387, 0x387),
    (0x589, 0x589), (0x5BE, 0x5BE), (0x60C, 0x60C), (0x61B, 0x61B), (0x61F, 0x61F), (0x66A, 0x66D), (0x6D4, 0x6D4),
    (0x964, 0x965), (0xE4F, 0xE4F), (0xE5A, 0xE5B),
)  # fmt: skip
_ASCII_PUNCTUATION = frozenset("!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~")


def _among(c: str, ranges: tuple[Range, ...]) -> bool:
    return any(first <= ord(c) <= last for first, last in ranges)


#: Symbols that Unicode counts as alphabetic: letters in circles and squares.
_ENCLOSED = ((0x24B6, 0x24E9), (0x1F130, 0x1F149), (0x1F150, 0x1F169), (0x1F170, 0x1F189))


def _is_alphanumeric(c: str) -> bool:
    # Rust's `char::is_alphanumeric`: Alphabetic or Numeric. Python's `isalpha` leaves out letter numbers and marks.
    return c.isalpha() or unicodedata.category(c) in ("Nd", "Nl", "No") or _among(c, _ENCLOSED)


def _is_mark(c: str) -> bool:
    return unicodedata.category(c).startswith("M")


def is_punctuation(c: str) -> bool:
    """Whether `c` is punctuation or a control character of any script."""
    if c in _ASCII_PUNCTUATION or unicodedata.category(c) == "Cc":
        return True
    latin = 0xA1 <= ord(c) <= 0xBF or ord(c) in (0xD7, 0xF7)
    return (latin and not _is_alphanumeric(c)) or _among(c, _PUNCTUATION)


def is_extension(c: str) -> bool:
    """Whether `c` belongs to the character before it, as a mark or a selector does."""
    own = c in "\u200c\u200d" or _among(c, ((0xFE00, 0xFE0F), (0x1F3FB, 0x1F3FF), (0xE0020, 0xE007F)))
    return _is_mark(c) or own


def _kind(c: str) -> str:
    if c.isspace() and c not in "\x1c\x1d\x1e\x1f":  # Python alone calls the separators white space
        return "space"
    if _among(c, _KATAKANA):
        return "katakana"
    if _among(c, _IDEOGRAPHS):
        return "ideograph"
    if _is_alphanumeric(c) or _is_mark(c):
        return "letter"
    return "punctuation" if is_punctuation(c) else "symbol"


def segment(text: str) -> list[Range]:
    """The words of `text` as ranges of characters, in order; every character that is not white space is in one."""
    words: list[list[int]] = []
    last, open_flag, joined = "space", False, False
    for at, c in enumerate(text):
        if is_extension(c) and last != "space":
            joined = c == "\u200d"
            words[-1][1] = at + 1
            continue
        kind = _kind(c)
        following = text[at + 1 : at + 2]
        if c in "'\u2019" and last == "letter" and following and following.isalpha():
            kind = "letter"
        indicator = 0x1F1E6 <= ord(c) <= 0x1F1FF
        if kind in ("letter", "punctuation", "katakana"):
            continues = last == kind
        else:
            continues = kind == "symbol" and last == kind and (joined or (indicator and open_flag))
        open_flag = indicator and not (continues and open_flag)
        joined, last = False, kind
        if kind == "space":
            continue
        if continues:
            words[-1][1] = at + 1
        else:
            words.append([at, at + 1])
    return [(first, end) for first, end in words]


def fit_to_tokens(words: list[Range], tokens: Iterable[Range]) -> list[Range]:
    """Joins words that a token reaches over and drops words without a token; `tokens` ascend and are not empty."""
    fitted: list[Range] = []
    at = 0
    for token in tokens:
        while at < len(words) and words[at][1] <= token[0]:
            at += 1
        cover = token
        while at < len(words) and words[at][0] < cover[1]:
            cover = (min(cover[0], words[at][0]), max(cover[1], words[at][1]))
            at += 1
        if fitted and cover[0] < fitted[-1][1]:
            fitted[-1] = (fitted[-1][0], max(fitted[-1][1], cover[1]))
        else:
            fitted.append(cover)
    return fitted


def is_punctuation_alone(word: str) -> bool:
    """Whether `word` is left out of the words that are mapped."""
    return all(is_punctuation(c) or is_extension(c) for c in word)


def _is_selector(c: str) -> bool:
    return _among(c, ((0xFE00, 0xFE0F), (0xE0100, 0xE01EF)))


def _lower(text: str) -> str:
    # One by one: for a whole text Python lets a sigma's lower case depend on its place.
    return "".join(c.lower() for c in unicodedata.normalize("NFC", text))


def normalized(text: str) -> str:
    """`text` as words are compared, by the rules of ``src/trace/spelling.rs``."""
    lower = _lower("".join(c for c in text if not _is_selector(c)))
    # A sigma at the end of a word is a sigma, as capitals have one form alone.
    return " ".join(lower.replace("ς", "σ").split())


def _is_sign(c: str) -> bool:
    return _among(c, ((0x2190, 0x27BF), (0x2900, 0x2BFF), (0x1F000, 0x1FBFF)))


def _is_visible(c: str) -> bool:
    formats = ((0xAD, 0xAD), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F), (0xFEFF, 0xFEFF), (0xE0000, 0xE0FFF))
    control = unicodedata.category(c) == "Cc"
    return not (c.isspace() or control or _is_alphanumeric(c) or _is_mark(c) or _among(c, formats))


def slug(text: str) -> str:
    """What is left of `text` in a folder's name, as ``src/run/name.rs`` has it."""
    # Punctuation alone is better than nothing.
    return _shortened(text, _is_sign) or _shortened(text, _is_visible) or "untitled"


def _shortened(text: str, numbered: Callable[[str], bool]) -> str:
    parts: list[str] = []
    for c in _lower(text):
        if _is_selector(c):
            continue
        parts.append(f"-u{ord(c):x}-" if numbered(c) else c)
    out = ""
    for c in "".join(parts):
        letter = _is_alphanumeric(c) or (_is_mark(c) and out not in ("",) and not out.endswith("-"))
        c = c if letter else "-"
        if c == "-" and (not out or out.endswith("-")):
            continue
        if len(out) == 60 or len((out + c).encode()) > 160:
            if c != "-" and "-" in out:
                out = out[: out.rfind("-")]
            break
        out += c
    return out.rstrip("-")
