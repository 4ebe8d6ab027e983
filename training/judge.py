"""Finds the world's things in an image by sprite matching, with thresholds fixed in advance.

The thresholds were chosen on rendered scenes, before any checkpoint of this world was judged. `test_judge.py` keeps them honest: every
thing of a rendered scene is found with its colour and size, nothing else is, and duplicates (overlapping ones too), wrong colours and
sizes, blobs and missing things count.
"""
from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

import world

MATCH = 0.75  # least score of a thing
BLOB = 150  # least area, px, of something drawn beside the found things that counts as an extra one (half a small thing leaves more)
DIFFERENT = 0.12  # least colour difference from the background, mean of |RGB| in 0..1, of a drawn pixel
APART = 32  # two finds whose centres lie closer than this, px, are the same thing
FAR = 32  # a relation is true when the centres lie at least this far apart along its axis, px


@dataclass(frozen=True)
class Found:
    noun: str
    colour: str | None
    size: str | None
    x: int  # the sprite's top left corner, px
    y: int
    score: float

    @property
    def centre(self) -> tuple[float, float]:
        """(y, x), px."""
        half = world.SIZES[self.size] / 2
        return self.y + half, self.x + half

    def __str__(self) -> str:
        return " ".join(w for w in (self.size, self.colour, self.noun) if w)


@dataclass(frozen=True)
class Verdict:
    found: tuple[Found, ...]
    blobs: int  # things drawn that are no known thing
    things: bool  # every named thing, as often as it was asked for, and nothing more; colours and sizes left aside
    colours: bool | None  # every thing has the colour that was asked for; None where none was
    sizes: bool | None  # every thing called small or big is; None where none was
    relation: bool | None  # None for prompts that name none
    place: bool  # the background is the one that was asked for

    @property
    def right(self) -> bool:
        return self.things and self.place and not any(part is False for part in (self.colours, self.sizes, self.relation))


CELL = 2  # matching is done on means of 2 x 2 px, four times faster
PAD = 8  # things may reach this many cells out of the image
RING = 2  # the match also looks at a ring of background this many cells wide around the sprite
SIDE = fft.next_fast_len(world.SIZE // CELL + 2 * PAD, real=True)


def _pool(a: np.ndarray) -> np.ndarray:
    h, w, c = a.shape
    return a.reshape(h // CELL, CELL, w // CELL, CELL, c).mean((1, 3), dtype=np.float32)


def _pad(a: np.ndarray) -> np.ndarray:
    return np.pad(a, ((PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")


def _forward(a: np.ndarray) -> np.ndarray:
    return fft.rfft2(a.astype(np.float32), (SIDE, SIDE), axes=(0, 1))


@lru_cache(maxsize=None)
def _templates() -> tuple[np.ndarray, ...]:
    """For each sprite the transforms of its weights, alpha and colours in the combinations that `scores` needs."""
    parts, squares = [], []
    for sprite in world.SPRITES:
        rgba = _pool(world.sprite(*sprite))
        alpha, rgb = rgba[..., 3], rgba[..., :3]
        weight = ndimage.binary_dilation(alpha >= 0.5, iterations=RING).astype(np.float32)
        planes = (weight, weight * alpha, weight * alpha**2)
        colours = (weight[..., None] * rgb, (weight * alpha)[..., None] * rgb)
        parts.append(np.conj(_forward(np.concatenate([np.stack(planes, -1), *colours], -1))))
        squares.append(float((weight[..., None] * rgb**2).sum()))
    return np.stack(parts).transpose(3, 0, 1, 2).copy(), np.array(squares, np.float32)


@lru_cache(maxsize=None)
def _contrast(place: str) -> np.ndarray:
    """[sprites, y, x]: |place - sprite on the place|^2."""
    (w, wa, waa, *colours), squares = _templates()
    back = _pad(_pool(world.background(place)))
    f2, f = _forward((back**2).sum(-1)[..., None])[..., 0], _forward(back)
    spectrum = f2 * waa - 2 * sum(f[..., c] * colours[3 + c] for c in range(3))
    return fft.irfft2(spectrum, (SIDE, SIDE)) + squares[:, None, None]


def scores(image: np.ndarray, place: str) -> np.ndarray:
    """[sprites, y, x]: how well each sprite with its top left corner at CELL * (y - PAD, x - PAD) px explains the image.

    1 - |image - sprite on the place|^2 / |place - sprite on the place|^2, summed over the sprite and a ring around it: 1 for the
    very sprite, 0 for bare background, less than 0 for something else, and -1 where the sprite reaches too far out.
    """
    (w, wa, _, *colours), squares = _templates()
    back = _pad(_pool(world.background(place)))
    drawn = _pad(_pool(image)) - back
    f_drawn = _forward(drawn)
    f_drawn2, f_both = (_forward(a.sum(-1)[..., None])[..., 0] for a in (drawn**2, drawn * back))
    spectrum = f_drawn2 * w + 2 * f_both * wa - 2 * sum(f_drawn[..., c] * colours[c] for c in range(3))
    contrast = _contrast(place)
    out = -fft.irfft2(spectrum, (SIDE, SIDE)) / contrast  # 1 - (left + contrast) / contrast
    for i, (_, _, size) in enumerate(world.SPRITES):
        last = world.SIZE // CELL + 2 * PAD - world.SIZES[size] // CELL + 1
        out[i, last:], out[i, :, last:] = -1, -1
    return out


def _covered(found: list[Found], spread: int) -> np.ndarray:
    """[128, 128] bool: where these things are drawn, and `spread` px around them."""
    covered = np.zeros((world.SIZE, world.SIZE), bool)
    for f in found:
        ys, xs = np.nonzero(world.sprite(f.noun, f.colour, f.size)[..., 3] >= 0.1)
        ys, xs = ys + f.y, xs + f.x
        inside = (ys >= 0) & (ys < world.SIZE) & (xs >= 0) & (xs < world.SIZE)
        covered[ys[inside], xs[inside]] = True
    return ndimage.binary_dilation(covered, iterations=spread)


def find(image: np.ndarray, place: str, threshold: float = MATCH) -> list[Found]:
    """Every thing in an image [128, 128, 3] of floats in 0..1 of a place, best match first; what is found is painted over."""
    out: list[Found] = []
    halves = np.array([world.SIZES[size] / 2 for _, _, size in world.SPRITES])
    corner = CELL * (np.arange(world.SIZE // CELL + 2 * PAD) - PAD)
    while True:
        s = scores(image, place)[:, : len(corner), : len(corner)]
        for f in out:
            for half in set(halves):
                near = [np.flatnonzero(np.abs(corner + half - c) < APART) for c in f.centre]
                s[np.ix_(halves == half, *near)] = -1
        i, y, x = np.unravel_index(np.argmax(s), s.shape)
        if s[i, y, x] < threshold:
            return out
        out.append(Found(*world.SPRITES[i], int(corner[x]), int(corner[y]), float(s[i, y, x])))
        image = np.where(_covered(out[-1:], 2)[..., None], world.background(place), image)


def place_of(image: np.ndarray) -> str:
    """The place whose painting is nearest (things cover less than half of it)."""
    return min(world.PLACES, key=lambda p: np.median(np.abs(image - world.background(p)).mean(-1)))


def _blobs(image: np.ndarray, place: str, found: list[Found]) -> int:
    drawn = (np.abs(image - world.background(place)).mean(-1) > DIFFERENT) & ~_covered(found, 4)
    labels, count = ndimage.label(ndimage.binary_opening(drawn))
    return int((np.bincount(labels.ravel())[1:] >= BLOB).sum()) if count else 0


def _stands(a: Found, b: Found, relation: str) -> bool:
    """Whether `a` stands so as seen from `b`."""
    (ay, ax), (by, bx) = a.centre, b.centre
    dx, dy = ax - bx, ay - by
    if relation == "beside":
        return abs(dx) >= FAR and abs(dx) > abs(dy)
    step = {"left": -dx, "right": dx, "above": -dy, "below": dy}[relation]
    return step >= FAR and (step > abs(dy if relation in ("left", "right") else dx))


def _relation(scene: world.Scene, found: list[Found]) -> bool | None:
    """By nouns. Of three, the first two stand beside each other and both above (or below) the third."""
    if scene.relation is None:
        return None
    nouns = [o.noun for o in scene.objects]
    if Counter(f.noun for f in found) != Counter(nouns):
        return False
    if len(set(nouns)) == 1:
        a, b, *rest = sorted(found, key=lambda f: -f.y if scene.relation == "below" else f.y)
    else:
        a, b, *rest = ([f for f in found if f.noun == n][0] for n in nouns)
    if not rest:
        return _stands(a, b, scene.relation)
    (ay, _), (by, _), (cy, _) = a.centre, b.centre, rest[0].centre
    sign = 1 if scene.relation == "above" else -1
    return _stands(a, b, "beside") and all(sign * (cy - y) >= FAR for y in (ay, by))


def judge(image: np.ndarray, scene: world.Scene) -> Verdict:
    """What an image shows, against what was asked for."""
    place = place_of(image)
    found = find(image, place)
    blobs = _blobs(image, place, found)
    asked = lambda part: [(o.noun, getattr(o, part)) for o in scene.objects if getattr(o, part)]
    shown = lambda part, nouns: [(f.noun, getattr(f, part)) for f in found if f.noun in nouns]

    def attribute(part: str) -> bool | None:
        wanted = asked(part)
        if not wanted:
            return None
        return not Counter(wanted) - Counter(shown(part, {n for n, _ in wanted}))

    things = Counter(f.noun for f in found) == Counter(o.noun for o in scene.objects) and blobs == 0
    relation = _relation(scene, found)
    return Verdict(tuple(found), blobs, things, attribute("colour"), attribute("size"), relation, place == scene.place)
