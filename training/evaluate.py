"""Draws 200 held-out prompts with a checkpoint's own default settings, judges the images, and writes the numbers.

    python evaluate.py --model models/default --out models/default/evaluation.json --grid grid.png

The prompts come from `world.prompts` with a seed that training never uses; image i starts from torch's CPU generator with seed i. Prompts
with three things are reported apart. With `--free prompts.txt` the prompts of a file are drawn instead, one a line, and nothing is judged: free
wordings have no scene to be judged against, so their pictures are for looking at, all of them.
"""
import argparse
import json
import re
import textwrap
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image, ImageDraw

import judge
import world

PROMPT_SEED = 2024
UNKNOWN = ("zebra", "truck", "helicopter", "piano", "wizard", "robot", "guitar", "sandwich", "dragon", "volcano")  # in no caption
UNKNOWN_SEED = 50_000  # of the first image with one of them


def beside_unknown(cases: list[tuple[str, world.Scene]]) -> list[tuple[str, str, list[str], str]]:
    """Prompts of several things, one of which is called by a word that training never saw: the prompt, that word, the others, the place."""
    out = []
    for i, (text, scene) in enumerate(cases):
        nouns = [o.noun for o in scene.objects]
        gone, word = nouns[i % len(nouns)], UNKNOWN[i % len(UNKNOWN)]
        other, count = re.subn(rf"\b{gone}\b", word, text)
        if len(nouns) > 1 and count == 1:
            out.append((other, word, [n for n in nouns if n != gone], scene.place))
    return out


def draw(pipeline, prompts: list[str], steps: int, guidance: float, first_seed: int = 0, batch: int = 10) -> list[np.ndarray]:
    """One image a prompt, [128, 128, 3] float in 0..1; image i has seed first_seed + i."""
    images = []
    for i in range(0, len(prompts), batch):
        text = prompts[i : i + batch]
        seeds = [torch.Generator().manual_seed(first_seed + i + k) for k in range(len(text))]
        with torch.inference_mode():
            images += list(pipeline(text, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="np").images)
    return images


def rows(verdicts: list[judge.Verdict]) -> dict[str, float | None]:
    """The figures of the bar, in percent; None for a row that no prompt asks for."""

    def percent(hits: list[bool | None]) -> float | None:
        asked = [h for h in hits if h is not None]
        return round(100 * sum(asked) / len(asked), 1) if asked else None

    return {
        "things_right": percent([v.things for v in verdicts]),
        "colours_on_the_right_thing": percent([v.colours for v in verdicts]),
        "sizes_right": percent([v.sizes for v in verdicts]),
        "relation_right": percent([v.relation for v in verdicts]),
        "place_right": percent([v.place for v in verdicts]),
        "all_right": percent([v.right for v in verdicts]),
    }


def summary(cases: list[tuple[str, world.Scene]], verdicts: list[judge.Verdict]) -> dict[str, dict]:
    """`rows` by the number of things: of one and two together, of each, and of all."""
    groups = {"one or two things": (1, 2), "one thing": (1,), "two things": (2,), "three things": (3,), "all": (1, 2, 3)}
    out = {}
    for name, numbers in groups.items():
        chosen = [v for v, (_, scene) in zip(verdicts, cases) if len(scene.objects) in numbers]
        if chosen:
            out[name] = {"prompts": len(chosen)} | rows(chosen)
    return out


def tile(images: list[np.ndarray], right: list[bool], across: int, texts: list[str] | None = None) -> Image.Image:
    """All images in rows of `across`; wrong ones have a red frame, and `texts` stand below."""
    height = 132 + (24 if texts else 0)
    grid = Image.new("RGB", (across * 132, -(-len(images) // across) * height), "white")
    for i, (image, ok) in enumerate(zip(images, right)):
        corner = i % across * 132, i // across * height
        framed = Image.new("RGB", (132, 132), "white" if ok else "red")
        framed.paste(Image.fromarray((image * 255).round().astype(np.uint8)), (2, 2))
        grid.paste(framed, corner)
        if texts:
            text = "\n".join(textwrap.wrap(texts[i], 25))
            ImageDraw.Draw(grid).text((corner[0] + 2, corner[1] + 132), text, fill="black", font_size=9, spacing=1)
    return grid


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--out")
    p.add_argument("--grid", help="a PNG of all images; wrong ones have a red frame")
    p.add_argument("--samples", help="a small PNG of every fourth image")
    p.add_argument("--free", help="a file with one prompt a line, drawn in place of the held-out prompts")
    p.add_argument("--unknown", type=int, default=0, help="so many prompts with a word that training never saw: what is drawn beside it")
    p.add_argument("--count", type=int, default=200)
    p.add_argument("--prompt-seed", type=int, default=PROMPT_SEED)
    p.add_argument("--steps", type=int, help="in place of the checkpoint's own")
    p.add_argument("--guidance", type=float)
    a = p.parse_args()
    settings = json.loads((Path(a.model) / "attnmap.json").read_text())
    steps, guidance = a.steps or settings["steps"], a.guidance or settings["guidance_scale"]
    pipeline = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    if a.free:
        texts = [line for line in Path(a.free).read_text("utf-8").splitlines() if line]
        images = draw(pipeline, texts, steps, guidance)
        if a.grid:
            tile(images, [True] * len(images), 8, texts).save(a.grid)
        return
    cases = world.prompts(a.count, a.prompt_seed)
    images = draw(pipeline, [text for text, _ in cases], steps, guidance)
    verdicts = [judge.judge(image, scene) for image, (_, scene) in zip(images, cases)]
    lines, wrong, asked = [], Counter(), Counter()
    for seed, ((text, scene), v) in enumerate(zip(cases, verdicts)):
        found = [str(f) for f in v.found]
        parts = {"things": v.things, "colours": v.colours, "sizes": v.sizes, "relation": v.relation, "place": v.place}
        lines.append(json.dumps({"prompt": text, "seed": seed, "found": found, "blobs": v.blobs} | parts))
        missing = Counter(o.noun for o in scene.objects) - Counter(f.noun for f in v.found)
        wrong.update(missing)
        asked.update(o.noun for o in scene.objects)
        if not v.right:
            faults = [name for name, part in parts.items() if part is False]
            print(f"{seed:3d} {text}: found {', '.join(found) or 'nothing'}; {v.blobs} blobs; wrong: {', '.join(faults)}")
    result = summary(cases, verdicts)
    print(f"{'percent':28s}" + "".join(f"{name:>18s}" for name in result))
    for name in next(iter(result.values())):
        cells = ("" if r[name] is None else f"{r[name]:.1f}" for r in result.values())
        print(f"{name:28s}" + "".join(f"{cell:>18s}" for cell in cells))
    print("nouns that were asked for and not found:", {n: f"{k} of {asked[n]}" for n, k in wrong.most_common()})
    unknown = beside_unknown(cases)[: a.unknown]
    beside = draw(pipeline, [text for text, *_ in unknown], steps, guidance, UNKNOWN_SEED)
    others = []
    for k, ((text, word, left, place), image) in enumerate(zip(unknown, beside)):
        found = {f.noun for f in judge.find(image, place)}
        drawn = [n for n in left if n in found]
        others.append(json.dumps({"prompt": text, "seed": UNKNOWN_SEED + k, "word": word, "drawn": drawn}))
    if a.out:
        head = {"prompts": len(cases), "prompt_seed": a.prompt_seed, "steps": steps, "guidance_scale": guidance}
        head |= {"match_threshold": judge.MATCH, "percent": result}
        text = json.dumps(head, indent=2)[:-2] + ',\n  "images": [\n    ' + ",\n    ".join(lines) + "\n  ]"
        text += ',\n  "unknown": [\n    ' + ",\n    ".join(others) + "\n  ]\n}\n" if others else "\n}\n"
        Path(a.out).write_text(text)
    right = [v.right for v in verdicts]
    if a.grid:
        tile(images, right, 10, [text for text, _ in cases]).save(a.grid)
    if a.samples:
        every = slice(0, None, 4)
        tile(images[every], right[every], 9).quantize(256, dither=Image.Dither.NONE).save(a.samples, optimize=True)


if __name__ == "__main__":
    main()
