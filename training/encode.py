"""Encodes training scenes into latents once, so that data never holds up the training loop.

    python encode.py --vae work/vae --out work/a.npz --count 16000 --seed 1
"""
import argparse
import json
import random
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

import world
from device import DEVICE, LAYOUT


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--vae", required=True)
    p.add_argument("--out", required=True)
    p.add_argument("--count", type=int, default=30000)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    vae = AutoencoderKL.from_pretrained(a.vae, torch_dtype=torch.float32).eval().to(DEVICE, memory_format=LAYOUT)
    rng = random.Random(f"attnmap scenes {a.seed}")
    scenes = [world.training_scene(rng) for _ in range(a.count)]
    latents, start = [], time.time()
    for i in range(0, a.count, 100):
        images = np.stack([world.render(s)[0] for s in scenes[i : i + 100]])
        x = torch.from_numpy(images).to(DEVICE).permute(0, 3, 1, 2) * 2 - 1
        mean = vae.encode(x).latent_dist.mean
        latents.append(mean.cpu().numpy().astype(np.float16) * np.float16(vae.config.scaling_factor))
        if i % 500 == 0:
            print(f"{i} scenes, {time.time() - start:.0f} s", flush=True)
    part = Path(a.out).with_suffix(".tmp.npz")  # whole or not at all
    np.savez(part, latents=np.concatenate(latents), scenes=json.dumps([asdict(s) for s in scenes]))
    part.rename(a.out)


if __name__ == "__main__":
    main()
