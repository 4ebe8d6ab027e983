"""The small world of the default checkpoint: its nouns, its grammar, and a renderer with exact masks.

A scene is one or two objects on one of six painted backgrounds. Every object is one Fluent Emoji 3D sprite, 64 px wide in
a 128 px image, placed at multiples of 8 px (the VAE's stride). Two objects never overlap and always stand in a relation that
is clearly true (their centres differ by 64 px along the relation's axis and by at most 16 px across it).

About a tenth of the scenes with two objects (pair x colours x relation x place), a quarter of those with one, and a few noun
pairs altogether are held out of training by a hash of their description, so "not used in training" is a property of the prompt
alone and can be checked by anyone.
"""
from __future__ import annotations

import hashlib
import os
import random
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

SIZE = 128  # image side, px
OBJECT = 64  # sprite side, px

# noun -> colour (None: the noun's only look, unnamed) -> Fluent Emoji code point
NOUNS: dict[str, dict[str | None, str]] = {
    "apple": {"red": "1f34e", "green": "1f34f"},
    "frog": {"green": "1f438"},
    "panda": {None: "1f43c"},
    "penguin": {None: "1f427"},
    "fox": {None: "1f98a"},
    "house": {None: "1f3e0"},
    "sunflower": {None: "1f33b"},
    "heart": {"red": "2764-fe0f", "blue": "1f499", "purple": "1f49c"},
}
SPRITES = [(noun, colour) for noun, looks in NOUNS.items() for colour in looks]
PLACES = {
    "beach": "on the beach",
    "grass": "on the grass",
    "snow": "in the snow",
    "night": "at night",
    "desert": "in the desert",
    "plain": "",
}
RELATIONS = {"left": "to the left of", "right": "to the right of", "above": "above", "below": "below"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}
COLOURS = sorted({c for looks in NOUNS.values() for c in looks if c})
VOCABULARY = sorted(
    set(NOUNS) | set(COLOURS) | {"a", "an"} | {w for p in (*PLACES.values(), *RELATIONS.values()) for w in p.split()}
)


@dataclass(frozen=True)
class Object:
    """One object of a scene; `x` and `y` are the sprite's top left corner in px."""

    noun: str
    colour: str | None
    x: int = 0
    y: int = 0


@dataclass(frozen=True)
class Scene:
    """Objects on a place. With two objects, `relation` says where the first stands as seen from the second."""

    objects: tuple[Object, ...]
    place: str
    relation: str | None = None


# ---------------------------------------------------------------------------------------------------------------- held out


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(("attnmap world 4: " + text).encode()).digest()[:4], "big")


def _name(o: Object) -> str:
    return f"{o.colour} {o.noun}" if o.colour else o.noun


def held_out_pair(a: str, b: str) -> bool:
    """True for the noun pairs that training never sees together (four of 28, by hash)."""
    return _hash("pair " + " ".join(sorted((a, b)))) % 10 == 0


def held_out(scene: Scene) -> bool:
    """True for scenes that training never sees: positions do not matter, and both ways to say a relation count as one."""
    if len(scene.objects) == 1:
        return _hash(f"{_name(scene.objects[0])} {scene.place}") % 4 == 0
    a, b = scene.objects
    relation = scene.relation
    if relation in ("right", "below"):
        a, b, relation = b, a, OPPOSITE[relation]
    return held_out_pair(a.noun, b.noun) or _hash(f"{_name(a)} {relation} {_name(b)} {scene.place}") % 10 == 0


# ----------------------------------------------------------------------------------------------------------------- grammar


def _phrase(o: Object, rng: random.Random, exact: bool) -> str:
    """'a red apple'. Colours are named; now and then they are left out where `exact` does not ask for them."""
    colour = o.colour
    if o.noun == "frog" and rng.random() < 0.5:
        colour = None
    elif not exact and colour and rng.random() < 0.1:
        colour = None
    words = f"{colour} {o.noun}" if colour else o.noun
    return ("an " if words[0] in "aeiou" else "a ") + words


def caption(scene: Scene, rng: random.Random, exact: bool = False) -> str:
    """One of the captions that are true of a scene; `exact` names every colour that the noun has several of."""
    objects, relation = scene.objects, scene.relation
    if relation and rng.random() < 0.5:
        objects, relation = objects[::-1], OPPOSITE[relation]
    words = [_phrase(objects[0], rng, exact)]
    if relation:
        words += [RELATIONS[relation], _phrase(objects[1], rng, exact)]
    if PLACES[scene.place]:
        words.append(PLACES[scene.place])
    return " ".join(words)


def random_scene(rng: random.Random, two: float = 0.75) -> Scene:
    """A scene drawn uniformly; `two` is the share of scenes with two objects (always two different nouns)."""
    place = rng.choice(list(PLACES))
    if rng.random() >= two:
        noun, colour = rng.choice([(n, rng.choice(list(NOUNS[n]))) for n in NOUNS])
        return Scene((Object(noun, colour, 8 * rng.randint(2, 6), 8 * rng.randint(2, 6)),), place)
    nouns = rng.sample(list(NOUNS), 2)
    colours = [rng.choice(list(NOUNS[n])) for n in nouns]
    along = [0, 64]  # first and second place along the relation's axis
    across = [8 * rng.randint(3, 5), 8 * rng.randint(3, 5)]
    relation = rng.choice(list(RELATIONS))
    if relation in ("right", "below"):
        along.reverse()
    xy = [(al, ac) if relation in ("left", "right") else (ac, al) for al, ac in zip(along, across)]
    return Scene(tuple(Object(n, c, x, y) for n, c, (x, y) in zip(nouns, colours, xy)), place, relation)


def training_scene(rng: random.Random) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


def held_out_scene(rng: random.Random, two: float = 0.75) -> Scene:
    """A random scene that is held out."""
    while not held_out(scene := random_scene(rng, two)):
        pass
    return scene


def prompts(count: int, seed: int, two: float = 0.85) -> list[tuple[str, Scene]]:
    """`count` different held-out prompts with the scene that each describes, exactly `two` of them with two objects."""
    rng = random.Random(f"attnmap prompts {seed}")
    out: dict[str, Scene] = {}
    for wanted in [2] * round(count * two) + [1] * (count - round(count * two)):
        while True:
            scene = held_out_scene(rng, two=1.0 if wanted == 2 else 0.0)
            text = caption(scene, rng, exact=True)
            if text not in out:
                out[text] = scene
                break
    return list(out.items())


# ---------------------------------------------------------------------------------------------------------------- renderer


def emoji_folder() -> Path:
    """Where the webp files of @lobehub/fluent-emoji-3d lie (environment variable FLUENT_EMOJI)."""
    return Path(os.environ.get("FLUENT_EMOJI", Path(__file__).parent / "package" / "assets"))


@lru_cache(maxsize=None)
def sprite(noun: str, colour: str | None) -> np.ndarray:
    """[64, 64, 4] float32 in 0..1, premultiplied by alpha (so that resizing leaves no dark fringe)."""
    path = emoji_folder() / f"{NOUNS[noun][colour]}.webp"
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    rgba[..., :3] *= rgba[..., 3:]
    bands = [Image.fromarray(rgba[..., i]).resize((OBJECT, OBJECT), Image.LANCZOS) for i in range(4)]
    return np.clip(np.stack([np.asarray(b) for b in bands], -1), 0, 1)


def _gradient(top, bottom, rows):
    t = np.linspace(0, 1, rows, dtype=np.float32)[:, None, None]
    return np.broadcast_to(np.float32(top) * (1 - t) + np.float32(bottom) * t, (rows, SIZE, 3))


@lru_cache(maxsize=None)
def background(place: str) -> np.ndarray:
    """[128, 128, 3] float32 in 0..1; every place is one fixed painting."""
    img = np.zeros((SIZE, SIZE, 3), np.float32)
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    if place == "beach":
        img[:56] = _gradient((0.45, 0.72, 0.95), (0.80, 0.92, 0.98), 56)
        img[56:72] = _gradient((0.05, 0.42, 0.58), (0.10, 0.52, 0.66), 16)
        img[72:] = _gradient((0.95, 0.86, 0.66), (0.90, 0.78, 0.55), 56)
    elif place == "grass":
        img[:] = _gradient((0.48, 0.74, 0.95), (0.86, 0.94, 0.99), SIZE)
        hill = y > 72 + 8 * np.sin(x / 24 + 0.8)
        img[hill] = (0.30, 0.60, 0.24)
        img[88:] = _gradient((0.40, 0.70, 0.28), (0.26, 0.52, 0.18), SIZE - 88)
    elif place == "snow":
        img[:] = _gradient((0.62, 0.78, 0.93), (0.88, 0.94, 0.99), SIZE)
        img[y > 34 + np.abs(x - 88) * 0.95] = (0.50, 0.58, 0.70)
        img[y > 48 + np.abs(x - 32) * 0.9] = (0.56, 0.64, 0.75)
        img[76:] = _gradient((0.99, 0.99, 1.0), (0.90, 0.94, 0.98), SIZE - 76)
    elif place == "night":
        img[:] = _gradient((0.08, 0.06, 0.20), (0.20, 0.15, 0.36), SIZE)
        rng = np.random.default_rng(7)
        for _ in range(36):
            sy, sx = rng.integers(2, SIZE - 2, 2)
            img[sy, sx] = 0.9
    elif place == "desert":
        img[:] = _gradient((0.99, 0.83, 0.60), (0.99, 0.90, 0.74), SIZE)
        img[y > 76 + 10 * np.sin(x / 20 + 2.2)] = (0.80, 0.55, 0.32)
        img[y > 96 + 8 * np.sin(x / 28)] = (0.86, 0.62, 0.38)
    elif place == "plain":
        img[:] = _gradient((0.82, 0.81, 0.88), (0.76, 0.75, 0.83), SIZE)
    else:
        raise ValueError(f"no such place: {place}")
    return img


def render(scene: Scene) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image, [128, 128, 3] float32 in 0..1, and for each object its visible mask, [128, 128] bool (alpha >= 1/2)."""
    img = background(scene.place).copy()
    masks = []
    for o in scene.objects:
        rgba = sprite(o.noun, o.colour)
        view = img[o.y : o.y + OBJECT, o.x : o.x + OBJECT]
        view[:] = view * (1 - rgba[..., 3:]) + rgba[..., :3]
        mask = np.zeros((SIZE, SIZE), bool)
        mask[o.y : o.y + OBJECT, o.x : o.x + OBJECT] = rgba[..., 3] >= 0.5
        masks.append(mask)
    return np.clip(img, 0, 1), masks
