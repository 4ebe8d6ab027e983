"""What recording costs in diffusers: Stable Diffusion 1.5's UNet with random weights, plain, recorded, and with whole maps.

    python benches/peers/record.py --steps 2 --size 256 --rounds 3

Each run is a process of its own, in turn, on one thread. Processor time is that of the pipeline's call, so that other work on the machine
counts little; memory is the highest resident size above that before the call.

- `plain`: the pipeline alone.
- `recorder`: within `attnmap.record`, and the run folder saved.
- `summed`: every cross-attention forms its matrix of probabilities and adds the prompt's half to a sum of the layer, as DAAM's hooks do.
- `kept`: the same, with every matrix kept, as attention-map-diffusers does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time

KINDS = ["plain", "recorder", "summed", "kept"]
PROMPT = "a red apple to the left of a green frog on the beach"


def pipeline(model: str):
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    unet = UNet2DConditionModel(cross_attention_dim=768, attention_head_dim=8, sample_size=64)
    text = CLIPTextModel(CLIPTextConfig(hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12))
    vae = AutoencoderKL(block_out_channels=[32, 64, 64, 64], down_block_types=["DownEncoderBlock2D"] * 4,
                        up_block_types=["UpDecoderBlock2D"] * 4, latent_channels=4, norm_num_groups=8)
    made = StableDiffusionPipeline(
        vae=vae, text_encoder=text, tokenizer=CLIPTokenizer.from_pretrained(model, subfolder="tokenizer"), unet=unet,
        scheduler=DDIMScheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )
    made.set_progress_bar_config(disable=True)
    return made.to("cpu")


class Whole:
    """An attention processor that forms the whole matrix of each cross-attention."""

    def __init__(self, keep: bool):
        self.keep = keep
        self.maps = []
        self.sum = None

    def __call__(self, attention, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None, **_):
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query = attention.head_to_batch_dim(attention.to_q(hidden_states))
        key = attention.head_to_batch_dim(attention.to_k(context))
        value = attention.head_to_batch_dim(attention.to_v(context))
        if encoder_hidden_states is None:
            import torch

            heads = attention.heads
            split = [part.unflatten(0, (-1, heads)) for part in (query, key, value)]
            out = torch.nn.functional.scaled_dot_product_attention(*split).flatten(0, 1)
        else:
            probabilities = attention.get_attention_scores(query, key, attention_mask)
            own = probabilities[probabilities.shape[0] // 2 :]
            if self.keep:
                self.maps.append(own.clone())
            else:
                self.sum = own.clone() if self.sum is None else self.sum + own
            out = probabilities @ value
        out = attention.batch_to_head_dim(out)
        return attention.to_out[1](attention.to_out[0](out))


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def one(kind: str, model: str, steps: int, size: int) -> None:
    import torch

    torch.set_num_threads(1)
    pipe = pipeline(model)
    if kind in ("summed", "kept"):
        pipe.unet.set_attn_processor({name: Whole(kind == "kept") for name in pipe.unet.attn_processors})

    def call(count: int):
        return pipe(PROMPT, num_inference_steps=count, height=size, width=size, generator=torch.Generator().manual_seed(1))

    # The first step of a process fills caches, and its memory is that of the plain pipeline.
    processors = dict(pipe.unet.attn_processors)
    pipe.unet.set_default_attn_processor()
    with torch.no_grad():
        call(1)
    pipe.unet.set_attn_processor(processors)
    before, begun, wall = peak(), time.process_time(), time.perf_counter()
    with torch.no_grad():
        if kind == "recorder":
            import attnmap

            with attnmap.record(pipe) as recorder:
                call(steps)
            drawn = time.process_time()
            with tempfile.TemporaryDirectory() as folder:
                recorder.save(folder)
        else:
            call(steps)
            drawn = time.process_time()
    print(json.dumps(dict(kind=kind, seconds=drawn - begun, saving=time.process_time() - drawn, wall=time.perf_counter() - wall,
                          memory=peak() - before)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="models/default", help="a folder with a CLIP tokenizer")
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--size", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kind", choices=KINDS)
    arguments = parser.parse_args()
    if arguments.kind:
        one(arguments.kind, arguments.model, arguments.steps, arguments.size)
        return
    found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
    for _ in range(arguments.rounds):
        for kind in KINDS:
            command = [sys.executable, __file__, "--kind", kind, "--model", arguments.model, "--steps", str(arguments.steps)]
            told = subprocess.run([*command, "--size", str(arguments.size)], check=True, capture_output=True, text=True)
            found[kind].append(json.loads(told.stdout.splitlines()[-1]))
            print(found[kind][-1], flush=True)
    middle = {kind: {key: sorted(run[key] for run in runs)[len(runs) // 2] for key in ("seconds", "saving", "memory")}
              for kind, runs in found.items()}
    print("| run | processor time | of the plain one | memory above the first step | saving |\n| --- | --- | --- | --- | --- |")
    for kind, own in middle.items():
        ratio = own["seconds"] / middle["plain"]["seconds"]
        print(f"| {kind} | {own['seconds']:.1f} s | {ratio:.3f} | {own['memory']:.0f} MiB | {own['saving']:.1f} s |")


if __name__ == "__main__":
    main()
