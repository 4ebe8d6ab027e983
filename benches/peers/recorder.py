"""What watching a pipeline of diffusers costs: the recorder, DAAM and attention-map-diffusers beside the plain pipeline.

    python benches/peers/recorder.py --steps 2 --rounds 4

Stable Diffusion 1.5's shapes with random f32 weights, guided, on the processor. The call of the pipeline is measured, to
the latent, so that decoding hides nothing. Time: all contestants in one process, in turn, in another order each round.
A ratio is of calls of the same round, so that a machine which others use as well changes both. Memory: a process for
each contestant, at two numbers of steps; the peak of the call beyond what stood in memory before it.

Needs benches/peers/requirements.txt, the package attnmap (`pip install .`), and

    pip install --no-deps daam==0.2.0 attention-map-diffusers==1.0.0

A peer that is not installed is left out, and said to be.
"""

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

FIXTURES = Path(__file__).resolve().parents[2] / "tests/fixtures"
PROMPT = "a red apple to the left of a green frog on the beach"
MODULES = {"plain": "diffusers", "recorder": "attnmap", "DAAM": "daam", "attention-map-diffusers": "attention_map_diffusers"}


def build(sizes: str):
    """A pipeline with random weights."""
    import torch
    from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tiny = FIXTURES / "tiny-sd1"
    parts = FIXTURES / "full-size/sd15" if sizes == "full" else tiny

    def config(part):
        return json.loads((parts / part / "config.json").read_text())

    pipeline = StableDiffusionPipeline(
        AutoencoderKL.from_config(config("vae")), CLIPTextModel(CLIPTextConfig(**config("text_encoder"))),
        CLIPTokenizer.from_pretrained(tiny / "tokenizer"), UNet2DConditionModel.from_config(config("unet")),
        PNDMScheduler.from_pretrained(tiny / "scheduler"), None, None, requires_safety_checker=False,
    )  # fmt: skip
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.unet):
        part.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def watched(name: str, pipeline):
    """The context in which a contestant watches the pipeline, with its own defaults."""
    if name == "recorder":
        import attnmap

        return attnmap.record(pipeline)
    if name == "DAAM":
        import daam

        return daam.trace(pipeline)
    if name == "attention-map-diffusers":
        import attention_map_diffusers

        return attention_map_diffusers.AttentionCapture(pipeline)
    return nullcontext()


def call(name: str, pipeline, arguments, steps: int) -> tuple[float, float, object]:
    """One call: wall seconds, processor seconds, and the latent."""
    import torch

    wall, processor = time.perf_counter(), time.process_time()
    with watched(name, pipeline):
        latent = pipeline(PROMPT, num_inference_steps=steps, height=arguments.size, width=arguments.size, output_type="latent",
                          generator=torch.Generator().manual_seed(1)).images  # fmt: skip
    return time.perf_counter() - wall, time.process_time() - processor, latent


def resident(key: str) -> float:
    """`VmRSS` or its peak, `VmHWM`, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def memory(name: str, arguments) -> None:
    """Prints the peak of one call beyond what stood before it, in MiB."""
    pipeline = build(arguments.sizes)
    # What the first call loads, the allocator keeps, and torch makes once, is not the contestant's.
    call("plain", pipeline, arguments, 1)
    before = resident("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")
    call(name, pipeline, arguments, arguments.memory)
    print(resident("VmHWM") - before)


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--more-steps", type=int, default=8, help="the second number of steps that memory is measured at")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sizes", choices=["full", "tiny"], default="full", help="tiny: to see that it works")
    parser.add_argument("--only", choices=MODULES, help=argparse.SUPPRESS)
    parser.add_argument("--memory", type=int, default=0, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.only:
        memory(arguments.only, arguments)
        return
    names = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
    for name in MODULES:
        if name not in names:
            print(f"{name} is left out: it is not installed")
    peaks: dict[str, list[float]] = {}
    for name in names:
        for steps in (arguments.steps, arguments.more_steps):
            command = [sys.executable, __file__, *sys.argv[1:], "--only", name, "--memory", str(steps)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0:
                raise SystemExit(f"{name}: {done.stderr.strip().splitlines()[-1]}")
            peaks.setdefault(name, []).append(float(done.stdout.split()[-1]))
            print(f"memory {name}, {steps} steps: {peaks[name][-1]:.0f} MiB", file=sys.stderr, flush=True)
    pipeline = build(arguments.sizes)
    _, _, expected = call("plain", pipeline, arguments, arguments.steps)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    same = {name: True for name in names}
    for round in range(arguments.rounds):
        turn = round % len(names)
        for name in names[turn:] + names[:turn]:
            wall, processor, latent = call(name, pipeline, arguments, arguments.steps)
            seconds[name].append((wall, processor))
            same[name] &= bool(torch.equal(latent, expected))
            print(f"round {round + 1} {name}: {wall:.2f} s, {processor:.2f} s of the processor", file=sys.stderr, flush=True)
    versions = f"diffusers {importlib.import_module('diffusers').__version__}, torch {torch.__version__}"
    print(f"\n{arguments.steps} steps, {arguments.size}x{arguments.size}, {arguments.threads} threads, {arguments.rounds} rounds, "
          f"{versions}; median (lowest to highest)\n")  # fmt: skip
    print("| measure | " + " | ".join(names) + " |\n|" + " --- |" * (len(names) + 1))
    for at, label in ((0, "wall, s"), (1, "processor, s")):
        print(f"| {label} | " + " | ".join(spread([one[at] for one in seconds[name]]) for name in names) + " |")
    for at, label in ((0, "wall, times plain"), (1, "processor, times plain")):
        ratios = [[own[at] / plain[at] for own, plain in zip(seconds[name], seconds["plain"])] for name in names]
        print(f"| {label} | " + " | ".join(spread(one, 3) for one in ratios) + " |")
    for at, steps in enumerate((arguments.steps, arguments.more_steps)):
        print(f"| peak of the call, {steps} steps, MiB | " + " | ".join(f"{peaks[name][at]:.0f}" for name in names) + " |")
    print("| the same latent to the bit | " + " | ".join("yes" if same[name] else "no" for name in names) + " |")


if __name__ == "__main__":
    main()
