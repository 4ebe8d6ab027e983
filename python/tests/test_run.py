"""Whole runs: equal to those of `attnmap generate`, true to the schemas, read by every command."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import attnmap
import numpy as np
import pytest
import torch
from attnmap._run import call
from diffusers import DiffusionPipeline
from jsonschema import Draft202012Validator
from safetensors import safe_open
from tiny import build

PROMPT = "a red apple to the left of a green frog"


def load(folder: Path) -> DiffusionPipeline:
    more = {"safety_checker": None} if folder.name in ("tiny-sd1", "tiny-sd2") else {}
    pipe = DiffusionPipeline.from_pretrained(folder, dtype=torch.float32, **more)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def recorded(pipe, out: Path, prompt: str = PROMPT, **arguments) -> attnmap.Run:
    with attnmap.record(pipe) as recorder:
        pipe(prompt=prompt, generator=torch.Generator().manual_seed(3), **({"num_inference_steps": 3} | arguments))
    return recorder.save(out)[0]


def metadata(run: Path) -> dict[str, object]:
    with safe_open(run / "trace.safetensors", framework="np") as file:
        found = file.metadata()
    plain = ("format_version", "writer", "prompt")
    return {key: value if key in plain else json.loads(value) for key, value in found.items()}


def check_schemas(run: Path, schemas: Path) -> None:
    for name, value in (("trace", metadata(run)), ("run", json.loads((run / "run.json").read_text()))):
        Draft202012Validator(json.loads((schemas / f"{name}.schema.json").read_text())).validate(value)


# The values are probabilities of one call of the network. Both programs round in f32, each in its own order, and guidance
# magnifies that from step to step: against diffusers in f64, either is off by as much as they are apart (docs/PYTHON.md).
@pytest.mark.parametrize("steps", [1, 3])
@pytest.mark.parametrize("name", ["tiny-sd1", "tiny-sd2", "tiny-sdxl"])
def test_a_trace_equals_that_of_generate(name, steps, fixtures, schemas, tmp_path):
    folder = fixtures / name
    call("generate", PROMPT, "--model", str(folder), "--seed", "3", "--steps", str(steps), "--size", "48x32", "--guidance", "5",
         "--out", str(tmp_path / "own"), "--quiet")  # fmt: skip
    run = recorded(load(folder), tmp_path, height=32, width=48, guidance_scale=5.0, num_inference_steps=steps)
    own, other = metadata(tmp_path / "own"), metadata(run.folder)
    for trace in (own, other):  # depths are f32 on both sides, written with more or fewer digits
        trace["sites"] = [site | {"depth": float(np.float32(site["depth"]))} for site in trace["sites"]]
    for key in ("tokens", "words", "sites", "latent", "image"):
        assert own[key] == other[key], key
    assert own.get("encoders") == other.get("encoders")
    assert np.allclose(own["timesteps"], other["timesteps"])
    files = [safe_open(f / "trace.safetensors", framework="np") for f in (tmp_path / "own", run.folder)]
    names = [{n for n in file.keys() if n.startswith(("sum/", "step/"))} for file in files]
    assert names[0] == names[1]
    for tensor in names[0]:
        a, b = (file.get_tensor(tensor).astype("f4") for file in files)
        calls = len(own["timesteps"]) if tensor.startswith("sum/") else 1
        # Single steps are f16, whose neighbours are up to 2^-11 apart.
        limit = 1e-5 if tensor.startswith("sum/") else 2**-11 + 1e-5
        assert a.shape == b.shape and np.abs(a - b).max() / calls < limit, tensor
    check_schemas(tmp_path / "own", schemas)
    check_schemas(run.folder, schemas)
    assert run.check() == []


@pytest.mark.parametrize("name", ["sd3", "flux", "sana"])
def test_every_command_reads_a_run(name, schemas, tmp_path):
    pipe, arguments = build(name)
    arguments.pop("text_encoder_out_layers", None)
    run = recorded(pipe, tmp_path, **arguments)
    check_schemas(run.folder, schemas)
    assert run.check() == []
    assert list(run.words) == ["a", "red", "apple", "to", "the", "left", "of", "a#2", "green", "frog"]
    record = run.record
    assert run.words["frog"].shape == (record["latent"]["height"], record["latent"]["width"])
    shares = [token["share"] for token in record["tokens"]] + [record["padding_share"], record.get("image_share", 0.0)]
    assert abs(sum(shares) - 1) < 1e-3
    assert (record.get("image_share", 0) > 0) == (name != "sana")
    assert [word["word"] for word in run.facts()["words"]][:3] == ["a", "red", "apple"]
    assert len(run.ask(at=(1, 1))) >= 10
    assert run.report.stat().st_size > 10_000 and "frog" in run.report.read_text()
    for aggregate in ("all", "up", "daam", "last-up", "finest"):
        call("view", str(run.folder), "--aggregate", aggregate, "--out", str(tmp_path / aggregate))
    call("view", str(run.folder), "--steps-window", "1", "--out", str(tmp_path / "first"))
    call("animate", str(run.folder), "--words", "frog")
    call("compare", str(run.folder), str(tmp_path / "up"), "--out", str(tmp_path / "compare.html"))


def ask(*arguments: str) -> str:
    done = subprocess.run([attnmap.program(), *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def refusal(*arguments: str) -> str:
    done = subprocess.run([attnmap.program(), *arguments], capture_output=True, text=True)
    said = [line for line in done.stderr.strip().splitlines() if " steps of runs and " not in line]
    assert done.returncode in (1, 2) and len(said) == 1, done.stderr
    return said[0]


@pytest.mark.parametrize("name", ["tiny-sd1", "tiny-sdxl", "tiny-sd3"])
def test_a_run_is_made_again_where_its_checkpoint_opens(name, fixtures, tmp_path):
    size = {"height": 32, "width": 48} if "sd3" not in name else {"height": 64, "width": 64}
    run = recorded(load(fixtures / name), tmp_path, guidance_scale=4.0, **size)
    folder = str(run.folder)
    assert '"frog"' in ask("explain", folder, "--words", "frog", "--counterfactual", "--quiet")
    assert [word["word"] for word in json.loads((run.folder / "evidence.json").read_text())["words"]] == ["frog"]
    ask("probe", folder, "--words", "hat", "--quiet")
    assert [probe["text"] for probe in run.record["probes"]] == ["probe:hat"]
    if name == "tiny-sd1":
        ask("attribute", folder, "--word", "frog", "--method", "occlusion", "--quiet")


def test_what_cannot_be_made_again_says_why(fixtures, tmp_path):
    folder = fixtures / "tiny-sd1"
    small = {"height": 32, "width": 48, "num_inference_steps": 1}
    changed = load(folder)
    with torch.no_grad():
        changed.unet.conv_out.weight.mul_(-4)
    run = recorded(changed, tmp_path / "changed", **(small | {"num_inference_steps": 3}))
    assert "changed in Python" in refusal("explain", str(run.folder), "--words", "frog")
    pipe = load(folder)
    used = torch.Generator().manual_seed(3)
    torch.randn(1, generator=used)
    with attnmap.record(pipe) as recorder:
        pipe(PROMPT, generator=used, **small)
        pipe(PROMPT, generator=torch.Generator().manual_seed(3), num_images_per_prompt=2, **small)
    used, first, second = recorder.save(tmp_path)
    for run in (used, second):
        assert run.record["settings"]["latents"] == "given"
        assert "first noise" in refusal("probe", str(run.folder), "--words", "hat")
    assert "latents" not in first.record["settings"]
    pipe, arguments = build("sana")
    run = recorded(pipe, tmp_path / "sana", **arguments)
    for command in (["explain"], ["why", "--word", "frog"], ["probe", "--words", "hat"], ["attribute", "--word", "frog"]):
        assert "SanaPipeline has no network here" in refusal(command[0], str(run.folder), *command[1:])


def test_check_names_what_is_wrong(tmp_path):
    pipe, arguments = build("flux")
    run = recorded(pipe, tmp_path, **arguments)
    (run.folder / "words.png").unlink()
    record = run.record
    record["padding_share"] += 0.5
    record["words"][0]["tokens"] = [99]
    (run.folder / "run.json").write_text(json.dumps(record))
    trace = run.folder / "trace.safetensors"
    data = bytearray(trace.read_bytes())
    data[-64:] = b"\xff" * 64
    trace.write_bytes(data)
    faults = {fault["file"] for fault in run.check()}
    assert faults == {"words.png", "run.json", "trace.safetensors"}
    done = subprocess.run([attnmap.program(), "check", str(run.folder)], capture_output=True, text=True)
    assert done.returncode == 1 and len(done.stdout.strip().splitlines()) == len(run.check()) >= 4


def test_runs_are_read_without_torch():
    """torch is asked for when something is to be recorded, and then by name."""
    code = """
import sys
sys.modules["torch"] = None
import attnmap
assert attnmap.Run("folder").folder.name == "folder"
try:
    attnmap.record
except ImportError as error:
    assert "pip install torch" in str(error), error
else:
    raise SystemExit("torch was not missed")
"""
    environment = os.environ | {"PYTHONPATH": str(Path(attnmap.__file__).parents[1])}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)
