"""From a prompt's characters to the tokens of its encoders, and from those to the keys of the denoiser.

What a pipeline gives its tokenizers is caught while it encodes, so that chat templates, system prompts, lower case and
truncation need not be imitated: the prompt is found again in the text that was cut into tokens.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from ._errors import RecordError
from ._words import Range, fit_to_tokens, is_extension, is_punctuation_alone, normalized, segment


@dataclass
class Encoding:
    """One text as a tokenizer cut it while the pipeline encoded."""

    text: str
    ids: list[int]
    mask: list[int]
    #: Characters of `text` per token.
    offsets: list[Range]


@dataclass
class Token:
    """One token of the prompt, or a start or end token."""

    id: int
    text: str
    kind: str
    #: Characters of the prompt.
    range: Range
    #: Its position among its encoder's tokens.
    position: int


@dataclass
class Prompt:
    """A prompt as the denoiser saw it."""

    text: str
    tokens: list[Token] = field(default_factory=list)
    #: Key of each token, among the text keys.
    keys: list[int] = field(default_factory=list)
    words: list[dict[str, Any]] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    #: Encoders whose states lie side by side at the same keys, each with its own tokens (SDXL).
    encoders: list[dict[str, Any]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def info(self) -> dict[str, Any]:
        """The prompt as a trace's metadata has it."""
        return {"text": self.text, "tokens": token_infos(self.text, self.tokens), "words": self.words}


def token_infos(text: str, tokens: Sequence[Token]) -> list[dict[str, Any]]:
    """Tokens as a trace has them, with ranges in bytes of `text`."""
    at = _bytes(text)
    return [
        {"id": t.id, "text": t.text, "kind": t.kind, "start": at[t.range[0]], "end": at[t.range[1]]} for t in tokens
    ]


def _bytes(text: str) -> list[int]:
    """Byte offset of every character of `text`, and of its end."""
    offsets = [0]
    for c in text:
        offsets.append(offsets[-1] + len(c.encode()))
    return offsets


class TokenizerWatch:
    """Notes what some tokenizers are given while it is entered."""

    def __init__(self, tokenizers: dict[str, Any]):
        # One tokenizer may stand under two names.
        self._names: dict[int, list[str]] = {}
        for name, tokenizer in tokenizers.items():
            self._names.setdefault(id(tokenizer), []).append(name)
        self._restore: list[tuple[type, Any]] = []
        self._busy = False
        #: Tokenizer's name to encodings, in the order of the calls.
        self.seen: dict[str, list[Encoding]] = {name: [] for name in tokenizers}
        self._tokenizers = tokenizers

    def __enter__(self) -> TokenizerWatch:
        for owner in {_owner(type(t)) for t in self._tokenizers.values()}:
            original = owner.__dict__["__call__"]
            self._restore.append((owner, original))
            owner.__call__ = self._wrapped(original)
        return self

    def __exit__(self, *_: object) -> None:
        for owner, original in reversed(self._restore):
            owner.__call__ = original
        self._restore.clear()

    def _wrapped(self, original: Callable[..., Any]) -> Callable[..., Any]:
        watch = self

        def call(tokenizer: Any, *args: Any, **kwargs: Any) -> Any:
            output = original(tokenizer, *args, **kwargs)
            names = watch._names.get(id(tokenizer), [])
            texts = args[0] if args else kwargs.get("text")
            if names and not watch._busy and isinstance(texts, (str, list, tuple)):
                watch._busy = True
                try:
                    watch._note(names, tokenizer, original, texts, args[1:], kwargs, output)
                finally:
                    watch._busy = False
            return output

        return call

    def _note(
        self, names: list[str], tokenizer: Any, original: Any, texts: Any, rest: Any, kwargs: Any, output: Any
    ) -> None:
        texts = [texts] if isinstance(texts, str) else list(texts)
        if not all(isinstance(text, str) for text in texts):
            return
        again = {k: v for k, v in kwargs.items() if k not in ("text", "return_tensors", "return_offsets_mapping")}
        try:
            cut = original(tokenizer, texts, *rest, **again, return_offsets_mapping=True)
            offsets = cut["offset_mapping"]
        except (NotImplementedError, KeyError):
            offsets = None
        ids = _lists(output["input_ids"])
        masks = _lists(output["attention_mask"]) if "attention_mask" in output else [[1] * len(row) for row in ids]
        for row, text in enumerate(texts):
            if offsets is None:
                spans = _spelt(tokenizer, text, ids[row])
            else:
                spans = [tuple(span) for span in offsets[row]]
            for name in names:
                self.seen[name].append(Encoding(text, ids[row], masks[row], spans))


def _spelt(tokenizer: Any, text: str, ids: list[int]) -> list[Range]:
    """Offsets of a tokenizer that does not tell them: each token is looked for after the one before it.

    Tokens that are bytes of one character are looked for together, and share its place.
    """
    spans: list[Range] = [(0, 0)] * len(ids)
    at = 0
    special = set(tokenizer.all_special_ids)
    waiting: list[int] = []
    for position, token in enumerate(ids):
        spans[position] = (at, at)
        if token in special:
            waiting.clear()
            continue
        for own in ([position], [*waiting, position]):
            piece = tokenizer.decode([ids[p] for p in own]).strip()
            found = text.find(piece, at) if piece else -1
            # What lies between two tokens is white space, or what a normalizer took away.
            if found >= 0 and found - at <= 8:
                for p in own:
                    spans[p] = (found, found + len(piece))
                at = found + len(piece)
                waiting.clear()
                break
        else:
            waiting = [*waiting, position][-8:]
    return spans


def _owner(cls: type) -> type:
    return next(base for base in cls.__mro__ if "__call__" in base.__dict__)


def _lists(rows: Any) -> list[list[int]]:
    rows = rows.tolist() if hasattr(rows, "tolist") else list(rows)
    return rows if rows and isinstance(rows[0], list) else [rows]


@dataclass(frozen=True)
class Encoder:
    """An encoder whose states are keys: where its tokenizer is, and at which text key a token's state lies."""

    tokenizer: str
    #: Position of a token and its encoding to the text key; `None` where the denoiser does not see it.
    key: Callable[[int, Encoding], int | None]
    #: Whether its states lie in the channels beside those of the encoder before it, at the same keys.
    beside: bool = False


def find(prompts: Sequence[str], encodings: Sequence[Encoding]) -> list[Encoding]:
    """The encoding of each prompt, empty when one has none.

    Pipelines encode the prompts in order, and the negative ones after them. So a prompt is looked for behind the one before
    it, which tells prompts apart that hold one another.
    """
    found: list[Encoding] = []
    at = 0
    for prompt in prompts:
        for inside in (lambda text: prompt in text, lambda text: _plain(prompt) in _plain(text), lambda _: True):
            place = next((i for i in range(at, len(encodings)) if inside(encodings[i].text)), None)
            if place is not None:
                break
        if place is None:
            return []
        found.append(encodings[place])
        at = place + 1
    return found


def _plain(text: str) -> str:
    return " ".join(text.lower().split())


def _places(prompt: str, text: str) -> list[int | None]:
    """The prompt's character for each of `text`, which holds the prompt, perhaps changed; `None` outside of it."""
    for variant in (prompt, prompt.strip(), prompt.lower().strip()):
        at = _behind_template(variant, text)
        if variant and at >= 0 and (variant in prompt or len(prompt.lower()) == len(prompt)):
            first = prompt.find(prompt.strip()[:1]) if variant != prompt else 0
            inside = range(first, first + len(variant))
            return [None] * at + list(inside) + [None] * (len(text) - at - len(variant))
    places: list[int | None] = [None] * len(text)
    matcher = difflib.SequenceMatcher(None, prompt.lower(), text.lower(), autojunk=False)
    for a, b, size in matcher.get_matching_blocks():
        for offset in range(size):
            if a + offset < len(prompt) and b + offset < len(text):
                places[b + offset] = a + offset
    return places


def _behind_template(prompt: str, text: str) -> int:
    """Where `prompt` is in `text`: the last place at the end of the text or of a message, else the last place at all."""
    place = text.rfind(prompt)
    while prompt and place >= 0:
        after = text[place + len(prompt) :]
        if not after.strip() or after.startswith("<|"):
            return place
        place = text.rfind(prompt, 0, place + len(prompt) - 1)
    return text.rfind(prompt)


def read(
    prompts: Sequence[str], encoders: Sequence[Encoder], seen: dict[str, list[Encoding]], tokenizers: dict[str, Any]
) -> list[Prompt]:
    """The tokens, keys and words of each prompt.

    Raises:
        RecordError: when no tokenizer was given the prompts.
    """
    # A pipeline may be loaded without one of its encoders.
    own = [encoder for encoder in encoders if tokenizers.get(encoder.tokenizer) is not None]
    found = {encoder.tokenizer: find(prompts, seen.get(encoder.tokenizer, [])) for encoder in own}
    for name, encodings in found.items():
        if not encodings:
            raise RecordError(f"the pipeline did not give the prompt to its {name}; report this pipeline")
    return [
        _read(prompt, own, {name: encodings[index] for name, encodings in found.items()}, tokenizers)
        for index, prompt in enumerate(prompts)
    ]


def _read(prompt: str, encoders: Sequence[Encoder], found: dict[str, Encoding], tokenizers: dict[str, Any]) -> Prompt:
    out = Prompt(prompt)
    covered: list[Range] = segment(prompt)
    whole = list(covered)
    beside: list[dict[str, Any]] = []
    for encoder in encoders:
        tokenizer, encoding = tokenizers[encoder.tokenizer], found[encoder.tokenizer]
        tokens = _tokens(prompt, encoding, tokenizer)
        ranges = [token.range for token in tokens if token.kind == "text" and token.range[0] < token.range[1]]
        if encoder.beside or (beside == [] and any(e.beside for e in encoders)):
            beside.append({
                "name": encoder.tokenizer.replace("tokenizer", "text_encoder"),
                "tokens": token_infos(prompt, tokens),
                "padding": _padding_id(encoding, tokens),
            })  # fmt: skip
        if encoder.beside:
            continue
        covered = fit_to_tokens(covered, sorted(ranges)) if not out.tokens else _joined(covered, ranges)
        for token in tokens:
            key = encoder.key(token.position, encoding)
            if key is not None:
                out.tokens.append(token)
                out.keys.append(key)
    out.encoders = beside if len(beside) > 1 else []
    out.words = _words(prompt, covered, out.tokens)
    seen_ends = [word[1] for word in covered]
    last = max(seen_ends, default=0)
    # A word of which the tokenizer had no room for the end is not all seen either.
    full = any(all(found[encoder.tokenizer].mask) for encoder in encoders)
    read = max((token.range[1] for token in out.tokens if token.kind == "text"), default=0) if full else last
    cut = [prompt[a:b] for a, b in whole if a >= last or (a < read < b and not all(map(is_extension, prompt[read:b])))]
    out.cut_off = [word for word in cut if not is_punctuation_alone(word)]
    lost = [prompt[a:b] for a, b in whole if a < last and not any(a < end and first < b for first, end in covered)]
    lost = [word for word in lost if not is_punctuation_alone(word)]
    if lost:
        out.warnings.append(f"the tokenizer has no token for {', '.join(lost)}, so the network did not see it")
    return out


def _joined(words: list[Range], ranges: list[Range]) -> list[Range]:
    """`words` where those that one of `ranges` reaches over are one, and what no word covers is added."""
    out: list[Range] = []
    for word in sorted(words + ranges):
        if out and word[0] < out[-1][1]:
            out[-1] = (out[-1][0], max(out[-1][1], word[1]))
        else:
            out.append(word)
    return out


def _padding_id(encoding: Encoding, tokens: list[Token]) -> int | None:
    after = max((token.position for token in tokens), default=-1) + 1
    return encoding.ids[after] if after < len(encoding.ids) else None


def _tokens(prompt: str, encoding: Encoding, tokenizer: Any) -> list[Token]:
    """The tokens of `encoding` that are the prompt's, with the start token before and the first end token after them."""
    places = _places(prompt, encoding.text)
    special = set(tokenizer.all_special_ids) - {getattr(tokenizer, "unk_token_id", None)}
    added = set(getattr(tokenizer, "added_tokens_encoder", {}))
    names = tokenizer.convert_ids_to_tokens(encoding.ids)
    starts = {getattr(tokenizer, name, None) for name in ("bos_token_id", "cls_token_id")} - {None}
    ends = {getattr(tokenizer, name, None) for name in ("eos_token_id", "sep_token_id")} - {None}
    found: list[Token] = []
    last: Range = (0, 0)
    first_open = next((i for i, m in enumerate(encoding.mask) if m), 0)
    for position, (token, span) in enumerate(zip(encoding.ids, encoding.offsets)):
        if not encoding.mask[position]:
            continue
        name = str(names[position])
        if token in special and name not in prompt:
            if token in starts and position == first_open:
                found.append(Token(token, name, "start", (0, 0), position))
            continue
        own = [places[at] for at in range(*span) if at < len(places) and places[at] is not None]
        own = [at for at in own if not prompt[at].isspace()]
        vector = re.fullmatch(r"(.+)_\d+", name.removesuffix("</w>"))
        if vector and name.removesuffix("</w>") in added and found and found[-1].kind == "text":
            # A further vector of a textual inversion belongs to the word that it stands for.
            found.append(Token(token, name, "text", last, position))
        elif own:
            last = (min(own), max(own) + 1)
            found.append(Token(token, name, "text", last, position))
    after = max((token.position for token in found), default=-1) + 1
    while after < len(encoding.ids) and _is_space(encoding, after):
        after += 1
    if after < len(encoding.ids) and encoding.ids[after] in ends:
        found.append(Token(encoding.ids[after], str(names[after]), "end", (len(prompt), len(prompt)), after))
    return found


def _is_space(encoding: Encoding, position: int) -> bool:
    first, end = encoding.offsets[position]
    return first < end and encoding.text[first:end].isspace()


def _words(prompt: str, ranges: list[Range], tokens: list[Token]) -> list[dict[str, Any]]:
    at = _bytes(prompt)
    words: list[dict[str, Any]] = []
    times: dict[str, int] = {}
    for first, end in ranges:
        text = prompt[first:end]
        own = [
            index
            for index, token in enumerate(tokens)
            if token.kind == "text" and token.range[0] < end and token.range[1] > first
        ]
        if not own:
            continue
        key = normalized(text)
        times[key] = times.get(key, 0) + 1
        if not is_punctuation_alone(text):
            word = {"text": text, "start": at[first], "end": at[end], "tokens": own, "occurrence": times[key]}
            words.append(word)
    return words


def without_words(count: int) -> Prompt:
    """A prompt that was given as embeddings: `count` keys and no words."""
    tokens = [Token(0, f"embedding {i}", "text", (0, 0), i) for i in range(count)]
    warning = "the prompt was given as embeddings, so its words are not known"
    return Prompt("", tokens, list(range(count)), warnings=[warning])
