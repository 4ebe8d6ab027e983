"""Measures how well cross-attention finds objects on scenes whose masks are known, with diffusers and independently of attnmap.

    python measure_attention.py --model models/default --scenes tests/data/scenes/report --out tests/fixtures/accuracy.json

Everything is f32, and exactly this, so that another implementation can give the same numbers:

1. x = pixel / 127.5 - 1, [1, 3, 128, 128]; latent = mean of the VAE encoder's distribution x scaling_factor, [1, 4, 16, 16].
2. For scene i (its place in scenes.json, from 0) and each t in (300, 450, 600): noise = torch.randn((1, 4, 16, 16),
   generator=torch.Generator().manual_seed(1000 * i + t)); noisy = sqrt(abar_t) latent + sqrt(1 - abar_t) noise, where abar_t is the
   cumulative product at index t of 1 - beta of the checkpoint's scheduler.
3. One call of the UNet on `noisy` at t with the caption alone (no guidance), the caption padded to model_max_length. At every cross-attention
   site (attn2) the probabilities softmax(q k^T / sqrt(d)) are kept: [heads, site grid, tokens].
4. A noun's map at a site and head is the mean of the probabilities over the noun's tokens (those whose offsets lie in the noun's range),
   resized from the site grid to the latent grid (torch's bicubic: a = -0.75, half-pixel centres, clamped border, no antialiasing; no-op
   where the grids are equal) and clamped at 0.
5. A rule names the sites it uses; its map is the mean over them and their heads. `daam`: all sites in down and up blocks (not mid) with
   a grid finer than 1/8 of the latent grid. `resolution N`: those of them with an N x N grid. `last up block`: those in the last up block.
6. The map is resized bicubically, as above, from the latent grid to the image's and clamped at 0. Predicted mask: value >= 0.4 x the map's maximum.
   IoU = |predicted and mask| / |predicted or mask| at image resolution. The pointing game asks whether the first maximum lies in the mask.
7. Figures are means over all (scene, t, noun).

Baselines, judged in the same way: the whole image; a disk of radius 32 px around the image's centre (pixel centres at +1/2); the other
noun's map under `last up block` (scenes with two nouns only); and as the ceiling of a 16 x 16 map the exact mask, averaged over 8 x 8 px
cells, through step 6.
"""
import argparse
import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import StableDiffusionPipeline
from PIL import Image

TIMESTEPS = (300, 450, 600)
THRESHOLD = 0.4


class Recording:
    """An attention processor: diffusers' plain computation, keeping the probabilities."""

    def __init__(self, name: str, kept: dict[str, torch.Tensor]):
        self.name, self.kept = name, kept

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, **_):
        q = attn.head_to_batch_dim(attn.to_q(hidden_states))
        k = attn.head_to_batch_dim(attn.to_k(encoder_hidden_states))
        v = attn.head_to_batch_dim(attn.to_v(encoder_hidden_states))
        probabilities = (q @ k.transpose(1, 2) * attn.scale).softmax(-1)  # [heads, positions, tokens]
        self.kept[self.name] = probabilities
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ v))


def resize(maps: torch.Tensor, size: int) -> torch.Tensor:
    """[n, h, w] to [n, size, size]."""
    if maps.shape[-1] != size:
        maps = F.interpolate(maps[:, None], (size, size), mode="bicubic", align_corners=False)[:, 0]
    return maps.clamp(min=0)


def compare(image_map: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """IoU and whether the maximum lies in the mask."""
    predicted = image_map >= THRESHOLD * image_map.max()
    iou = (predicted & mask).sum() / (predicted | mask).sum()
    return iou.item(), mask.flatten()[image_map.argmax()].float().item()


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scenes", required=True)
    p.add_argument("--out")
    a = p.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    kept: dict[str, torch.Tensor] = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(".attn2"):
            module.set_processor(Recording(name, kept))
    last_up = f"up_blocks.{len(pipe.unet.config.up_block_types) - 1}."

    results: dict[str, list[tuple[float, float]]] = {}
    by_time: dict[int, list[float]] = {t: [] for t in TIMESTEPS}
    folder = Path(a.scenes)
    scenes = json.loads((folder / "scenes.json").read_text())["scenes"]
    for i, scene in enumerate(scenes):
        pixels = torch.from_numpy(np.asarray(Image.open(folder / scene["image"]), np.float32))
        x = (pixels / 127.5 - 1).permute(2, 0, 1)[None]
        side = x.shape[-1]
        latent = pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor
        grid = latent.shape[-1]
        encoded = pipe.tokenizer(scene["caption"], padding="max_length", return_offsets_mapping=True)
        context = pipe.text_encoder(torch.tensor([encoded["input_ids"]])).last_hidden_state
        masks, tokens = [], []
        for noun in scene["nouns"]:
            masks.append(torch.from_numpy(np.array(Image.open(folder / noun["mask"])) > 127))
            start, end = noun["range"]
            tokens.append([k for k, (s, e) in enumerate(encoded["offset_mapping"]) if s < e and s >= start and e <= end])
        y, z = torch.meshgrid(*[torch.arange(side) + 0.5 - side / 2] * 2, indexing="ij")
        for mask in masks:
            disk = (y**2 + z**2 <= 32**2).float()
            cells = F.avg_pool2d(mask.float()[None], side // grid)
            for name, image_map in (("whole image", torch.ones(side, side)), ("centre disk", disk), ("ceiling", resize(cells, side)[0])):
                results.setdefault(name, []).append(compare(image_map, mask))
        for t in TIMESTEPS:
            noise = torch.randn(latent.shape, generator=torch.Generator().manual_seed(1000 * i + t))
            noisy = pipe.scheduler.add_noise(latent, noise, torch.tensor([t]))
            pipe.unet(noisy, t, context)
            sites = {}  # name -> (site grid, [nouns, heads, latent grid, latent grid])
            for name, probabilities in kept.items():
                site = math.isqrt(probabilities.shape[1])
                if name.startswith("mid") or site * 8 <= grid:
                    continue
                per_noun = [probabilities[:, :, k].mean(-1).unflatten(1, (site, site)) for k in tokens]
                sites[name] = site, torch.stack([resize(m, grid) for m in per_noun])
            rules = {"daam": list(sites)}
            for n in sorted({site for site, _ in sites.values()}, reverse=True):
                rules[f"resolution {n}"] = [s for s in sites if sites[s][0] == n]
            rules["last up block"] = [s for s in sites if s.startswith(last_up)]
            for rule, names in rules.items():
                maps = torch.cat([sites[s][1] for s in names], 1).mean(1)
                image_maps = resize(maps, side)
                for k, mask in enumerate(masks):
                    results.setdefault(rule, []).append(compare(image_maps[k], mask))
                    if rule == "last up block":
                        by_time[t].append(results[rule][-1][0])
                        if len(masks) == 2:
                            results.setdefault("the other noun's map", []).append(compare(image_maps[1 - k], mask))
    nouns = sum(len(s["nouns"]) for s in scenes)
    out = {"scenes": len(scenes), "nouns": nouns, "timesteps": TIMESTEPS, "noise_seed": "1000 * scene + t", "threshold": THRESHOLD}
    out["mean_iou"] = {k: round(sum(v[0] for v in r) / len(r), 5) for k, r in results.items()}
    out["pointing"] = {k: round(sum(v[1] for v in r) / len(r), 5) for k, r in results.items() if k not in ("whole image", "centre disk", "ceiling")}
    out["mean_iou_of_last_up_block_at_t"] = {t: round(sum(v) / len(v), 5) for t, v in by_time.items()}
    text = json.dumps(out, indent=2) + "\n"
    print(text, end="")
    if a.out:
        Path(a.out).write_text(text)


if __name__ == "__main__":
    main()
