"""Tries rules for making heat maps on scenes whose masks are known, with diffusers: the table of what was tried in ACCURACY.md.

    python try_rules.py --model models/default --scenes tests/data/scenes/select tests/data/scenes/report

Scenes, noise and judging are those of measure_attention.py. Every rule works on probabilities [heads, tokens, latent grid] of sites chosen
by name; `share` turns a cell's values into shares of the caption's text tokens and takes them to the power 0.8, as `compete` does. In
each cell there is a part for no word, as large as what the words have in a cell on average, unless a row says otherwise.
The figure is the mean IoU at 0.4 of a map's maximum. Nothing in `final` is looked at here.
"""
import argparse
import math
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from measure_attention import TIMESTEPS, compare, compete, looks, of_nouns, planes, record, resize


def spread(maps: torch.Tensor, attention: torch.Tensor, part: float) -> torch.Tensor:
    """(1 - part) of each map [tokens, h, w] and `part` of it carried along a site's self-attention [heads, queries, keys] (head mean)."""
    carried = (attention.mean(0) @ maps.flatten(1).T).T.unflatten(1, maps.shape[1:])
    return (1 - part) * maps + part * carried


def sharpened(maps: torch.Tensor, attention: torch.Tensor, times: int) -> torch.Tensor:
    """Each map carried along the self-attention `times` times, as in diffusion segmentation work (self-attention to a power)."""
    for _ in range(times):
        maps = spread(maps, attention, 1.0)
    return maps


def rules(cross: dict[str, torch.Tensor], own: dict[str, torch.Tensor], text: list[int], content: list[int], grid: int, heads: list[int]) -> dict[str, torch.Tensor]:
    """Every rule's maps of the text tokens, [tokens, h, w]."""
    names = list(cross)
    up = [name for name in names if name.startswith("up")]
    last, before = up[-1], up[-2]
    last_block = [name for name in up if name.split(".")[1] == last.split(".")[1]]
    side = {name: math.isqrt(cross[name].shape[1]) for name in names}
    maps = {name: planes(cross[name], text, grid) for name in names}
    mean = lambda chosen: torch.cat([maps[name] for name in chosen]).mean(0)
    fine = [name for name in names if side[name] == grid and not name.startswith("mid")]
    daam = [name for name in names if side[name] * 8 > grid and not name.startswith("mid")]
    with_start = torch.cat([planes(cross[name], [0, *text], grid) for name in last_block]).mean(0)
    share = compete(maps[last].mean(0), 1.0)
    share_before = compete(maps[before].mean(0), 1.0)
    attention = own[last.replace("attn2", "attn1")]
    block = mean(last_block)
    out = {
        "share, last up block (`compete`)": compete(block),
        "share, last site": compete(maps[last].mean(0)),
        "the last up block, no competition (`last-up`)": block,
        "the last site, no competition": maps[last].mean(0),
        "share with the start token competing and no part for no word, last up block": compete(with_start, unnamed=0.0)[1:],
        "share a head, then the mean, last site": torch.stack([compete(head) for head in maps[last]]).mean(0),
        "share, the best half of the last site's heads on `select`": compete(maps[last][heads].mean(0)),
        "share, the last two sites 1 to 3": ((share_before + 3 * share) / 4) ** 0.8,
        "share, all sites on the latent grid": compete(mean(fine)),
        "share, DAAM's sites": compete(mean(daam)),
    }
    for unnamed in (0.0, 0.5, 2.0):
        out[f"share with {unnamed} of the mean for no word, last up block"] = compete(block, unnamed=unnamed)
        of_content = block[[text.index(k) for k in content]].sum(0)
        out[f"share among the content words and {unnamed} of their mean, last up block"] = (block / (of_content + unnamed * of_content.mean()).clamp(min=1e-30)) ** 0.8
    for power in (0.6, 1.0, 1.2):
        out[f"share to the power {power}, last up block"] = compete(block, power)
    for part in (0.2, 0.5):
        out[f"share, spread by {part} along the last site's self-attention"] = spread(compete(block), attention, part)
    for times in (1, 2):
        out[f"last-up carried {times}x along the last site's self-attention, no competition"] = sharpened(block, attention, times)
    out["last-up carried 1x along the last site's self-attention, shared out"] = compete(sharpened(block, attention, 1))
    return out


@torch.inference_mode()
def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--model", required=True)
    p.add_argument("--scenes", required=True, nargs="+", help="the first is what heads are chosen on")
    a = p.parse_args()
    pipe = StableDiffusionPipeline.from_pretrained(a.model, torch_dtype=torch.float32)
    kept = record(pipe, (".attn1", ".attn2"))

    # Which heads of the last site find objects best, each on its own with competition.
    scored: dict[int, list[float]] = {}
    for look in looks(pipe, Path(a.scenes[0])):
        for t in TIMESTEPS:
            look.call(pipe, t)
            last = [name for name in kept if name.endswith("attn2") and name.startswith("up")][-1]
            for head, maps in enumerate(planes(kept[last], look.text, look.latent.shape[-1])):
                for map_, mask in zip(resize(of_nouns(compete(maps), look), look.side), look.masks):
                    scored.setdefault(head, []).append(compare(map_, mask)[0])
    ranked = sorted(scored, key=lambda head: -sum(scored[head]))
    print("heads of the last site on", a.scenes[0], {head: round(sum(v) / len(v), 3) for head, v in scored.items()})
    heads = ranked[: max(1, len(ranked) // 2)]

    table: dict[str, dict[str, dict[int, list[float]]]] = {}
    for folder in a.scenes:
        for look in looks(pipe, Path(folder)):
            for t in TIMESTEPS:
                look.call(pipe, t)
                cross = {name: value for name, value in kept.items() if name.endswith("attn2")}
                own = {name: value for name, value in kept.items() if name.endswith("attn1")}
                for rule, maps in rules(cross, own, look.text, look.content, look.latent.shape[-1], heads).items():
                    for map_, mask in zip(resize(of_nouns(maps, look), look.side), look.masks):
                        table.setdefault(rule, {}).setdefault(folder, {}).setdefault(t, []).append(compare(map_, mask)[0])
    print("rule |", " | ".join(Path(f).name for f in a.scenes), "| at t =", ", ".join(map(str, TIMESTEPS)), "on the first")
    for rule, found in table.items():
        means = [sum(map(sum, found[f].values())) / sum(map(len, found[f].values())) for f in a.scenes]
        by_time = [sum(v) / len(v) for v in found[a.scenes[0]].values()]
        print(rule, "|", " | ".join(f"{m:.3f}" for m in means), "|", ", ".join(f"{m:.3f}" for m in by_time))


if __name__ == "__main__":
    main()
