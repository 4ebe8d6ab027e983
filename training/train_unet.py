"""Trains the UNet and the text encoder together on encoded scenes, with resumable state.

    python train_unet.py --init FOLDER --latents a.npz b.npz --work state/ --samples 200000

`--init` is a diffusers folder that gives tokenizer, text encoder, UNet and scheduler (a warm start); with `--fresh` its
networks are drawn anew and only tokenizer, configs and VAE are kept. The loss is v-prediction's mean squared error and nothing else:
no term touches an attention map. With `--focus` the cells under things weigh more than those of the place at the lower noise levels, where the
layout stands and shapes are drawn. One process a core, each with its share of the batch, trains faster than one process with many threads:

    torchrun --standalone --nproc-per-node 2 train_unet.py ...
"""
import argparse
import json
import math
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

import ranks as processes
import world
from device import DEVICE, LAYOUT

EMPTY = 0.1  # share of samples with the empty caption, for classifier-free guidance


def cells(objects: tuple[world.Object, ...]) -> torch.Tensor:
    """[1, 16, 16] bool: the latent's cells under the squares of the things' sprites."""
    side = world.SIZE // world.STRIDE
    out = torch.zeros(1, side, side, dtype=torch.bool)
    for o in objects:
        top, left, n = o.y // world.STRIDE, o.x // world.STRIDE, o.side // world.STRIDE
        out[:, top : top + n, left : left + n] = True
    return out


class Data:
    """Encoded scenes; captions are drawn afresh at every use."""

    def __init__(self, files: list[str]):
        self.latents, self.scenes, things = [], [], []
        for file in files:
            z = np.load(file)
            self.latents.append(torch.from_numpy(z["latents"]).float())
            for s in json.loads(str(z["scenes"])):
                objects = tuple(world.Object(**o) for o in s["objects"])
                self.scenes.append(world.Scene(objects, s["place"], s["relation"]))
                things.append(cells(objects))
        self.latents = torch.cat(self.latents).to(DEVICE)
        self.things = torch.stack(things).to(DEVICE)

    def batch(self, size: int, rng: random.Random) -> tuple[torch.Tensor, torch.Tensor, list[str]]:
        """Latents [size, 4, 16, 16], whether a thing lies on each of their cells [size, 1, 16, 16] bool, and captions."""
        index = [rng.randrange(len(self.scenes)) for _ in range(size)]
        text = ["" if rng.random() < EMPTY else world.caption(self.scenes[i], rng) for i in index]
        return self.latents[index], self.things[index], text


def timesteps(size: int, bias: float, g: torch.Generator) -> torch.Tensor:
    """Stratified over 0..999; `bias` > 1 leans towards high noise, where the layout is decided."""
    u = (torch.arange(size) + torch.rand(size, generator=g)) / size
    return (1000 * (1 - (1 - u) ** bias)).long().clamp(0, 999)


def weights(t: torch.Tensor, alpha_bar: torch.Tensor, floor: float) -> torch.Tensor:
    """min-SNR-5 for v-prediction, with a floor so that the noisiest steps, which choose the layout, keep their say."""
    snr = alpha_bar[t] / (1 - alpha_bar[t])
    return (snr.clamp(max=5) / (snr + 1)).clamp(min=floor)


def focused(error: torch.Tensor, things: torch.Tensor, t: torch.Tensor, focus: float) -> torch.Tensor:
    """[batch]: the mean of squared errors [batch, 4, 16, 16], in which a cell under a thing weighs 1 + `focus`, any other 1.

    Up to t = 500 all of it, from t = 700 on nothing: up there the layout is open, and the weights would pull it towards things.
    """
    some = focus * ((700 - t.float()) / 200).clamp(0, 1)
    weight = 1 + some[:, None, None, None] * things
    weight = weight / weight.mean((1, 2, 3), keepdim=True)
    return (error * weight).mean((1, 2, 3))


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--init", required=True)
    p.add_argument("--latents", nargs="+", required=True)
    p.add_argument("--work", required=True, help="folder of the resumable state and the log")
    p.add_argument("--samples", type=int, default=200_000, help="stop after so many, counted from the very start")
    p.add_argument("--schedule", type=int, help="samples at which the rate's cosine ends, where that is not --samples")
    p.add_argument("--batch", type=int, default=64)
    p.add_argument("--lr", type=float, default=1e-3)
    p.add_argument("--decay-from", type=float, default=0.5, help="share of the samples after which the rate falls")
    p.add_argument("--bias", type=float, default=1.0)
    p.add_argument("--floor", type=float, default=0.3)
    p.add_argument("--focus", type=float, default=0.0, help="how much more than the place's the cells under things weigh, where the layout stands")
    p.add_argument("--ema", type=float, default=0.999)
    p.add_argument("--save-minutes", type=float, default=5)
    p.add_argument("--minutes", type=float, default=math.inf, help="stop and save after this time; the same command goes on")
    p.add_argument("--compile", action="store_true", help="compile the UNet first: minutes once, then a quarter more samples per second on a CPU")
    p.add_argument("--fresh", action="store_true")
    p.add_argument("--seed", type=int, default=1)
    a = p.parse_args()
    work = Path(a.work)
    work.mkdir(parents=True, exist_ok=True)
    rank, ranks = processes.start()
    torch.manual_seed(a.seed)

    tokenizer = CLIPTokenizer.from_pretrained(f"{a.init}/tokenizer")
    if a.fresh:
        unet = UNet2DConditionModel.from_config(UNet2DConditionModel.load_config(f"{a.init}/unet"))
        text_encoder = CLIPTextModel(CLIPTextModel.config_class.from_pretrained(f"{a.init}/text_encoder"))
    else:
        unet = UNet2DConditionModel.from_pretrained(f"{a.init}/unet", torch_dtype=torch.float32)
        text_encoder = CLIPTextModel.from_pretrained(f"{a.init}/text_encoder", dtype=torch.float32)
    unet.to(DEVICE, memory_format=LAYOUT).train()
    unet.set_attn_processor(AttnProcessor())  # on so small a grid plain products train a third faster than the fused kernel
    text_encoder.float().to(DEVICE).train()
    scheduler = DDIMScheduler.from_pretrained(f"{a.init}/scheduler")
    scheduler.alphas_cumprod = alpha_bar = scheduler.alphas_cumprod.to(DEVICE)

    params = [*unet.parameters(), *text_encoder.parameters()]
    decay, plain = [q for q in params if q.ndim > 1], [q for q in params if q.ndim <= 1]
    groups = [{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=a.lr, betas=(0.9, 0.99), fused=True)
    ema = [q.detach().clone() for q in params]
    seen, step, minutes = 0, 0, 0.0
    state = work / "state.pt"
    if state.exists():
        s = torch.load(state, map_location=DEVICE)
        with torch.no_grad():
            for q, v in zip(params, s["params"]):
                q.copy_(v)
        ema = s["ema"]
        if "optimizer" in s:  # park.py keeps none
            optimizer.load_state_dict(s["optimizer"])
        seen, step, minutes = s["seen"], s["step"], s["minutes"]

    def save() -> None:
        now = minutes + (time.time() - start) / 60
        out = {"params": [q.detach() for q in params], "ema": ema, "optimizer": optimizer.state_dict()}
        torch.save(out | {"seen": seen, "step": step, "minutes": now}, work / "state.tmp")
        (work / "state.tmp").rename(state)

    denoise = torch.compile(unet) if a.compile else unet
    data = Data(a.latents)
    rng = random.Random(f"attnmap batches {a.seed} {seen} {rank}")
    g = torch.Generator().manual_seed(a.seed + seen * ranks + rank)
    share = a.batch // ranks
    start = saved = time.time()
    first, losses = seen, []
    while seen < a.samples and time.time() - start < 60 * a.minutes:
        progress = seen / (a.schedule or a.samples)
        tail = max(0.0, (progress - a.decay_from) / (1 - a.decay_from))
        lr = a.lr * min(1, (step + 1) / 50) * (0.02 + 0.98 * (0.5 + 0.5 * math.cos(math.pi * tail)))
        for group in optimizer.param_groups:
            group["lr"] = lr
        x, things, text = data.batch(share, rng)
        t = timesteps(share, a.bias, g).to(DEVICE)
        noise = torch.randn(x.shape, generator=g).to(DEVICE)
        noisy = scheduler.add_noise(x, noise, t).to(memory_format=LAYOUT)
        target = scheduler.get_velocity(x, noise, t)
        ids = tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids.to(DEVICE)
        v = denoise(noisy, t, text_encoder(ids).last_hidden_state).sample
        error = focused(F.mse_loss(v, target, reduction="none"), things, t, a.focus)
        loss = (error * weights(t, alpha_bar, a.floor)).mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        processes.average_gradients(params, ranks)
        torch.nn.utils.clip_grad_norm_(params, 1.0, foreach=True)
        optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(ema, params, 1 - min(a.ema, (step + 1) / (step + 10)))
        seen, step = seen + a.batch, step + 1
        losses.append(loss.detach())
        if step % 50 == 0 and rank == 0:
            rate = (seen - first) / (time.time() - start)
            now = minutes + (time.time() - start) / 60
            print(f"{now:6.1f} min  {seen:7d} samples  {rate:5.1f}/s  lr {lr:.2e}  loss {torch.stack(losses).mean():.4f}", flush=True)
            losses = []
        if time.time() - saved > 60 * a.save_minutes:
            saved = time.time()
            if rank == 0:
                save()
    if rank == 0:
        save()


if __name__ == "__main__":
    main()
