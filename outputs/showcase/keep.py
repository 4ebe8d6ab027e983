"""Keeps a picture of this folder: a part of it, at most so wide, in 256 colours.

    python keep.py PICTURE OUT [LEFT,TOP,RIGHT,BOTTOM [WIDTH]]
"""

import sys
from pathlib import Path

from PIL import Image


def keep(picture: Image.Image, out: Path | str, part: tuple[int, ...] = (), widest: int = 0) -> None:
    picture = picture.convert("RGB")
    if part:
        picture = picture.crop(part)
    if widest and picture.width > widest:
        picture = picture.resize((widest, picture.height * widest // picture.width), Image.Resampling.LANCZOS)
    palette = picture.quantize(256)
    picture.quantize(palette=palette, dither=Image.Dither.FLOYDSTEINBERG).save(out, optimize=True)


if __name__ == "__main__":
    source, target, part, widest = (sys.argv[1:] + ["", ""])[:4]
    keep(Image.open(source), target, tuple(map(int, part.split(","))) if part else (), int(widest or 0))
