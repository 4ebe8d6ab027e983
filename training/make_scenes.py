"""Renders the scenes on which attention's accuracy is measured: held-out scenes with captions and exact masks.

    python make_scenes.py --out tests/data/scenes

`select/` (48 scenes) is for choosing how maps are aggregated, `report/` (96) for comparing, `final/` (96) only for reporting: it was rendered
after all choices were made and measured once; its pairs are of nouns that training never showed together. No scene is in two sets, none was
used in training, and the seeds are not those of the evaluation prompts. `scenes.json` lists for each scene its image, its caption, and for every
object noun the word, its byte range in the caption, and the file of its visible mask (8 bits, 0 or 255).
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
        rng = random.Random(f"attnmap accuracy scenes {seed}")
        entries = []
        while len(entries) < count:
            scene = world.held_out_scene(rng)
            if scene in seen or new_pairs and len(scene.objects) == 2 and not world.held_out_pair(*(o.noun for o in scene.objects)):
                continue
            seen.add(scene)
            text = world.caption(scene, rng, exact=True)
            image, masks = world.render(scene)
            stem = f"{len(entries):02d}"
            Image.fromarray((image * 255).round().astype(np.uint8)).save(folder / f"{stem}.png", optimize=True)
            nouns = []
            for o, mask in zip(scene.objects, masks):
                file = f"{stem}-{o.noun}.png"
                Image.fromarray(mask.astype(np.uint8) * 255).save(folder / file, optimize=True)
                at = text.index(o.noun)  # captions are ASCII, no noun is part of another word, and no noun occurs twice
                nouns.append({"word": o.noun, "range": [at, at + len(o.noun)], "mask": file})
            entries.append({"image": f"{stem}.png", "caption": text, "nouns": sorted(nouns, key=lambda n: n["range"])})
        lines = ",\n    ".join(json.dumps(e) for e in entries)
        (folder / "scenes.json").write_text(f'{{\n  "seed": {seed},\n  "size": [{world.SIZE}, {world.SIZE}],\n  "scenes": [\n    {lines}\n  ]\n}}\n')


if __name__ == "__main__":
    main()
