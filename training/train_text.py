"""Teaches the text encoder, alone, what stands where: the part of a caption's meaning that images teach only very slowly.

    python train_text.py --init work/init --state work/run/state.pt --steps 400

Denoising alone did not teach the order of "A to the left of B" in 50,000 samples: the text encoder gave no signal to the UNet and the UNet
none to it. As CLIP's text encoder is trained before a diffusion model uses it, this one is trained here to hold, in its end token and the
padding behind it, which noun stands in which part of the image, and in every word of the second and third thing that thing's own part; linear
heads read this off and are thrown away afterwards. Colours are asked of no token but their own. With `--keep`, the squared distance to the outputs
that a UNet knows is kept small. Nothing here sees an image or an attention map.
"""
import argparse
import random
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from transformers import CLIPTextModel, CLIPTokenizer

import ranks as processes
import world
from device import DEVICE

PARTS = ("alone", "left", "right", "above", "below", "above left", "above right", "below left", "below right")
NOUNS = list(world.NOUNS)


def parts(scene: world.Scene) -> list[str]:
    """The part of the image in which each thing stands."""
    if len(scene.objects) == 1:
        return ["alone"]
    relation = "left" if scene.relation == "beside" else scene.relation
    if len(scene.objects) == 2:
        return [relation, world.OPPOSITE[relation]]
    return [f"{relation} left", f"{relation} right", world.OPPOSITE[relation]]


def targets(scene: world.Scene) -> list[int]:
    """For every part the number of the noun that stands there, or one past the last for none."""
    noun = dict(zip(parts(scene), (o.noun for o in scene.objects)))
    return [NOUNS.index(noun[part]) if part in noun else len(NOUNS) for part in PARTS]


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
    rank, ranks = processes.start()
    torch.manual_seed(a.seed)
    tokenizer = CLIPTokenizer.from_pretrained(f"{a.init}/tokenizer")
    new = CLIPTextModel.from_pretrained(f"{a.init}/text_encoder", dtype=torch.float32).float().train()
    old = CLIPTextModel.from_pretrained(f"{a.init}/text_encoder", dtype=torch.float32).float().eval()
    state = torch.load(a.state, map_location="cpu")
    at = len(state["params"]) - len(list(new.parameters()))  # the text encoder's parameters come last
    with torch.no_grad():
        for encoder in (new, old):
            for q, v in zip(encoder.parameters(), state["params"][at:], strict=True):
                q.copy_(v)
    new.to(DEVICE), old.to(DEVICE)
    width = new.config.hidden_size
    what, side = (torch.nn.Linear(width, n, device=DEVICE) for n in (len(PARTS) * (len(NOUNS) + 1), len(PARTS)))
    params = [*new.parameters(), *what.parameters(), *side.parameters()]
    optimizer = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    rng = random.Random(f"attnmap text {a.seed} {rank}")
    start, end = time.time(), tokenizer.eos_token_id
    for step in range(a.steps):
        lr = a.lr * min(1, (step + 1) / 50) * min(1, 4 * (1 - step / a.steps))
        for group in optimizer.param_groups:
            group["lr"] = lr
        scenes = [world.training_scene(rng) for _ in range(a.batch // ranks)]
        words = [world.caption_words(s, rng) for s in scenes]
        text = [world.text_of(w) for w in words]
        ids = tokenizer(text, padding="max_length", return_tensors="pt").input_ids.to(DEVICE)
        hidden = new(ids).last_hidden_state
        with torch.no_grad():
            before = old(ids).last_hidden_state
        behind = ids == end
        slots = torch.tensor([targets(s) for s in scenes], device=DEVICE)[:, None].expand(-1, ids.shape[1], -1)[behind]
        logits = what(hidden[behind]).unflatten(-1, (len(PARTS), -1))
        loss_what = F.cross_entropy(logits.flatten(0, 1), slots.flatten())
        rows, columns, sides = [], [], []
        for i, (scene, caption) in enumerate(zip(scenes, words)):  # every word is one token, behind the start token
            named = [(k + 1, thing) for k, (_, thing) in enumerate(caption) if thing is not None]
            later = [(k, thing) for k, thing in named if thing != named[0][1]]  # the first cannot know yet
            rows += [i] * len(later)
            columns += [k for k, _ in later]
            sides += [PARTS.index(parts(scene)[thing]) for _, thing in later]
        loss_side = F.cross_entropy(side(hidden[rows, columns]), torch.tensor(sides, device=DEVICE))
        loss_keep = F.mse_loss(hidden, before)
        loss = loss_what + 0.3 * loss_side + a.keep * loss_keep
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(params, ranks)
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
        weights = [q.detach().cpu().clone() for q in new.parameters()]
        state["params"][at:] = weights
        state["ema"][at:] = [q.clone() for q in weights]
        torch.save(state, Path(a.state).with_suffix(".tmp"))
        Path(a.state).with_suffix(".tmp").rename(a.state)


if __name__ == "__main__":
    main()
