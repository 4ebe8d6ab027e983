"""Keeps where a training stands in a file small enough to commit, and makes a state of it again.

    python park.py --state work/run/state.pt --out parked.safetensors
    python park.py --from parked.safetensors --state work/run/state.pt

The averaged weights go in, each row of a matrix as whole numbers of -31 to 31 times a scale of its own: 13 million weights in 9 MB once packed.
The rounding moves the weights by 3 % of their length, which the next thousand samples make good. The optimizer's moments are not kept.
"""
import argparse
import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

LEVELS = 31


def packed(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Whole numbers in the weight's shape, and the scale of each row [rows]."""
    rows = weight.flatten(1)
    scale = rows.abs().amax(1).clamp(min=1e-12) / LEVELS
    return (rows / scale[:, None]).round().to(torch.int8).view_as(weight), scale


def park(state: dict, out: str) -> None:
    tensors = {}
    for i, weight in enumerate(state["ema"]):
        if weight.ndim > 1:
            tensors[f"{i}"], tensors[f"{i}.scale"] = packed(weight.float())
        else:
            tensors[f"{i}"] = weight.float()
    about = {name: state[name] for name in ("seen", "step", "minutes")}
    save_file({name: value.contiguous() for name, value in tensors.items()}, out, {"state": json.dumps(about)})


def unpark(file: str, state: Path) -> None:
    with safe_open(file, "pt") as parked:
        about = json.loads(parked.metadata()["state"])
        weights = []
        for i in range(sum("." not in name for name in parked.keys())):
            weight = parked.get_tensor(f"{i}")
            if weight.ndim > 1:
                scale = parked.get_tensor(f"{i}.scale")
                weight = (weight.flatten(1).float() * scale[:, None]).view_as(weight)
            weights.append(weight)
    state.parent.mkdir(parents=True, exist_ok=True)
    torch.save({"params": weights, "ema": [w.clone() for w in weights]} | about, state)  # the optimizer begins anew


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--state", required=True, help="the training state of train_unet.py")
    p.add_argument("--out", help="the file to write")
    p.add_argument("--from", dest="parked", help="a file that was written, to make the state of")
    a = p.parse_args()
    if (a.out is None) == (a.parked is None):
        p.error("give --out or --from")
    if a.parked:
        unpark(a.parked, Path(a.state))
    else:
        park(torch.load(a.state, map_location="cpu"), a.out)


if __name__ == "__main__":
    main()
