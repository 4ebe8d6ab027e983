"""Measures how well cross-attention finds objects on scenes whose masks are known, with diffusers and independently of attnmap.

    python measure_attention.py --model models/default --scenes tests/data/scenes/final --out tests/fixtures/accuracy.json

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
   `compete`: the last up block; there each text token's map becomes its share of what the caption's text tokens (start, end and
   padding left aside) have together in the cell, to the power 0.8, scaled to keep its maximum; a noun's map is the mean over its tokens.
6. The map is resized bicubically, as above, from the latent grid to the image's and clamped at 0. Predicted mask: value >= 0.4 x the map's maximum.
   IoU = |predicted and mask| / |predicted or mask| at image resolution. The pointing game asks whether the first maximum lies in the mask.
7. Figures are means over all (scene, t, noun).
8. Where the scenes list colours, a colour's mass is what its map (as in 4 to 6, before the threshold) has in its own thing's mask, as a share of
   what it has in all things' masks together; only scenes with several nouns count. The figures are the mean, and how often it is over 1/2.

Baselines, judged in the same way: the whole image; a disk of radius 32 px around the image's centre (pixel centres at +1/2); the other
noun's map under `last up block` (scenes with two nouns only); and as the ceiling of a 16 x 16 map the exact mask, averaged over 8 x 8 px
cells, through step 6.
"""
import argparse
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
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
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        k = attn.head_to_batch_dim(attn.to_k(context))
        v = attn.head_to_batch_dim(attn.to_v(context))
        probabilities = (q @ k.transpose(1, 2) * attn.scale).softmax(-1)  # [heads, positions, tokens]
        self.kept[self.name] = probabilities
        return attn.to_out[0](attn.batch_to_head_dim(probabilities @ v))


def resize(maps: torch.Tensor, size: int) -> torch.Tensor:
    """[n, h, w] to [n, size, size]."""
    if maps.shape[-1] != size:
        maps = F.interpolate(maps[:, None], (size, size), mode="bicubic", align_corners=False)[:, 0]
    return maps.clamp(min=0)


LITTLE = set("a an the and or of to on in at is with left right above below next beside there".split())


def compete(maps: torch.Tensor, power: float = 0.8, unnamed: float = 1.0) -> torch.Tensor:
    """[text tokens, h, w] to each token's share of a cell to a power, with the maximum that it had. Beside the tokens a cell has a part
    that goes to none of them: `unnamed` times what the tokens have in a cell on average."""
    total = maps.sum(0)
    shares = (maps / (total + unnamed * total.mean()).clamp(min=1e-30)) ** power
    return shares * (maps.amax((1, 2)) / shares.amax((1, 2)).clamp(min=1e-30))[:, None, None]


def compare(image_map: torch.Tensor, mask: torch.Tensor) -> tuple[float, float]:
    """IoU and whether the maximum lies in the mask."""
    predicted = image_map >= THRESHOLD * image_map.max()
    iou = (predicted & mask).sum() / (predicted | mask).sum()
    return iou.item(), mask.flatten()[image_map.argmax()].float().item()


def record(pipe: StableDiffusionPipeline, suffix: str | tuple[str, ...] = ".attn2") -> dict[str, torch.Tensor]:
    """Sets processors that keep the probabilities of every attention whose name ends in `suffix` (or one of them); they are found in what is returned."""
    kept: dict[str, torch.Tensor] = {}
    for name, module in pipe.unet.named_modules():
        if name.endswith(suffix):
            module.set_processor(Recording(name, kept))
    return kept


@dataclass
class Look:
    """One scene: its objects' masks, and what is needed to call the UNet on it."""

    latent: torch.Tensor
    context: torch.Tensor
    masks: list[torch.Tensor]
    tokens: list[list[int]]
    """Of each object."""
    colours: list[tuple[list[int], int]]
    """Of each colour word its tokens and the number of its object."""
    text: list[int]
    """All text tokens: no start, end, padding."""
    content: list[int]
    """Those of them that name, colour or place a thing: not the little words."""
    index: int
    side: int

    def call(self, pipe: StableDiffusionPipeline, t: int) -> None:
        noise = torch.randn(self.latent.shape, generator=torch.Generator().manual_seed(1000 * self.index + t))
        pipe.unet(pipe.scheduler.add_noise(self.latent, noise, torch.tensor([t])), t, self.context)


def looks(pipe: StableDiffusionPipeline, folder: Path) -> Iterator[Look]:
    """Every scene of a folder, encoded."""
    for index, scene in enumerate(json.loads((folder / "scenes.json").read_text())["scenes"]):
        pixels = torch.from_numpy(np.asarray(Image.open(folder / scene["image"]), np.float32))
        x = (pixels / 127.5 - 1).permute(2, 0, 1)[None]
        latent = pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor
        encoded = pipe.tokenizer(scene["caption"], padding="max_length", return_offsets_mapping=True)
        context = pipe.text_encoder(torch.tensor([encoded["input_ids"]])).last_hidden_state
        text = [k for k, (s, e) in enumerate(encoded["offset_mapping"]) if s < e]
        inside = lambda start, end: [k for k in text if encoded["offset_mapping"][k][0] >= start and encoded["offset_mapping"][k][1] <= end]
        masks = [torch.from_numpy(np.array(Image.open(folder / noun["mask"])) > 127) for noun in scene["nouns"]]
        tokens = [inside(*noun["range"]) for noun in scene["nouns"]]
        files = [noun["mask"] for noun in scene["nouns"]]
        colours = [(inside(*colour["range"]), files.index(colour["mask"])) for colour in scene.get("colours", [])]
        little = lambda k: scene["caption"][slice(*encoded["offset_mapping"][k])].strip() in LITTLE
        content = [k for k in text if not little(k)]
        yield Look(latent, context, masks, tokens, colours, text, content, index, x.shape[-1])


def planes(probabilities: torch.Tensor, tokens: list[int], grid: int) -> torch.Tensor:
    """[heads, positions, tokens] to the chosen tokens' maps on the latent grid, [heads, tokens, grid, grid]."""
    site = math.isqrt(probabilities.shape[1])
    return resize(probabilities[:, :, tokens].permute(0, 2, 1).unflatten(2, (site, site)).flatten(0, 1), grid).unflatten(0, (-1, len(tokens)))


def of_words(maps: torch.Tensor, look: Look, words: list[list[int]]) -> torch.Tensor:
    """[text tokens, h, w] to [words, h, w]: the mean over each word's tokens."""
    return torch.stack([maps[[look.text.index(k) for k in tokens]].mean(0) for tokens in words])


def of_nouns(maps: torch.Tensor, look: Look) -> torch.Tensor:
    """[text tokens, h, w] to [nouns, h, w]: the mean over each noun's tokens."""
    return of_words(maps, look, look.tokens)


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scenes", required=True)
    p.add_argument("--out")
    a = p.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    kept = record(pipe)
    last_up = f"up_blocks.{len(pipe.unet.config.up_block_types) - 1}."

    results: dict[str, list[tuple[float, float]]] = {}
    colours: dict[str, list[float]] = {}
    by_time: dict[int, list[float]] = {t: [] for t in TIMESTEPS}
    folder = Path(a.scenes)
    scenes = json.loads((folder / "scenes.json").read_text())["scenes"]
    for look in looks(pipe, folder):
        side, masks, grid = look.side, look.masks, look.latent.shape[-1]
        y, z = torch.meshgrid(*[torch.arange(side) + 0.5 - side / 2] * 2, indexing="ij")
        for mask in masks:
            disk = (y**2 + z**2 <= 32**2).float()
            cells = F.avg_pool2d(mask.float()[None], side // grid)
            for name, image_map in (("whole image", torch.ones(side, side)), ("centre disk", disk), ("ceiling", resize(cells, side)[0])):
                results.setdefault(name, []).append(compare(image_map, mask))
        for t in TIMESTEPS:
            look.call(pipe, t)
            sites = {}  # name -> (side of the site grid, [heads, text tokens, latent grid, latent grid])
            for name, probabilities in kept.items():
                site = math.isqrt(probabilities.shape[1])
                if not name.startswith("mid") and site * 8 > grid:
                    sites[name] = site, planes(probabilities, look.text, grid)
            rules = {"daam": list(sites)}
            for n in sorted({site for site, _ in sites.values()}, reverse=True):
                rules[f"resolution {n}"] = [s for s in sites if sites[s][0] == n]
            rules["last up block"] = [s for s in sites if s.startswith(last_up)]
            maps_of = {rule: torch.cat([sites[s][1] for s in names]).mean(0) for rule, names in rules.items()}
            maps_of["compete"] = compete(maps_of["last up block"])
            for rule, maps in maps_of.items():
                image_maps = resize(of_nouns(maps, look), side)
                for k, mask in enumerate(masks):
                    results.setdefault(rule, []).append(compare(image_maps[k], mask))
                    if rule == "last up block":
                        by_time[t].append(results[rule][-1][0])
                        if len(masks) == 2:
                            results.setdefault("the other noun's map", []).append(compare(image_maps[1 - k], mask))
                if look.colours and len(masks) > 1:
                    image_maps = resize(of_words(maps, look, [k for k, _ in look.colours]), side)
                    for image_map, (_, own) in zip(image_maps, look.colours):
                        mass = [(image_map * mask).sum().item() for mask in masks]
                        colours.setdefault(rule, []).append(mass[own] / max(sum(mass), 1e-30))
    nouns = sum(len(s["nouns"]) for s in scenes)
    out = {"scenes": len(scenes), "nouns": nouns, "timesteps": TIMESTEPS, "noise_seed": "1000 * scene + t", "threshold": THRESHOLD}
    out["mean_iou"] = {k: round(sum(v[0] for v in r) / len(r), 5) for k, r in results.items()}
    out["pointing"] = {k: round(sum(v[1] for v in r) / len(r), 5) for k, r in results.items() if k not in ("whole image", "centre disk", "ceiling")}
    out["mean_iou_of_last_up_block_at_t"] = {t: round(sum(v) / len(v), 5) for t, v in by_time.items()}
    if colours:
        figures = {k: (round(sum(v) / len(v), 5), round(sum(m > 0.5 for m in v) / len(v), 5)) for k, v in colours.items()}
        out["colour_mass_on_its_thing"] = {k: {"mean": mean, "over_half": over} for k, (mean, over) in figures.items()}
    text = json.dumps(out, indent=2) + "\n"
    print(text, end="")
    if a.out:
        Path(a.out).write_text(text)


if __name__ == "__main__":
    main()
