"""attnmap beside diffusers and DAAM: the same weights, steps, size and threads, in turn, several times.

    python tests/fixtures/make_full_size.py sd15 DIR --f32
    cargo build --release
    python benches/peers/run.py DIR --steps 4 --rounds 3
    python benches/peers/run.py DIR --steps 3 --rounds 5 --base OTHER/attnmap    # two builds of attnmap alone

Needs benches/peers/requirements.txt and DAAM 0.2.0, but for two builds alone. Prints, for each measure, the median of every contestant with its
spread (lowest to highest) and the ratio of the medians to diffusers + DAAM. Processor seconds are there because they say
more than wall seconds on a machine that others use as well.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROMPT = "a red apple to the left of a blue heart on the beach"


def measured(command, env=None):
    """Runs to the end: wall seconds, processor seconds, peak memory in MiB, and what it printed."""
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env)
    out = process.stdout.read().decode()
    _, status, usage = os.wait4(process.pid, 0)
    wall = time.perf_counter() - start
    if status != 0:
        raise SystemExit(f"failed: {' '.join(map(str, command))}")
    return dict(wall=wall, cpu=usage.ru_utime + usage.ru_stime, memory=usage.ru_maxrss / 1024), out


def attnmap(arguments, *flags, plain=False, program=None):
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [program or arguments.attnmap, "generate", PROMPT, "--model", arguments.model, "--steps", str(arguments.steps),
                   "--size", f"{arguments.size}x{arguments.size}", "--seed", "1", "--threads", str(arguments.threads),
                   "--quiet", "--out", str(out), *flags]
        env = dict(os.environ, ATTNMAP_PLAIN="1" if plain else "")
        result, _ = measured(command, env)
        record = json.loads((out / "run.json").read_text())
    timings = record["timings"]
    # PNDM makes one UNet call more than it was asked steps.
    result["step"] = timings["steps"] / len(record["timesteps"])
    result["decode"] = timings["decode"]
    return result


def diffusers(arguments, *flags):
    command = [sys.executable, HERE / "peer.py", arguments.model, PROMPT, "--steps", str(arguments.steps),
               "--size", str(arguments.size), "--threads", str(arguments.threads), *flags]
    result, out = measured(command)
    timings = json.loads(out.strip().splitlines()[-1])
    result["step"] = timings["step"]
    if not flags:
        result["decode"] = timings["after"]
    return result


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a checkpoint folder with f32 weights")
    parser.add_argument("--attnmap", default=str(HERE.parents[1] / "target/release/attnmap"))
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--plain", action="store_true", help="also attnmap without its kernels")
    parser.add_argument("--bf16", action="store_true", help="also both in bf16")
    parser.add_argument("--no-daam", action="store_true", help="diffusers alone as the yardstick")
    parser.add_argument("--base", metavar="PROGRAM", help="another build of attnmap, as the yardstick and without diffusers")
    arguments = parser.parse_args()
    contestants = {"attnmap": lambda: attnmap(arguments), "diffusers": lambda: diffusers(arguments)}
    if arguments.base:
        del contestants["diffusers"]
        contestants["base"] = lambda: attnmap(arguments, program=arguments.base)
    elif not arguments.no_daam:
        contestants["diffusers + DAAM"] = lambda: diffusers(arguments, "--daam")
    if arguments.plain:
        contestants["attnmap, plain"] = lambda: attnmap(arguments, plain=True)
    if arguments.bf16:
        contestants["attnmap bf16"] = lambda: attnmap(arguments, "--dtype", "bf16")
        contestants["diffusers bf16"] = lambda: diffusers(arguments, "--dtype", "bfloat16")
    results = {name: [] for name in contestants}
    for round in range(arguments.rounds):
        for name, run in contestants.items():
            results[name].append(run())
            print(f"round {round + 1} {name}: {results[name][-1]}", file=sys.stderr, flush=True)
    yardstick = "base" if arguments.base else "diffusers" if arguments.no_daam else "diffusers + DAAM"
    of_decode = "base" if arguments.base else "diffusers"
    print(f"\n{arguments.steps} steps, {arguments.size}x{arguments.size}, {arguments.threads} threads, "
          f"{arguments.rounds} rounds; median (lowest to highest), ratio to {yardstick}\n")
    print("| measure | " + " | ".join(contestants) + " |\n|" + " --- |" * (len(contestants) + 1))
    units = dict(wall="whole run, s", cpu="processor, s", step="a step, s", decode="VAE decode, s", memory="peak memory, MiB")
    for key, label in units.items():
        base = [r[key] for r in results[yardstick if key != "decode" else of_decode] if r.get(key)]
        cells = []
        for name in contestants:
            values = [r[key] for r in results[name] if r.get(key)]
            if not values:
                cells.append("")
                continue
            middle = statistics.median(values)
            ratio = f", {middle / statistics.median(base):.2f}" if base else ""
            cells.append(f"{middle:.2f} ({min(values):.2f} to {max(values):.2f}){ratio}")
        print(f"| {label} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
