"""Teaches the text encoder, alone, what stands where: the part of a caption's meaning that images teach only very slowly.

    python train_text.py --init models/default --state state/state.pt --steps 800

Denoising alone did not teach the order of "A to the left of B" in 50,000 samples: the text encoder gave no signal to the UNet and the UNet
none to it. As CLIP's text encoder is trained before a diffusion model uses it, this one is trained here to hold, in its end token and the
padding behind it, which noun stands at the left, right, top, bottom or alone, and in the second noun its own side; linear heads read
this off and are thrown away afterwards. Where the state already has a UNet, the squared distance to the outputs it knows is kept small.
Nothing here sees an image or an attention map.
"""
import argparse
import os
import random
import time
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from transformers import CLIPTextModel, CLIPTokenizer

import world

SLOTS = ("left", "right", "above", "below", "alone")
NOUNS = list(world.NOUNS)


def targets(scene: world.Scene) -> list[int]:
    """For every slot the noun that stands there, or 8 for none."""
    if scene.relation is None:
        places = {"alone": scene.objects[0].noun}
    else:
        places = {scene.relation: scene.objects[0].noun, world.OPPOSITE[scene.relation]: scene.objects[1].noun}
    return [NOUNS.index(places[s]) if s in places else len(NOUNS) for s in SLOTS]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init", required=True, help="diffusers folder: tokenizer, and the weights where there is no --state")
    p.add_argument("--state", required=True, help="training state of train_unet.py, whose text encoder is replaced")
    p.add_argument("--steps", type=int, default=800)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--lr", type=float, default=7e-4)
    p.add_argument("--keep", type=float, default=1.0, help="weight of staying near the old outputs")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rank, ranks = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
    if ranks > 1:
        dist.init_process_group("gloo")
        torch.set_num_threads(1)
    torch.manual_seed(a.seed)
    tokenizer = CLIPTokenizer.from_pretrained(f"{a.init}/tokenizer")
    new = CLIPTextModel.from_pretrained(f"{a.init}/text_encoder", dtype=torch.float32).float().train()
    old = CLIPTextModel.from_pretrained(f"{a.init}/text_encoder", dtype=torch.float32).float().eval()
    state = torch.load(a.state)
    at = len(state["params"]) - len(list(new.parameters()))  # the text encoder's parameters come last
    with torch.no_grad():
        for encoder in (new, old):
            for q, v in zip(encoder.parameters(), state["params"][at:], strict=True):
                q.copy_(v)
    width = new.config.hidden_size
    what, side = torch.nn.Linear(width, len(SLOTS) * (len(NOUNS) + 1)), torch.nn.Linear(width, 4)
    params = [*new.parameters(), *what.parameters(), *side.parameters()]
    optimizer = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = random.Random(f"attnmap text {a.seed} {rank}")
    noun_ids = {tokenizer(n).input_ids[1]: n for n in NOUNS}
    start, end = time.time(), tokenizer.eos_token_id
    for step in range(a.steps):
        lr = a.lr * min(1, (step + 1) / 50) * min(1, 4 * (1 - step / a.steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        scenes = [world.training_scene(rng) for _ in range(a.batch // ranks)]
        text = [world.caption(s, rng) for s in scenes]
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids
        with torch.autocast("cpu", torch.bfloat16):
            hidden = new(ids).last_hidden_state.float()
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            before = old(ids).last_hidden_state.float()
        behind = ids == end
        slots = torch.tensor([targets(s) for s in scenes])[:, None].expand(-1, ids.shape[1], -1)[behind]
        logits = what(hidden[behind]).unflatten(-1, (len(SLOTS), -1))
        loss_what = F.cross_entropy(logits.flatten(0, 1), slots.flatten())
        rows, columns, sides = [], [], []
        for i, (scene, line) in enumerate(zip(scenes, ids.tolist())):
            if scene.relation:
                column, noun = [(k, noun_ids[t]) for k, t in enumerate(line) if t in noun_ids][1]
                rows.append(i)
                columns.append(column)
                is_first = noun == scene.objects[0].noun
                sides.append(SLOTS.index(scene.relation if is_first else world.OPPOSITE[scene.relation]))
        loss_side = F.cross_entropy(side(hidden[rows, columns]), torch.tensor(sides))
        loss_keep = F.mse_loss(hidden, before)
        loss = loss_what + 0.3 * loss_side + a.keep * loss_keep
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        if ranks > 1:
            grads = [q.grad for q in params if q.grad is not None]
            flat = torch.cat([q.flatten() for q in grads])
            dist.all_reduce(flat)
            for q, mean in zip(grads, flat.div_(ranks).split([q.numel() for q in grads])):
                q.copy_(mean.view_as(q))
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        if rank == 0 and ((step + 1) % 25 == 0 or step + 1 == a.steps):
            right = (logits.argmax(-1) == slots).all(-1).float().mean().item()
            print(
                f"{(time.time() - start) / 60:5.1f} min  step {step + 1:5d}  where {loss_what.item():.3f} ({100 * right:.0f} % all right)"
                f"  side {loss_side.item():.3f}  moved {loss_keep.item():.3f}",
                flush=True,
            )
    if rank == 0:
        weights = [q.detach().clone() for q in new.parameters()]
        state["params"][at:] = weights
        state["ema"][at:] = [q.clone() for q in weights]
        torch.save(state, Path(a.state).with_suffix(".tmp"))
        Path(a.state).with_suffix(".tmp").rename(a.state)


if __name__ == "__main__":
    main()
