"""Makes the small tokenizer: CLIP's byte-level BPE, cut to its first 900 merges plus those that the world's words need.

    python tokenizer.py --merges clip/merges.txt --out work/tokenizer

`--merges` is the merges.txt of CLIP (the tokenizer folder of any Stable Diffusion 1.x checkpoint has it). Every word of the world becomes one
token, any other text still encodes into smaller pieces, and ids are ordered as CLIP orders them: bytes, bytes that end a
word, merges, <|startoftext|>, <|endoftext|>.
"""
import argparse
import json
from pathlib import Path

from transformers import CLIPTokenizer

import world

KEPT = 900  # of CLIP's merges, most frequent first
LENGTH = 32  # model_max_length: captions have at most 16 tokens, and 77 costs a sixth more time
# Words of a larger world that the first checkpoint knew; they stay, so that its text encoder can be trained on.
EARLIER = """cat dog tree ball rocket cup mushroom pumpkin duck cake star balloon car book yellow orange brown white small big two and with
there is picture sky ground flower plain background meadow under room""".split()


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def merges_of(word: str, rank: dict[tuple[str, str], int]) -> list[tuple[str, str]]:
    """The merges that BPE applies to one word, in order."""
    pieces = [*word[:-1], word[-1] + "</w>"]
    used = []
    while len(pieces) > 1:
        pair = min(zip(pieces, pieces[1:]), key=lambda p: rank.get(p, len(rank)))
        if pair not in rank:
            break
        used.append(pair)
        i = 0
        while i < len(pieces) - 1:
            if (pieces[i], pieces[i + 1]) == pair:
                pieces[i : i + 2] = ["".join(pair)]
            i += 1
    return used


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--merges", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    lines = [x for x in Path(a.merges).read_text("utf-8").splitlines() if x and not x.startswith("#version")]
    merges = [tuple(x.split()) for x in lines]
    rank = {pair: i for i, pair in enumerate(merges)}
    needed = set(range(min(KEPT, len(merges))))
    for word in [*world.VOCABULARY, *EARLIER]:
        needed.update(rank[pair] for pair in merges_of(word, rank))
    kept = [merges[i] for i in sorted(needed)]
    letters = byte_letters()
    entries = [*letters, *(x + "</w>" for x in letters), *("".join(m) for m in kept), "<|startoftext|>", "<|endoftext|>"]
    vocab = {entry: i for i, entry in enumerate(entries)}
    out = Path(a.out)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = CLIPTokenizer(vocab=vocab, merges=kept, model_max_length=LENGTH)
    tokenizer.save_pretrained(out)
    (out / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), "utf-8")
    (out / "merges.txt").write_text("#version: 0.2\n" + "".join(f"{x} {y}\n" for x, y in kept), "utf-8")
    whole = CLIPTokenizer.from_pretrained(out)
    for word in world.VOCABULARY:
        assert len(whole(word).input_ids) == 3, f"{word!r} is not one token"
    print(f"{len(vocab)} entries, {len(kept)} merges")


if __name__ == "__main__":
    main()
