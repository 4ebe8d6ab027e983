"""Trains the VAE on crops of rendered scenes, and folds the latents' scale into it.

    python train_vae.py --out work/vae --steps 1045
    torchrun --standalone --nproc-per-node 2 train_vae.py --init ../models/default/vae --out work/vae --steps 1000 --batch 16 --lr 1e-3

With `--init` an existing VAE is trained on, for sprites and sizes that it has not seen. With `--decoder` as well, its encoder stays as it is, and so do
latents that were encoded with it: images can be made sharper after the UNet was trained. The state is saved every 25 steps beside `--out`, and a
stopped run goes on from there.

The recipe: 64 px crops aligned to 8 px, 85 % of them centred near an object; L1 + half the L1 of gradients + half the L1 of 4x-pooled images
+ twice the squared error + a small KL term; AdamW with a cosine schedule. At the end each latent channel's mean and deviation are folded into
quant_conv and post_quant_conv, so that latents have mean 0 and deviation 1 and `scaling_factor` is 1.
"""
import argparse
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import ranks as processes
import world
from device import DEVICE, LAYOUT

CROP = 64
CONFIG = dict(
    block_out_channels=(16, 32, 64, 128),
    down_block_types=("DownEncoderBlock2D",) * 4,
    up_block_types=("UpDecoderBlock2D",) * 4,
    layers_per_block=1,
    latent_channels=4,
    norm_num_groups=8,
    sample_size=world.SIZE,
    scaling_factor=1.0,
)


def crops(count: int, rng: random.Random) -> torch.Tensor:
    """[count, 3, 64, 64] in -1..1."""
    out = []
    for _ in range(count):
        scene = world.training_scene(rng)
        image, _ = world.render(scene)
        corner = []
        aim = rng.choice(scene.objects) if rng.random() < 0.85 else None
        for at in ("y", "x"):
            start = 8 * ((getattr(aim, at) + (aim.side - CROP) // 2) // 8) + 8 * rng.randint(-2, 2) if aim else 8 * rng.randint(0, 8)
            corner.append(min(max(start, 0), world.SIZE - CROP))
        y, x = corner
        out.append(image[y : y + CROP, x : x + CROP])
    return torch.from_numpy(np.stack(out)).permute(0, 3, 1, 2) * 2 - 1


def reconstruction_loss(y: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    gradients = sum((y.diff(dim=d) - x.diff(dim=d)).abs().mean() for d in (2, 3))
    pooled = (F.avg_pool2d(y, 4) - F.avg_pool2d(x, 4)).abs().mean()
    return (y - x).abs().mean() + 0.5 * gradients + 0.5 * pooled + 2 * F.mse_loss(y, x)


@torch.no_grad()
def fold_scale(vae: AutoencoderKL, x: torch.Tensor) -> None:
    """Rescales latents to mean 0 and deviation 1 a channel without changing what the VAE draws."""
    z = vae.encode(x).latent_dist.mean
    mean, deviation = z.mean((0, 2, 3)), z.std((0, 2, 3))
    n = len(mean)
    into, back = vae.quant_conv, vae.post_quant_conv  # 1x1 convolutions; quant_conv gives means, then log variances
    into.weight[:n] /= deviation[:, None, None, None]
    into.bias[:n] = (into.bias[:n] - mean) / deviation
    into.bias[n:] -= 2 * deviation.log()
    back.bias += (back.weight[:, :, 0, 0] * mean).sum(1)
    back.weight *= deviation[None, :, None, None]


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", required=True)
    p.add_argument("--init", help="folder of a VAE to train on")
    p.add_argument("--decoder", action="store_true", help="train the decoder alone")
    p.add_argument("--steps", type=int, default=1045)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    rank, ranks = processes.start()
    torch.manual_seed(a.seed)
    seed = lambda step: random.Random(f"attnmap vae {a.seed} {step} {rank}")
    vae = AutoencoderKL.from_pretrained(a.init, torch_dtype=torch.float32) if a.init else AutoencoderKL(**CONFIG)
    vae = vae.to(DEVICE, memory_format=LAYOUT).train()
    if a.decoder:
        for part in (vae.encoder, vae.quant_conv):
            part.requires_grad_(False)
    params = [q for q in vae.parameters() if q.requires_grad]
    optimizer = torch.optim.AdamW(params, lr=a.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    first, state = 0, Path(a.out).with_suffix(".state.pt")
    if state.exists():
        saved = torch.load(state, map_location=DEVICE)
        vae.load_state_dict(saved["vae"])
        optimizer.load_state_dict(saved["optimizer"])
        first = saved["step"]
    rng = seed(first)
    torch.manual_seed(a.seed + first * ranks + rank)  # the posterior's noise
    start = time.time()
    for step in range(first, a.steps):
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / a.steps))
        x = crops(a.batch // ranks, rng).to(DEVICE, memory_format=LAYOUT)
        posterior = vae.encode(x).latent_dist
        y = vae.decode(posterior.sample()).sample
        loss = reconstruction_loss(y, x) + 3e-4 * posterior.kl().mean() / x[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(params, ranks)
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        if rank == 0 and ((step + 1) % 25 == 0 or step + 1 == a.steps):
            psnr = -10 * math.log10(F.mse_loss(y, x).item() / 4)
            print(f"{(time.time() - start) / 60:5.1f} min  step {step + 1:5d}  loss {loss.item():.4f}  {psnr:.1f} dB", flush=True)
        if rank == 0 and (step + 1) % 25 == 0:
            state.parent.mkdir(parents=True, exist_ok=True)
            torch.save({"vae": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state.with_suffix(".tmp"))
            state.with_suffix(".tmp").rename(state)
    if rank > 0:
        return
    vae.cpu().eval()
    if not a.decoder:
        x = crops(256, rng)
        with torch.no_grad():
            before = vae.decode(vae.encode(x[:4]).latent_dist.mean).sample
            fold_scale(vae, x)
            after = vae.decode(vae.encode(x[:4]).latent_dist.mean).sample
        print(f"folding the scale changed reconstructions by {(after - before).abs().max():.1e}")
    vae.register_to_config(_name_or_path="attnmap/vae")  # else the config keeps the path it was loaded from
    vae.half().save_pretrained(a.out)


if __name__ == "__main__":
    main()
