"""Makes the small tokenizer: CLIP's byte-level BPE, cut to its first 900 merges plus those that the world's words need.

    python tokenizer.py --merges ../models/clip/merges.txt.gz --out work/init/tokenizer

`--merges` is the merges.txt of CLIP, as it is or packed by gzip. Every word of the world becomes one
token, any other text still encodes into smaller pieces, and ids are ordered as CLIP orders them: bytes, bytes that end a
word, merges, <|startoftext|>, <|endoftext|>.
"""
import argparse
import gzip
import json
from pathlib import Path

from transformers import CLIPTokenizer

import world

KEPT = 900  # of CLIP's merges, most frequent first
LENGTH = 32  # model_max_length: captions have at most 26 tokens, and 77 costs a sixth more time


def byte_letters() -> list[str]:
    """GPT-2's printable stand-ins for the 256 bytes, in CLIP's order."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in printable]
    return [chr(b) for b in printable] + [chr(256 + i) for i in range(len(others))]


def merges_of(word: str, rank: dict[tuple[str, str], int]) -> tuple[list[tuple[str, str]], list[str]]:
    """The merges that BPE applies to one word, in order, and the pieces that are left."""
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
    return used, pieces


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--merges", required=True)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    data = Path(a.merges).read_bytes()
    text = (gzip.decompress(data) if a.merges.endswith(".gz") else data).decode("utf-8")
    lines = [x for x in text.splitlines() if x and not x.startswith("#version")]
    merges = [tuple(x.split()) for x in lines]
    rank = {pair: i for i, pair in enumerate(merges)}
    needed = set(range(min(KEPT, len(merges))))
    added = []  # merges of our own, for words that CLIP has in two pieces
    for word in world.VOCABULARY:
        used, pieces = merges_of(word, rank)
        needed.update(rank[pair] for pair in used)
        while len(pieces) > 1:
            added.append((pieces[0], pieces[1]))
            pieces[:2] = ["".join(pieces[:2])]
    kept = [merges[i] for i in sorted(needed)] + added
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
