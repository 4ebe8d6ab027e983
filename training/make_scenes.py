"""Renders the scenes on which attention's accuracy is measured: held-out scenes with captions and exact masks.

    python make_scenes.py --out work/scenes

`select/` (48 scenes) is for choosing how maps are aggregated, `report/` (96) for comparing, `final/` (96) only for reporting: its nouns are pairs
that training never showed together. No scene is in two sets, none was used in training, and the seeds are not those of the evaluation prompts.
`scenes.json` lists for each scene its image, its caption, and for every noun the word, its byte range in the caption, and the file of
its visible mask (8 bits, 0 or 255); and for every colour the same, with the mask of the thing that it describes.
"""
import argparse
import json
import random
from pathlib import Path

import numpy as np
from PIL import Image

import world

# name: scenes, seed, whether two nouns must be a pair that training never showed
SETS = {"select": (48, 3001, False), "report": (96, 3002, False), "final": (96, 3003, True)}


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    a = p.parse_args()
    seen = set()
    for name, (count, seed, new_pairs) in SETS.items():
        folder = Path(a.out) / name
        folder.mkdir(parents=True, exist_ok=True)
        for earlier in folder.glob("[0-9]*.png"):  # of another world
            earlier.unlink()
        rng = random.Random(f"attnmap accuracy scenes {seed}")
        entries = []
        while len(entries) < count:
            scene = world.held_out_scene(rng)
            named = [o.noun for o in scene.objects]
            pairs = [(x, y) for i, x in enumerate(named) for y in named[:i]]
            if scene in seen or new_pairs and pairs and not any(world.held_out_pair(*pair) for pair in pairs):
                continue
            seen.add(scene)
            words = world.caption_words(scene, rng, exact=True)
            text = world.text_of(words)
            image, masks = world.render(scene)
            if len(set(named)) < len(named):
                masks = [np.any(masks, 0)]  # things alike share one noun
            stem = f"{len(entries):02d}"
            Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / f"{stem}.png", optimize=True)
            files = [f"{stem}-{noun}.png" for noun in dict.fromkeys(named)]
            for file, mask in zip(files, masks):
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file, optimize=True)
            nouns, colours, end = [], [], 0
            for word, thing in words:
                start = text.index(word, end)  # captions are ASCII
                end = start + len(word)
                if thing is not None and word not in world.SIZES:
                    kind = colours if word in world.COLOURS else nouns
                    kind.append({"word": word, "range": [start, end], "mask": files[thing]})
            entries.append({"image": f"{stem}.png", "caption": text, "nouns": nouns, "colours": colours})
        lines = ",\n    ".join(json.dumps(e) for e in entries)
        (folder / "scenes.json").write_text(f'{{\n  "seed": {seed},\n  "size": [{world.SIZE}, {world.SIZE}],\n  "scenes": [\n    {lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
