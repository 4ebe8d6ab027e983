"""Draws 100 held-out prompts with a checkpoint's own default settings, judges the images, and writes the numbers.

    python evaluate.py --model models/default --out models/default/evaluation.json --grid grid.png

The prompts come from `world.prompts` with a seed that training never uses; image i starts from torch's CPU generator with seed i.
"""
import argparse
import json
from collections import Counter
from pathlib import Path

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

import judge
import world

PROMPT_SEED = 2024


def draw(pipeline, prompts: list[str], steps: int, guidance: float, first_seed: int = 0, batch: int = 10) -> list[np.ndarray]:
    """One image a prompt, [128, 128, 3] float in 0..1; image i has seed first_seed + i."""
    images = []
    for i in range(0, len(prompts), batch):
        text = prompts[i : i + batch]
        seeds = [torch.Generator().manual_seed(first_seed + i + k) for k in range(len(text))]
        with torch.inference_mode():
            images += list(pipeline(text, num_inference_steps=steps, guidance_scale=guidance, generator=seeds, output_type="np").images)
    return images


def summary(verdicts: list[judge.Verdict]) -> dict:
    """The figures of the bar, in percent."""
    two = [v for v in verdicts if v.relation is not None]
    percent = lambda hits, of: round(100 * sum(hits) / max(1, len(of)), 1)
    return {
        "objects_right": percent((v.objects for v in verdicts), verdicts),
        "objects_right_of_two_object_prompts": percent((v.objects for v in two), two),
        "relation_right_of_two_object_prompts": percent((v.relation for v in two), two),
        "place_right": percent((v.place for v in verdicts), verdicts),
        "all_right": percent((v.right for v in verdicts), verdicts),
    }


def tile(images: list[np.ndarray], right: list[bool], across: int) -> Image.Image:
    """All images in rows of `across`; wrong ones have a red frame."""
    grid = Image.new("RGB", (across * 132, -(-len(images) // across) * 132), "white")
    for i, (image, ok) in enumerate(zip(images, right)):
        framed = Image.new("RGB", (132, 132), "white" if ok else "red")
        framed.paste(Image.fromarray((image * 255).round().astype(np.uint8)), (2, 2))
        grid.paste(framed, (i % across * 132, i // across * 132))
    return grid


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--out")
    p.add_argument("--grid", help="a PNG of all images; wrong ones have a red frame")
    p.add_argument("--samples", help="a small PNG of every fourth image")
    p.add_argument("--count", type=int, default=100)
    p.add_argument("--prompt-seed", type=int, default=PROMPT_SEED)
    p.add_argument("--steps", type=int, help="in place of the checkpoint's own")
    p.add_argument("--guidance", type=float)
    a = p.parse_args()
    settings = json.loads((Path(a.model) / "attnmap.json").read_text())
    steps, guidance = a.steps or settings["steps"], a.guidance or settings["guidance_scale"]
    pipeline = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    cases = world.prompts(a.count, a.prompt_seed)
    images = draw(pipeline, [text for text, _ in cases], steps, guidance)
    verdicts = [judge.judge(image, scene) for image, (_, scene) in zip(images, cases)]
    rows, wrong = [], Counter()
    for seed, ((text, scene), v) in enumerate(zip(cases, verdicts)):
        found = [f"{f.colour} {f.noun}" if f.colour else f.noun for f in v.found]
        rows.append({"prompt": text, "seed": seed, "found": found, "blobs": v.blobs, "objects": v.objects, "relation": v.relation, "place": v.place})
        if not v.objects:
            wrong.update(o.noun for o in scene.objects)
        if not v.right:
            print(f"{seed:3d} {text}: found {', '.join(found) or 'nothing'}; {v.blobs} blobs; relation {v.relation}; place {v.place}")
    result = summary(verdicts)
    for name, value in result.items():
        print(f"{name:40s} {value:5.1f} %")
    print("nouns of images with wrong objects:", dict(wrong.most_common()))
    if a.out:
        head = {"prompts": len(cases), "two_object_prompts": sum(s.relation is not None for _, s in cases), "prompt_seed": a.prompt_seed}
        head |= {"steps": steps, "guidance_scale": guidance, "match_threshold": judge.MATCH}
        lines = ",\n    ".join(json.dumps(r) for r in rows)
        text = json.dumps(head | result, indent=2)[:-2] + f',\n  "images": [\n    {lines}\n  ]\n}}\n'
        Path(a.out).write_text(text)
    right = [v.right for v in verdicts]
    if a.grid:
        tile(images, right, 10).save(a.grid)
    if a.samples:
        every = slice(0, None, 4)
        tile(images[every], right[every], 9).quantize(256, dither=Image.Dither.NONE).save(a.samples, optimize=True)


if __name__ == "__main__":
    main()
