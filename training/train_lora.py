"""Trains the example LoRA on the default checkpoint: a lone thing stands at the left edge of the picture.

    python train_lora.py --init ../models/default --out ../examples/lora/stand-left.safetensors

Only low-rank changes of the UNet's attention projections are trained (Hu et al., 2021), on scenes with one thing whose sprite touches the left
edge, and for the other half of each batch on scenes with two things as they were, so that these stay where the prompt wants
them. Held-out prompts stay held out. The file has kohya's names, in f16.
"""
import argparse
import random
import time
from pathlib import Path

import torch
from safetensors.torch import save_file

import adapt
import world

EMPTY = 0.2  # share of the scenes with two things that get the empty caption, so that guidance has something to lead away from


class Lora(torch.nn.Module):
    """`up(down(x))`, added to what a frozen linear layer gives."""

    def __init__(self, layer: torch.nn.Linear, rank: int):
        super().__init__()
        self.down = torch.nn.Linear(layer.in_features, rank, bias=False)
        self.up = torch.nn.Linear(rank, layer.out_features, bias=False)
        torch.nn.init.normal_(self.down.weight, std=1 / rank)
        torch.nn.init.zeros_(self.up.weight)
        layer.register_forward_hook(lambda _, inputs, output: output + self.up(self.down(inputs[0])))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init", required=True, help="the checkpoint's folder, in the diffusers layout")
    p.add_argument("--out", required=True)
    p.add_argument("--rank", type=int, default=8)
    p.add_argument("--steps", type=int, default=700)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    checkpoint = adapt.Checkpoint(a.init)
    linear = ("to_q", "to_k", "to_v", "to_out.0")
    loras = {n: Lora(m, a.rank) for n, m in checkpoint.unet.named_modules() if n.endswith(linear)}
    parameters = [q for lora in loras.values() for q in lora.parameters()]
    print(f"{len(loras)} projections, {sum(q.numel() for q in parameters)} numbers", flush=True)

    left = [scene for scene in adapt.lone_scenes() if scene.objects[0].x == 0]
    others = adapt.other_scenes(1500, a.seed)
    latents = checkpoint.latents(left), checkpoint.latents(others)
    print(f"{len(left)} scenes with one thing, {len(others)} with two", flush=True)

    rng = random.Random(f"attnmap lora {a.seed}")
    g = torch.Generator().manual_seed(a.seed)
    optimizer = torch.optim.AdamW(parameters, lr=a.lr, betas=(0.9, 0.99), weight_decay=0.01)
    start, losses = time.time(), []
    for step in range(a.steps):
        optimizer.param_groups[0]["lr"] = a.lr * min(1, (step + 1) / 50) * min(1, (a.steps - step) / (0.5 * a.steps))
        picks = [[rng.randrange(len(scenes)) for _ in range(a.batch // 2)] for scenes in (left, others)]
        x = torch.cat([z[pick] for z, pick in zip(latents, picks)])
        text = [world.caption(left[i], rng) for i in picks[0]]
        text += ["" if rng.random() < EMPTY else world.caption(others[i], rng) for i in picks[1]]
        with torch.no_grad():
            states = checkpoint.text_encoder(checkpoint.ids(text)).last_hidden_state
        # Timesteps are stratified over the batch in order: mixed, so that both halves see all of them.
        mixed = torch.randperm(len(x), generator=g)
        loss = checkpoint.loss(x[mixed], states[mixed], g)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        losses.append(loss.item())
        if (step + 1) % 50 == 0 or step + 1 == a.steps:
            print(f"{(time.time() - start) / 60:5.1f} min  step {step + 1}  loss {sum(losses) / len(losses):.4f}", flush=True)
            losses = []
            tensors = {}
            for name, lora in loras.items():
                key = "lora_unet_" + name.replace(".", "_")
                tensors[f"{key}.lora_down.weight"] = lora.down.weight.detach().half()
                tensors[f"{key}.lora_up.weight"] = lora.up.weight.detach().half()
                tensors[f"{key}.alpha"] = torch.tensor(float(a.rank)).half()
            Path(a.out).parent.mkdir(parents=True, exist_ok=True)
            save_file(tensors, a.out, metadata={"ss_network_module": "networks.lora", "ss_network_dim": str(a.rank)})


if __name__ == "__main__":
    main()
