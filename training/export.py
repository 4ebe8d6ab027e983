"""Writes the averaged (EMA) weights of a training state as a diffusers folder in f16, safetensors only.

    python export.py --init models/default --state state/state.pt --out models/default [--steps 25 --guidance 3.0]

Configs, tokenizer, scheduler and VAE are copied from `--init` byte for byte; UNet and text encoder come from the state.
"""
import argparse
import json
import shutil
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from transformers import CLIPTextModel

import world

DESCRIPTION = (
    f"A demonstration model with a world of {len(world.NOUNS)} things, {len(world.PAINTED)} of them in six colours: one to three of them, small or big, "
    "beside, above or below each other, in ten places. Made to show attention, not to draw anything you ask for."
)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init", required=True)
    p.add_argument("--state", required=True)
    p.add_argument("--vae", help="a VAE in place of that of --init, with the same encoder")
    p.add_argument("--out", required=True)
    p.add_argument("--steps", type=int, default=25)
    p.add_argument("--guidance", type=float, default=3.0)
    p.add_argument("--raw", action="store_true", help="the weights as trained, not their average")
    a = p.parse_args()
    init, out = Path(a.init), Path(a.out)
    unet = UNet2DConditionModel.from_pretrained(init / "unet", torch_dtype=torch.float32)
    text_encoder = CLIPTextModel.from_pretrained(init / "text_encoder", dtype=torch.float32).float()
    state = torch.load(a.state, map_location="cpu")
    with torch.no_grad():
        for q, v in zip([*unet.parameters(), *text_encoder.parameters()], state["params" if a.raw else "ema"], strict=True):
            q.copy_(v)
    out.mkdir(parents=True, exist_ok=True)
    if a.vae and init.resolve() == out.resolve():
        p.error("--vae needs an --out that is not --init")
    if init.resolve() != out.resolve():
        shutil.copy(init / "model_index.json", out)
        for part in ("scheduler", "tokenizer", "vae"):
            shutil.rmtree(out / part, ignore_errors=True)
            shutil.copytree(a.vae if a.vae and part == "vae" else init / part, out / part)
    unet.register_to_config(_name_or_path="attnmap/unet")  # else the config keeps the path it was loaded from
    unet.half().save_pretrained(out / "unet")
    text_encoder.half().save_pretrained(out / "text_encoder")
    settings = {
        "description": DESCRIPTION,
        "steps": a.steps,
        "guidance_scale": a.guidance,
        "size": [world.SIZE, world.SIZE],
        "vocabulary": world.VOCABULARY,
        "kinds": world.KINDS,
        "near": world.NEAR,
    }
    (out / "attnmap.json").write_text(json.dumps(settings, indent=2) + "\n")
    print(f"{state['seen']} samples, {state['minutes']:.0f} minutes -> {out}")


if __name__ == "__main__":
    main()
