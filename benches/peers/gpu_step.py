"""Seconds per step of diffusers with its fused attention (SDPA), on the same checkpoint and in the same format."""

import argparse
import json
import time
from pathlib import Path

import torch
from diffusers import DiffusionPipeline

parser = argparse.ArgumentParser()
parser.add_argument("model")
parser.add_argument("--device", default="cuda")
parser.add_argument("--dtype", default="float16")
parser.add_argument("--size", type=int, default=512)
parser.add_argument("--steps", type=int, default=20)
arguments = parser.parse_args()

index = json.loads((Path(arguments.model) / "model_index.json").read_text())
# Parts that the checkpoint leaves out have to be named as left out, such as T5 of Stable Diffusion 3.
absent = {name: None for name, part in index.items() if isinstance(part, list) and part[0] is None}
pipeline = DiffusionPipeline.from_pretrained(
    arguments.model, torch_dtype=getattr(torch, arguments.dtype), **{"safety_checker": None, "feature_extractor": None, **absent}
).to(arguments.device)
pipeline.set_progress_bar_config(disable=True)


def wait():
    if arguments.device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


best = float("inf")
for _ in range(3):
    marks = []
    pipeline(
        "a red apple to the left of a blue heart on the beach",
        num_inference_steps=arguments.steps,
        height=arguments.size,
        width=arguments.size,
        callback_on_step_end=lambda pipeline, index, timestep, values: marks.append(wait()) or values,
    )
    steps = sorted(b - a for a, b in zip(marks, marks[1:]))
    best = min(best, steps[len(steps) // 2])
print(f"diffusers: {arguments.device} {arguments.dtype} {arguments.size}x{arguments.size}: {best:.4f} s per step")
