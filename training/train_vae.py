"""Trains the VAE on crops of rendered scenes, and folds the latents' scale into it.

    python train_vae.py --out work/vae --steps 1045

The recipe: 64 px crops aligned to 8 px, 85 % of them centred near an object; L1 + half the L1 of gradients + half the L1 of 4x-pooled images
+ twice the squared error + a small KL term; AdamW with a cosine schedule. At the end each latent channel's mean and deviation are folded into
quant_conv and post_quant_conv, so that latents have mean 0 and deviation 1 and `scaling_factor` is 1.
"""
import argparse
import math
import random
import time

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL

import world

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
            start = getattr(aim, at) + 8 * rng.randint(-2, 2) if aim else 8 * rng.randint(0, 8)
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
    p.add_argument("--steps", type=int, default=1045)
    p.add_argument("--batch", type=int, default=32)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    torch.manual_seed(a.seed)
    rng = random.Random(f"attnmap vae {a.seed}")
    vae = AutoencoderKL(**CONFIG).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(vae.parameters(), lr=a.lr, betas=(0.9, 0.99), weight_decay=0.01, fused=True)
    start = time.time()
    for step in range(a.steps):
        for group in optimizer.param_groups:
            group["lr"] = a.lr * min(1, (step + 1) / 50) * (0.5 + 0.5 * math.cos(math.pi * step / a.steps))
        x = crops(a.batch, rng).to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = vae.encode(x).latent_dist
            y = vae.decode(posterior.sample()).sample.float()
        loss = reconstruction_loss(y, x) + 3e-4 * posterior.kl().float().mean() / x[0].numel()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        if (step + 1) % 25 == 0 or step + 1 == a.steps:
            psnr = -10 * math.log10(F.mse_loss(y, x).item() / 4)
            print(f"{(time.time() - start) / 60:5.1f} min  step {step + 1:5d}  loss {loss.item():.4f}  {psnr:.1f} dB", flush=True)
    vae.eval()
    x = crops(256, rng)
    with torch.no_grad():
        before = vae.decode(vae.encode(x[:4]).latent_dist.mean).sample
        fold_scale(vae, x)
        after = vae.decode(vae.encode(x[:4]).latent_dist.mean).sample
    print(f"folding the scale changed reconstructions by {(after - before).abs().max():.1e}")
    vae.half().save_pretrained(a.out)


if __name__ == "__main__":
    main()
