"""Finds the world's objects in an image by sprite matching, with thresholds fixed in advance.

The thresholds were chosen on rendered scenes and `test_judge.py` keeps them honest: every object of a rendered scene is found, nothing else
is, and duplicates (overlapping ones too), wrong colours, blobs and missing objects count. They were fixed before the first checkpoint was
judged, and made stricter once since: looking at images showed a doubled penguin that passed.
"""
from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from scipy import fft, ndimage

import world

MATCH = 0.75  # least score of an object (rendered: 0.93 and more; any other sprite, red apple for red heart apart: 0.74 and less)
BLOB = 300  # least area, px, of something drawn beside the found objects that counts as an extra one (a doubled sprite leaves more)
DIFFERENT = 0.12  # least colour difference from the background, mean of |RGB| in 0..1, of a drawn pixel
APART = 32  # two finds closer than this, px, are the same object
FAR = 32  # a relation is true when the centres lie at least this far apart along its axis, px


@dataclass(frozen=True)
class Found:
    noun: str
    colour: str | None
    x: int  # the sprite's top left corner, px
    y: int
    score: float


@dataclass(frozen=True)
class Verdict:
    found: tuple[Found, ...]
    blobs: int  # things drawn that are no known object
    objects: bool  # every named object, each once, and nothing more
    relation: bool | None  # None for prompts with one object
    place: bool  # the background is the one that was asked for

    @property
    def right(self) -> bool:
        return self.objects and self.relation is not False and self.place


PAD = world.OBJECT // 4  # objects may reach this far out of the image
RING = 3  # the match also looks at a ring of background this wide, px, around the sprite


@lru_cache(maxsize=None)
def _templates():
    """For each sprite the transforms of its weights, alpha and colours in the combinations that `scores` needs."""
    side = fft.next_fast_len(world.SIZE + 2 * PAD)
    forward = lambda a: np.conj(fft.rfft2(a, (side, side), axes=(0, 1)))
    out = []
    for noun, colour in world.SPRITES:
        rgba = world.sprite(noun, colour)
        alpha, rgb = rgba[..., 3], rgba[..., :3]
        weight = ndimage.binary_dilation(alpha >= 0.5, iterations=RING).astype(np.float32)
        parts = (weight, weight * alpha, weight * alpha**2, weight[..., None] * rgb, (weight * alpha)[..., None] * rgb)
        out.append([forward(p) for p in parts] + [float((weight[..., None] * rgb**2).sum())])
    return side, out


def scores(image: np.ndarray, place: str) -> np.ndarray:
    """[sprites, y, x]: how well each sprite with its top left corner at (y - PAD, x - PAD) explains the image.

    1 - |image - sprite on the place|^2 / |place - sprite on the place|^2, summed over the sprite and a ring around it: 1 for the
    very sprite, 0 for bare background, and less than 0 for something else.
    """
    side, templates = _templates()
    pad = lambda a: np.pad(a.astype(np.float32), ((PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")
    back = pad(world.background(place))
    drawn = pad(image) - back
    forward = lambda a: fft.rfft2(a, (side, side), axes=(0, 1))
    f_drawn, f_back = forward(drawn), forward(back)
    f_drawn2, f_back2, f_both = forward((drawn**2).sum(-1)), forward((back**2).sum(-1)), forward((drawn * back).sum(-1))
    size = world.SIZE + 2 * PAD - world.OBJECT + 1
    sum_over = lambda f: fft.irfft2(f, (side, side))[:size, :size]
    out = np.empty((len(templates), size, size), np.float32)
    for i, (w, wa, waa, wp, wap, pp) in enumerate(templates):
        contrast = sum_over(f_back2 * waa) - 2 * sum_over((f_back * wap).sum(-1)) + pp
        left = sum_over(f_drawn2 * w) + 2 * sum_over(f_both * wa) - 2 * sum_over((f_drawn * wp).sum(-1)) + contrast
        out[i] = 1 - left / contrast
    return out


def find(image: np.ndarray, place: str, threshold: float = MATCH) -> list[Found]:
    """Every object in an image [128, 128, 3] of floats in 0..1 of a place, best match first."""
    s = scores(image, place)
    out = []
    while True:
        i, y, x = np.unravel_index(np.argmax(s), s.shape)
        if s[i, y, x] < threshold:
            return out
        noun, colour = world.SPRITES[i]
        out.append(Found(noun, colour, int(x) - PAD, int(y) - PAD, float(s[i, y, x])))
        s[:, max(0, y - APART) : y + APART + 1, max(0, x - APART) : x + APART + 1] = -1


def place_of(image: np.ndarray) -> str:
    """The place whose painting is nearest (objects cover less than half of it)."""
    return min(world.PLACES, key=lambda p: np.median(np.abs(image - world.background(p)).mean(-1)))


def judge(image: np.ndarray, scene: world.Scene) -> Verdict:
    """What an image shows, against what was asked for."""
    place = place_of(image)
    found = find(image, place)
    covered = np.zeros((world.SIZE, world.SIZE), bool)
    for f in found:
        alpha = world.sprite(f.noun, f.colour)[..., 3] >= 0.1
        for dy, dx in zip(*np.nonzero(alpha)):
            if 0 <= f.y + dy < world.SIZE and 0 <= f.x + dx < world.SIZE:
                covered[f.y + dy, f.x + dx] = True
    covered = ndimage.binary_dilation(covered, iterations=4)
    drawn = (np.abs(image - world.background(place)).mean(-1) > DIFFERENT) & ~covered
    drawn = ndimage.binary_opening(drawn)
    labels, count = ndimage.label(drawn)
    blobs = int((np.bincount(labels.ravel())[1:] >= BLOB).sum()) if count else 0
    wanted = sorted((o.noun, o.colour or "") for o in scene.objects)
    objects = sorted((f.noun, f.colour or "") for f in found) == wanted and blobs == 0
    relation = None
    if scene.relation:
        relation = False
        a, b = ([f for f in found if (f.noun, f.colour) == (o.noun, o.colour)] for o in scene.objects)
        if len(a) == 1 and len(b) == 1:
            dx, dy = a[0].x - b[0].x, a[0].y - b[0].y
            step = {"left": -dx, "right": dx, "above": -dy, "below": dy}[scene.relation]
            other = dy if scene.relation in ("left", "right") else dx
            relation = step >= FAR and step > abs(other)
    return Verdict(tuple(found), blobs, objects, relation, place == scene.place)
