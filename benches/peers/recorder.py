"""What watching a pipeline of diffusers costs: the recorder, DAAM and attention-map-diffusers beside the plain pipeline.

    python benches/peers/recorder.py --steps 1 --rounds 4

Stable Diffusion 1.5's shapes with random f32 weights, guided, on the processor. The call of the pipeline is measured, to
the latent, so that decoding hides nothing. Time: all contestants in one process, in turn, in another order each round.
A ratio is of calls of the same round, so that a machine which others use as well changes both. Memory: in a process of
its own whose allocator gives large pieces back at once, at two numbers of steps; the peak of the call beyond what stood
in memory before it.

Needs benches/peers/requirements.txt, the package attnmap (`pip install .`), and

    pip install --no-deps daam==0.2.0 attention-map-diffusers==1.0.0

A peer that is not installed is left out, and said to be. `--inside` measures the recorder's own part of one call instead.
"""

import argparse
import gc
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
PROMPT = "a red apple to the left of a blue heart on the beach"
MODULES = {"plain": "diffusers", "recorder": "attnmap", "DAAM": "daam", "attention-map-diffusers": "attention_map_diffusers"}


def build(sizes: str):
    """A pipeline with random weights."""
    import torch
    from diffusers import AutoencoderKL, EulerDiscreteScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

    torch.manual_seed(0)
    tiny = FIXTURES / "tiny-sd1"
    parts = FIXTURES / "full-size/sd15" if sizes == "full" else tiny

    def config(part):
        return json.loads((parts / part / "config.json").read_text())

    # The first values repeat in all weights: drawing 860 million takes longer than a step.
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config("unet"))
    unet.to_empty(device="cpu")
    values = 0.02 * torch.randn(1 << 20)
    for name, weights in unet.named_parameters():
        if weights.ndim == 1:
            weights.data.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        for part in weights.data.view(-1).split(len(values)):
            part.copy_(values[: len(part)])
    # Euler's sampler calls the network once a step.
    pipeline = StableDiffusionPipeline(
        AutoencoderKL.from_config(config("vae")), CLIPTextModel(CLIPTextConfig(**config("text_encoder"))),
        CLIPTokenizer.from_pretrained(tiny / "tokenizer"), unet,
        EulerDiscreteScheduler.from_pretrained(tiny / "scheduler"), None, None, requires_safety_checker=False,
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


def call(name: str, pipeline, size: int, steps: int) -> tuple[float, float, object]:
    """One call: wall seconds, processor seconds, and the latent."""
    import torch

    wall, processor = time.perf_counter(), time.process_time()
    with watched(name, pipeline):
        latent = pipeline(PROMPT, num_inference_steps=steps, height=size, width=size, output_type="latent",
                          generator=torch.Generator().manual_seed(1)).images  # fmt: skip
    return time.perf_counter() - wall, time.process_time() - processor, latent


def resident(key: str) -> float:
    """`VmRSS` or its peak, `VmHWM`, in MiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(float(line.split()[1]) / 1024 for line in lines if line.startswith(key))


def memory(names: list[str], arguments) -> None:
    """Prints the peak of each contestant's calls beyond what stood before, in MiB, as JSON."""
    pipeline = build(arguments.sizes)
    # What torch, diffusers and the peers load at the first call is not counted.
    for name in names:
        call(name, pipeline, arguments.size // 2, 1)
    peaks: dict[str, list[float]] = {name: [] for name in names}
    for steps in (arguments.steps, arguments.more_steps):
        for name in names:
            gc.collect()
            before = resident("VmRSS")
            Path("/proc/self/clear_refs").write_text("5")
            call(name, pipeline, arguments.size, steps)
            peaks[name].append(resident("VmHWM") - before)
            print(f"memory {name}, {steps} steps: {peaks[name][-1]:.0f} MiB", file=sys.stderr, flush=True)
    print(json.dumps(peaks))


def inside(arguments) -> None:
    """Prints how much of a watched call's processor time the recorder's own functions take.

    Both are of the same call and of one thread, so that it holds on a machine with other work too.
    """
    from attnmap import Recorder

    spent = 0.0

    def timed(function):
        def around(*given):
            nonlocal spent
            start = time.thread_time()
            try:
                return function(*given)
            finally:
                spent += time.thread_time() - start

        return around

    for name in ("_attention", "_before", "_after"):
        setattr(Recorder, name, timed(getattr(Recorder, name)))
    pipeline = build(arguments.sizes)
    for size, steps in ((arguments.size // 4, 1), (arguments.size, arguments.steps)):
        spent, start = 0.0, time.thread_time()
        call("recorder", pipeline, size, steps)
        whole = time.thread_time() - start
    print(f"{steps} steps, {size}x{size}: {whole:.2f} s, of which {spent:.3f} s in the recorder: {100 * spent / (whole - spent):.1f} % "
          "on top of the rest")  # fmt: skip


def spread(values: list[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--more-steps", type=int, default=4, help="the second number of steps that memory is measured at")
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--sizes", choices=["full", "tiny"], default="full", help="tiny: to see that it works")
    parser.add_argument("--inside", action="store_true", help="only the recorder's own part of a call; with --threads 1")
    parser.add_argument("--memory", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    import torch

    torch.set_num_threads(arguments.threads)
    if arguments.inside:
        inside(arguments)
        return
    names = [name for name, module in MODULES.items() if importlib.util.find_spec(module)]
    for name in MODULES:
        if name not in names and not arguments.memory:
            print(f"{name} is left out: it is not installed")
    if arguments.memory:
        memory(names, arguments)
        return
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    command = [sys.executable, __file__, *sys.argv[1:], "--memory"]
    peaks = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, env=environment).stdout.splitlines()[-1])
    pipeline = build(arguments.sizes)
    _, _, expected = call("plain", pipeline, arguments.size, arguments.steps)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    same = {name: True for name in names}
    for round in range(arguments.rounds):
        turn = round % len(names)
        for name in names[turn:] + names[:turn]:
            wall, processor, latent = call(name, pipeline, arguments.size, arguments.steps)
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
