"""What `train_lora.py` and `train_word.py` share: the frozen checkpoint, scenes as latents, and the loss that it was trained with."""
from __future__ import annotations

import random

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from transformers import CLIPTextModel, CLIPTokenizer

import world
from train_unet import timesteps, weights

BIAS, FLOOR = 1.5, 0.5  # of the timesteps and of the weights, as the checkpoint was trained at the end


class Checkpoint:
    """The networks of a diffusers folder in f32, none of whose weights is trained."""

    def __init__(self, folder: str):
        self.tokenizer = CLIPTokenizer.from_pretrained(f"{folder}/tokenizer")
        self.unet = UNet2DConditionModel.from_pretrained(f"{folder}/unet", torch_dtype=torch.float32)
        self.unet.set_attn_processor(AttnProcessor())
        self.text_encoder = CLIPTextModel.from_pretrained(f"{folder}/text_encoder", dtype=torch.float32).float()
        self.vae = AutoencoderKL.from_pretrained(f"{folder}/vae", torch_dtype=torch.float32).eval()
        self.scheduler = DDIMScheduler.from_pretrained(f"{folder}/scheduler")
        for part in (self.unet, self.text_encoder, self.vae):
            part.requires_grad_(False)

    @torch.inference_mode()
    def _encode(self, scenes: list[world.Scene]) -> torch.Tensor:
        images = np.stack([world.render(scene)[0] for scene in scenes])
        x = torch.from_numpy(images).permute(0, 3, 1, 2) * 2 - 1
        return self.vae.encode(x).latent_dist.mean * self.vae.config.scaling_factor

    def latents(self, scenes: list[world.Scene]) -> torch.Tensor:
        """[scenes, 4, 16, 16]."""
        parts = [self._encode(scenes[i : i + 50]) for i in range(0, len(scenes), 50)]
        return torch.cat(parts).clone()  # out of inference mode

    def ids(self, text: list[str]) -> torch.Tensor:
        return self.tokenizer(text, padding="max_length", truncation=True, return_tensors="pt").input_ids

    def loss(self, x: torch.Tensor, states: torch.Tensor, g: torch.Generator) -> torch.Tensor:
        """v-prediction's weighted squared error for latents `x` with the text encoder's `states`, at stratified timesteps."""
        t = timesteps(len(x), BIAS, g)
        noise = torch.randn(x.shape, generator=g)
        target = self.scheduler.get_velocity(x, noise, t)
        v = self.unet(self.scheduler.add_noise(x, noise, t), t, states).sample
        error = F.mse_loss(v, target, reduction="none").mean((1, 2, 3))
        return (error * weights(t, self.scheduler.alphas_cumprod, FLOOR)).mean()


def lone_scenes(noun: str | None = None, colour: str | None = None) -> list[world.Scene]:
    """Every scene with one thing (of `noun` and `colour`, where they are given) that is not held out, at 8 px steps."""
    scenes = []
    for place in world.PLACES:
        for n, looks in world.NOUNS.items():
            for c in looks:
                at = [(x, y) for x in range(0, world.SIZE - world.SIZES[None] + 1, world.STRIDE) for y in range(16, 57, world.STRIDE)]
                scenes += [world.Scene((world.Object(n, c, x, y),), place) for x, y in at if noun in (None, n) and colour in (None, c)]
    return [scene for scene in scenes if not world.held_out(scene)]


def other_scenes(count: int, seed: int) -> list[world.Scene]:
    """Scenes as the checkpoint was trained on, with two things."""
    rng = random.Random(f"attnmap scenes {seed}")
    scenes = (world.training_scene(rng) for _ in iter(int, 1))
    return [next(scene for scene in scenes if len(scene.objects) == 2) for _ in range(count)]
