"""The world of the default checkpoint: its things, its grammar, what is held out, and a renderer with exact masks.

A scene is one, two or three things on one of ten painted places, in an image of 128 x 128 px. Every thing is one Fluent Emoji
3D sprite. Sixteen nouns come in six colours each, all equally often, so that only the colour's word can tell the colour. A
thing is 40 px wide when it is called small, 72 px when big, and 56 px otherwise; it lies on multiples of 8 px (the VAE's
stride). Things never overlap: two stand side by side or one above the other, and of three the first two stand side by side,
above or below the third.

Some scenes are held out of training by a hash of their description, so "not used in training" is a property of the prompt
alone and can be checked by anyone: a tenth of the scenes with two or three things, a quarter of those with one, and a few
pairs of nouns altogether.
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
STRIDE = 8  # of the VAE, px
SIZES = {"small": 40, None: 56, "big": 72}  # sprite side, px, by the word in the caption

# Where every picture comes from, and under which licence: the 3D set of Fluent Emoji by Microsoft, as the npm package
# @lobehub/fluent-emoji-3d 1.1.0 ships it. Places are painted below.
SOURCE = {"pictures": "Fluent Emoji 3D, Microsoft Corporation", "package": "@lobehub/fluent-emoji-3d 1.1.0", "licence": "MIT"}

HUES = {"red": 0.985, "orange": 0.065, "yellow": 0.14, "green": 0.36, "blue": 0.59, "purple": 0.76}  # in turns
COLOURS = tuple(HUES)
BRIGHT = {"red": 0.85, "orange": 0.95, "yellow": 0.97, "green": 0.72, "blue": 0.88, "purple": 0.80}  # median value of HSV

# Nouns in six colours: the code point whose hue is turned, or one code point a colour where the set has them all.
PAINTED: dict[str, str | dict[str, str]] = {
    "apple": "1f34e",
    "ball": dict(red="1f534", orange="1f7e0", yellow="1f7e1", green="1f7e2", blue="1f535", purple="1f7e3"),
    "balloon": "1f388",
    "bird": "1f426",
    "book": "1f4d5",
    "butterfly": "1f98b",
    "cap": "1f9e2",
    "car": "1f697",
    "dress": "1f457",
    "fish": "1f41f",
    "flower": "1f337",
    "heart": dict(red="2764-fe0f", orange="1f9e1", yellow="1f49b", green="1f49a", blue="1f499", purple="1f49c"),
    "mushroom": "1f344",
    "star": "2b50",
    "teapot": "1fad6",
    "umbrella": "2602-fe0f",
}
# Nouns with one look, by kind; no colour is named with them.
FIXED: dict[str, dict[str, str]] = {
    "animals": dict(
        bear="1f43b", cat="1f431", dog="1f436", duck="1f986", elephant="1f418", fox="1f98a", frog="1f438", lion="1f981",
        owl="1f989", panda="1f43c", penguin="1f427", pig="1f437", rabbit="1f430",
    ),  # fmt: skip
    "plants": dict(banana="1f34c", carrot="1f955", pumpkin="1f383", strawberry="1f353", sunflower="1f33b", tree="1f333"),
    "vehicles and buildings": dict(bus="1f68c", castle="1f3f0", house="1f3e0", rocket="1f680"),
    "household things": dict(cake="1f382", chair="1fa91", clock="23f0", cup="2615"),
}
ONE_LOOK = {noun: code for kind in FIXED.values() for noun, code in kind.items()}
NOUNS: dict[str, tuple[str | None, ...]] = {n: COLOURS if n in PAINTED else (None,) for n in sorted([*PAINTED, *ONE_LOOK])}
PLURALS = {n: {"bus": "buses", "dress": "dresses", "fish": "fish", "strawberry": "strawberries", "butterfly": "butterflies", "fox": "foxes"}.get(n, n + "s") for n in NOUNS}
SPRITES = [(noun, colour, size) for noun, looks in NOUNS.items() for colour in looks for size in SIZES]
PLACES = {
    "beach": ("on the beach", "at the beach"),
    "grass": ("on the grass", "in the meadow"),
    "snow": ("in the snow",),
    "night": ("at night",),
    "desert": ("in the desert",),
    "forest": ("in the forest", "in the woods"),
    "city": ("in the city",),
    "room": ("in the room", "in a room"),
    "sunset": ("at sunset",),
    "plain": ("",),
}
# What the first is to the second; "beside" leaves open which of them stands left, and the first does.
RELATIONS = {
    "left": ("to the left of", "on the left of", "left of"),
    "right": ("to the right of", "on the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "beside": ("and", "next to", "beside"),
}
ENDS = {"left": "on the left", "right": "on the right", "above": "at the top", "below": "at the bottom"}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above", "beside": "beside"}
KINDS = {
    "things in six colours": sorted(PAINTED),
    **{kind: sorted(nouns) for kind, nouns in FIXED.items()},
    "colours": list(COLOURS),
    "sizes": [size for size in SIZES if size],
    "places": [p for wordings in PLACES.values() for p in wordings if p],
    "relations": [p for wordings in RELATIONS.values() for p in wordings] + list(ENDS.values()),
    "numbers": ["a", "an", "two", "three"],
}
# What people type in place of a word that the model knows; the warning for unknown words names the known one.
_NEAR = {
    "cat": "kitten kitty tomcat", "dog": "puppy doggy hound poodle", "bear": "teddy grizzly", "duck": "duckling goose swan",
    "frog": "toad froggy", "fox": "vixen wolf", "lion": "tiger lioness leopard", "owl": "owlet", "pig": "piglet piggy hog",
    "rabbit": "bunny hare", "bird": "sparrow parrot chick chicken robin", "fish": "goldfish shark whale", "butterfly": "moth",
    "elephant": "mammoth", "penguin": "puffin", "apple": "fruit pear peach", "banana": "plantain", "strawberry": "berry raspberry cherry",
    "pumpkin": "squash gourd", "carrot": "radish vegetable", "mushroom": "toadstool fungus", "flower": "tulip rose blossom daisy",
    "tree": "oak pine bush", "car": "automobile taxi truck van vehicle", "bus": "coach tram train",
    "rocket": "spaceship spacecraft shuttle", "castle": "palace fortress tower", "house": "home cottage hut building cabin", "cake": "pie cupcake",
    "chair": "seat stool armchair sofa", "clock": "watch alarm", "cup": "mug coffee tea glass", "teapot": "kettle pot jug", "book": "novel notebook",
    "cap": "hat helmet", "dress": "gown skirt shirt", "umbrella": "parasol", "ball": "sphere circle football", 
    "heart": "love", "red": "crimson scarlet pink ruby", "orange": "amber", "yellow": "golden gold", "green": "lime emerald",
    "blue": "azure navy cyan turquoise", "purple": "violet lilac magenta", "small": "little tiny mini", "big": "large huge giant great",
    "beach": "seaside sea ocean shore sand coast", "grass": "lawn field garden park", "snow": "winter ice snowy", "night": "dark midnight stars",
    "desert": "dunes", "forest": "jungle wood", "city": "town street", "room": "kitchen indoors", "sunset": "dusk evening dawn sunrise",
    "above": "atop", "below": "beneath underneath", "beside": "near by", "and": "with", "left": "leftmost", "right": "rightmost",
    "two": "pair couple both 2", "three": "trio 3",
}  # fmt: skip
VOCABULARY = sorted(
    {w for n in NOUNS for w in (n, PLURALS[n])}
    | {*COLOURS, "small", "big", "a", "an", "and", "that", "is", "two", "three", ","}
    | {w for x in (*PLACES.values(), *RELATIONS.values(), ENDS.values()) for p in x for w in p.split()}
)
NEAR = {other: known for known, others in _NEAR.items() for other in others.split() if other not in VOCABULARY}


@dataclass(frozen=True)
class Object:
    """One thing of a scene; `x` and `y` are the sprite's top left corner in px."""

    noun: str
    colour: str | None
    x: int = 0
    y: int = 0
    size: str | None = None

    @property
    def side(self) -> int:
        """Of the sprite, px."""
        return SIZES[self.size]


@dataclass(frozen=True)
class Scene:
    """Things on a place.

    Of two, `relation` says where the first stands as seen from the second. Of three, it is "above" or "below" and says where
    the first two, side by side from left to right, stand as seen from the third.
    """

    objects: tuple[Object, ...]
    place: str
    relation: str | None = None


# ---------------------------------------------------------------------------------------------------------------- held out


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(("attnmap world 6: " + text).encode()).digest()[:4], "big")


def _name(o: Object) -> str:
    return " ".join(w for w in (o.size, o.colour, o.noun) if w)


def held_out_pair(a: str, b: str) -> bool:
    """True for the pairs of different nouns that training never shows together (a twenty-fifth of them, by hash)."""
    return a != b and _hash("pair " + " ".join(sorted((a, b)))) % 25 == 0


def held_out(scene: Scene) -> bool:
    """True for scenes that training never sees.

    Only which things, in which place, and whether side by side or one above the other count: not positions, sides or wording.
    """
    if len(scene.objects) == 1:
        return _hash(f"{_name(scene.objects[0])} {scene.place}") % 4 == 0
    nouns = [o.noun for o in scene.objects]
    if any(held_out_pair(a, b) for i, a in enumerate(nouns) for b in nouns[:i]):
        return True
    layout = "column" if scene.relation in ("above", "below") else "row"
    return _hash(f"{layout} {' '.join(sorted(_name(o) for o in scene.objects))} {scene.place}") % 10 == 0


# ----------------------------------------------------------------------------------------------------------------- grammar

UNNAMED = 0.15  # share of coloured things whose colour a training caption leaves out
AFTER = 0.3  # share of colours that are named after their noun, so that the noun's own token cannot know them


Words = list[tuple[str, int | None]]
"""Words of a caption, each with the number of the thing that it names or describes."""


def _thing(i: int, o: Object, rng: random.Random, exact: bool, count: int = 1) -> Words:
    """'a small red apple', 'a small apple that is red', 'two red apples'. `exact` names every colour."""
    colour = o.colour if exact or rng.random() >= UNNAMED else None
    after = count == 1 and rng.random() < AFTER
    described = [w for w in (o.size, None if after else colour, o.noun if count == 1 else PLURALS[o.noun]) if w]
    article = {2: "two", 3: "three"}.get(count) or ("an" if described[0][0] in "aeiou" else "a")
    tail = [("that", None), ("is", None), (colour, i)] if after and colour else []
    return [(article, None), *((w, i) for w in described), *tail]


def _plain(text: str) -> Words:
    return [(w, None) for w in text.split()]


def _wording(relation: str, rng: random.Random) -> Words:
    """A direction's first wording half of the time, else one of the others; those of "beside" in equal shares."""
    first, *others = RELATIONS[relation]
    if relation == "beside":
        others.append(first)
    elif rng.random() < 0.5:
        return _plain(first)
    return _plain(rng.choice(others))


def caption_words(scene: Scene, rng: random.Random, exact: bool = False) -> Words:
    """One of the captions that are true of a scene; `exact` names every colour that the noun has several of."""
    objects, relation = scene.objects, scene.relation
    name = lambda i, count=1: _thing(i, objects[i], rng, exact, count)
    alike = len({(o.noun, o.colour, o.size) for o in objects}) == 1
    if alike:
        words = name(0, len(objects))
    elif len(objects) == 2:
        first, second = 0, 1
        if relation != "beside" and rng.random() < 0.5:
            first, second, relation = 1, 0, OPPOSITE[relation]
        if relation != "beside" and rng.random() < 0.15:
            ends = [_plain(ENDS[r]) for r in (relation, OPPOSITE[relation])]
            words = [*name(first), *ends[0], ("and", None), *name(second), *ends[1]]
        else:
            words = [*name(first), *_wording(relation, rng), *name(second)]
    elif relation == "above" and rng.random() < 0.3:
        words = [*name(0), (",", None), *name(1), ("and", None), *name(2)]
    else:
        both = [*name(0), (rng.choice(("and", "and", "next to")), None), *name(1)]
        both = [(w, i) for words, i in both for w in words.split()]
        if rng.random() < 0.5:
            words = [*both, *_wording(relation, rng), *name(2)]
        else:
            words = [*name(2), *_wording(OPPOSITE[relation], rng), *both]
    return words + _plain(rng.choice(PLACES[scene.place]))


def text_of(words: Words) -> str:
    return " ".join(w for w, _ in words).replace(" ,", ",")


def caption(scene: Scene, rng: random.Random, exact: bool = False) -> str:
    """`caption_words` as a line of text."""
    return text_of(caption_words(scene, rng, exact))


# ------------------------------------------------------------------------------------------------------------------ scenes


def _floor(px: float) -> int:
    return int(px // STRIDE) * STRIDE


def _across(side: int, rng: random.Random) -> int:
    """Near the middle: the one coordinate in which a pair's things may differ a little."""
    return _floor((SIZE - side) / 2 + STRIDE / 2) + STRIDE * rng.randint(-1, 1)


def _along(sides: tuple[int, int]) -> tuple[int, int]:
    """Where two things of these sides start, along the axis on which they are apart."""
    a, b = sides
    gap = (SIZE - a - b) // 3  # shared out evenly before, between and behind
    return _floor(gap), SIZE - b - _floor(gap)


def _look(rng: random.Random, noun: str | None = None) -> Object:
    noun = noun or rng.choice(list(NOUNS))
    return Object(noun, rng.choice(NOUNS[noun]), size=rng.choices(list(SIZES), (0.15, 0.70, 0.15))[0])


def _move(o: Object, x: int, y: int) -> Object:
    return Object(o.noun, o.colour, x, y, o.size)


def random_scene(rng: random.Random, things: int | None = None, alike: bool | None = None) -> Scene:
    """A scene drawn at random, with `things` things where it is given.

    One in twelve of those with several shows the same thing several times; the others have different nouns. At most
    one thing is big.
    """
    place = rng.choice(list(PLACES))
    things = things or rng.choices((1, 2, 3), (0.25, 0.55, 0.20))[0]
    if things == 1:
        o = _look(rng)
        corner = lambda: _floor((SIZE - o.side) / 2) + STRIDE * rng.randint(-2, 2)
        return Scene((_move(o, corner(), corner()),), place)
    alike = rng.random() < 1 / 12 if alike is None else alike
    while True:
        looks = [_look(rng)] * things if alike else [_look(rng, noun) for noun in rng.sample(list(NOUNS), things)]
        if sum(o.size == "big" for o in looks) <= 1:
            break
    if things == 3:
        a, b, c = looks
        relation = "above" if alike else rng.choice(("above", "below"))
        xa, xb = _along((a.side, b.side))
        row = max(a.side, b.side)  # the two stand on one line
        top, bottom = _along((row, c.side) if relation == "above" else (c.side, row))
        y, yc = (top, bottom) if relation == "above" else (bottom, top)
        a, b = (_move(o, x, y + _floor(row - o.side)) for o, x in ((a, xa), (b, xb)))
        return Scene((a, b, _move(c, _across(c.side, rng), yc)), place, relation)
    a, b = looks
    relation = "beside" if alike else rng.choices(list(RELATIONS), (3, 3, 3, 3, 5))[0]
    if relation in ("right", "below"):
        starts = _along((b.side, a.side))[::-1]
    else:
        starts = _along((a.side, b.side))
    across = [_across(o.side, rng) for o in looks]
    corners = zip(across, starts) if relation in ("above", "below") else zip(starts, across)
    return Scene(tuple(_move(o, *xy) for o, xy in zip(looks, corners)), place, relation)


def training_scene(rng: random.Random) -> Scene:
    """A random scene that is not held out."""
    while held_out(scene := random_scene(rng)):
        pass
    return scene


def held_out_scene(rng: random.Random, things: int | None = None) -> Scene:
    """A random scene that is held out."""
    while not held_out(scene := random_scene(rng, things)):
        pass
    return scene


def prompts(count: int, seed: int, shares: tuple[float, float, float] = (0.25, 0.5, 0.25)) -> list[tuple[str, Scene]]:
    """`count` different held-out prompts with the scene that each describes; `shares` of them have one, two and three things."""
    rng = random.Random(f"attnmap prompts {seed}")
    out: dict[str, Scene] = {}
    numbers = [round(count * s) for s in shares[1:]]
    for things, number in ((2, numbers[0]), (3, numbers[1]), (1, count - sum(numbers))):
        while number:
            scene = held_out_scene(rng, things)
            text = caption(scene, rng, exact=True)
            if text not in out:
                out[text] = scene
                number -= 1
    return list(out.items())


# ---------------------------------------------------------------------------------------------------------------- renderer


def emoji_folder() -> Path:
    """Where the webp files of @lobehub/fluent-emoji-3d lie (environment variable FLUENT_EMOJI)."""
    return Path(os.environ.get("FLUENT_EMOJI", Path(__file__).parent / "package" / "assets"))


@lru_cache(maxsize=None)
def _picture(noun: str, colour: str | None) -> np.ndarray:
    """[256, 256, 4] float32 in 0..1, premultiplied by alpha (so that resizing leaves no dark fringe)."""
    code = PAINTED.get(noun) or ONE_LOOK[noun]
    turned = isinstance(code, str) and colour
    path = emoji_folder() / f"{code if isinstance(code, str) else code[colour]}.webp"
    rgba = np.asarray(Image.open(path).convert("RGBA"), np.float32) / 255
    if turned:
        rgba[..., :3] = _repaint(rgba, colour)
    rgba[..., :3] *= rgba[..., 3:]
    return rgba


def _repaint(rgba: np.ndarray, colour: str) -> np.ndarray:
    """[256, 256, 3]: the hue of strongly coloured pixels turned to `colour`'s, a third of its spread kept.

    Their brightness is brought to a median that suits the colour (a dark yellow is brown). White, grey and black stay.
    """
    hsv = np.asarray(Image.fromarray((rgba[..., :3] * 255).astype(np.uint8)).convert("HSV"), np.float32) / 255
    hue, saturation, value = hsv[..., 0], hsv[..., 1], hsv[..., 2]
    strong = (saturation > 0.25) & (value > 0.15)
    weight = (strong & (rgba[..., 3] > 0.5)) * saturation
    own = np.angle((weight * np.exp(2j * np.pi * hue)).sum()) / (2 * np.pi)
    spread = (hue - own + 0.5) % 1 - 0.5
    median = float(np.median(value[strong & (rgba[..., 3] > 0.5)]))
    brighter = value ** (np.log(BRIGHT[colour]) / np.log(min(median, 0.98)))  # a power would make shadows black
    value = np.where(strong, brighter if BRIGHT[colour] > median else value * BRIGHT[colour] / median, value)
    least = 0.55 * np.clip((saturation - 0.25) / 0.15, 0, 1)  # pale parts take the colour as well
    hsv = np.stack([np.where(strong, (HUES[colour] + 0.35 * spread) % 1, hue), np.maximum(saturation, least * strong), value], -1)
    turned = Image.fromarray((hsv * 255).clip(0, 255).astype(np.uint8), "HSV").convert("RGB")
    return np.asarray(turned, np.float32) / 255


@lru_cache(maxsize=None)
def sprite(noun: str, colour: str | None, size: str | None = None) -> np.ndarray:
    """[side, side, 4] float32 in 0..1, premultiplied by alpha."""
    picture, side = _picture(noun, colour), SIZES[size]
    bands = [Image.fromarray(picture[..., i]).resize((side, side), Image.LANCZOS) for i in range(4)]
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
    elif place == "forest":
        img[:] = _gradient((0.62, 0.74, 0.62), (0.40, 0.55, 0.42), SIZE)
        for left, width in ((4, 10), (34, 7), (62, 11), (96, 8), (117, 9)):  # trunks
            img[:100, left : left + width] = (0.33, 0.27, 0.22)
        crowns = 26 + 7 * np.sin(x / 7) + 5 * np.sin(x / 13 + 1)
        img[y < crowns] = (0.16, 0.33, 0.22)
        img[100:] = _gradient((0.30, 0.36, 0.22), (0.20, 0.25, 0.15), SIZE - 100)
    elif place == "city":
        img[:] = _gradient((0.74, 0.80, 0.88), (0.90, 0.90, 0.90), SIZE)
        for left, width, top in ((0, 26, 34), (26, 22, 60), (48, 28, 22), (76, 20, 50), (96, 32, 38)):
            shade = 0.50 + 0.06 * ((left // 8) % 3)
            img[top:104, left : left + width] = (shade, shade + 0.01, shade + 0.05)
            for row in range(top + 5, 98, 10):  # windows
                for column in range(left + 4, left + width - 4, 7):
                    img[row : row + 4, column : column + 3] = (0.93, 0.87, 0.66)
        img[104:] = (0.34, 0.35, 0.38)
    elif place == "room":
        img[:] = (0.80, 0.70, 0.64)
        img[:, ((x[0] // 8) % 2) == 0] = (0.83, 0.74, 0.68)  # wallpaper
        img[86:92] = (0.96, 0.94, 0.90)  # skirting board
        img[92:] = _gradient((0.52, 0.36, 0.26), (0.42, 0.28, 0.20), SIZE - 92)
    elif place == "sunset":
        img[:] = _gradient((0.36, 0.28, 0.52), (0.98, 0.70, 0.52), SIZE)
        img[(y - 88) ** 2 + (x - 64) ** 2 < 24**2] = (1.0, 0.88, 0.62)
        img[88:] = _gradient((0.34, 0.24, 0.40), (0.22, 0.16, 0.30), SIZE - 88)
    elif place == "plain":
        img[:] = _gradient((0.82, 0.81, 0.88), (0.76, 0.75, 0.83), SIZE)
    else:
        raise ValueError(f"no such place: {place}")
    return img


def render(scene: Scene) -> tuple[np.ndarray, list[np.ndarray]]:
    """The image, [128, 128, 3] float32 in 0..1, and for each thing its visible mask, [128, 128] bool (alpha >= 1/2)."""
    img = background(scene.place).copy()
    masks = []
    for o in scene.objects:
        rgba = sprite(o.noun, o.colour, o.size)
        view = img[o.y : o.y + o.side, o.x : o.x + o.side]
        view[:] = view * (1 - rgba[..., 3:]) + rgba[..., :3]
        mask = np.zeros((SIZE, SIZE), bool)
        mask[o.y : o.y + o.side, o.x : o.x + o.side] = rgba[..., 3] >= 0.5
        masks.append(mask)
    return np.clip(img, 0, 1), masks
