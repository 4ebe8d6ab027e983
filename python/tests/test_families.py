"""Every family against the full matrices, and the image against a run that nobody watched."""

from __future__ import annotations

import attnmap
import numpy as np
import pytest
import torch
from reference import FullMatrices
from tiny import PIPELINES, build

PROMPT = "A red apple to the left of a green frog"
STEPS = 2

#: Calls per step (2 where the halves are called one after the other), the rows that were given the prompt in the first
#: of them, and where the text's keys lie: before the image, behind it, or alone.
LAYOUT = {
    "sd3": (1, [1], "behind"),
    "flux": (1, [0], "before"),
    "z_image": (1, [0], "behind"),
    "qwen_image": (2, [0], "before"),
    "pixart": (1, [1], "alone"),
    "sana": (1, [1], "alone"),
    "hunyuan": (1, [1], "alone"),
    "lumina": (2, [0], "before"),
    "chroma": (2, [0], "before"),
    "flux2": (2, [0], "before"),
}


def run(pipe, arguments, prompt=PROMPT):
    return pipe(prompt=prompt, generator=torch.Generator().manual_seed(5), num_inference_steps=STEPS, output_type="np", **arguments).images


@pytest.mark.parametrize("name", PIPELINES)
def test_a_family_equals_its_full_matrices(name):
    pipe, arguments = build(name)
    with attnmap.record(pipe) as recorder:
        watched = run(pipe, arguments)
    [recording] = recorder.recordings
    with FullMatrices(pipe.transformer, recorder.expected) as full:
        run(pipe, arguments)
    calls, rows, where = LAYOUT[name]
    prompt = recording.prompt(0)
    assert set(full.seen) == set(recording.sites) == set(recorder.expected)
    for path, site in recording.sites.items():
        matrices = full.seen[path][::calls]
        assert len(matrices) == STEPS
        sums = recording.sums(site, 0)
        height, width = site.grid
        cells = height * width
        assert height < width and watched.shape[2] * height == watched.shape[1] * width, "the image is not square"
        keys = matrices[0].shape[-1]
        text = keys - cells if where != "alone" else keys
        if name == "z_image":
            image, first = slice(0, cells), cells + (-cells) % 32
        elif where == "behind":
            image, first = slice(0, cells), cells
        elif where == "before":
            image, first = slice(text, text + cells), 0
        else:
            image, first = slice(0, cells), 0
        expected = sum(matrix[rows[0], :, image] for matrix in matrices).numpy()  # [heads, cells, keys]
        own = expected[..., [first + key for key in prompt.keys]]
        got = sums.reshape(*sums.shape[:2], cells)
        assert np.abs(got[:, : len(prompt.keys)] - own.transpose(0, 2, 1)).max() < 1e-5
        if where != "alone":
            assert np.abs(got[:, -1] - expected[..., image].sum(-1)).max() < 1e-5
        assert np.abs(got.sum(1) - STEPS).max() < 1e-5
        steps = recording.single_steps(site, 0)
        assert steps.shape == (STEPS, *got.shape[1:2], height, width)
        assert np.abs(steps.astype("f4").sum(0) - sums.mean(0)).max() < 2e-3
    unwatched = run(pipe, arguments)
    assert np.array_equal(watched, unwatched), "the recorder must not change the image"


@pytest.mark.parametrize("name", PIPELINES)
def test_the_keys_hold_the_words(name):
    """A change of one word changes the text states at its keys, and for encoders that look back alone at none before."""
    pipe, arguments = build(name)
    with attnmap.record(pipe) as recorder:
        run(pipe, arguments)
    prompt = recorder.recordings[0].prompt(0)
    words = [word["text"] for word in prompt.words]
    assert words == PROMPT.split()
    for word in prompt.words:
        for index in word["tokens"]:
            token = prompt.tokens[index]
            piece = token.text.replace("</w>", "").lstrip("\u2581\u0120").removeprefix("##")
            assert token.kind == "text" and (piece.lower() in word["text"].lower() or piece in ("", "<unk>")), (word, token)
    covered = [index for word in prompt.words for index in word["tokens"]]
    text = [index for index, token in enumerate(prompt.tokens) if token.kind == "text" and token.range[0] < token.range[1]]
    assert sorted(covered) == text, "every token of the text lies in one word"
    assert len(set(prompt.keys)) == len(prompt.keys) == len(prompt.tokens)


def test_several_images_and_prompts_have_their_own_maps():
    pipe, arguments = build("flux")
    prompts = ["a red apple", "a green frog on the beach"]
    with attnmap.record(pipe) as recorder:
        pipe(prompts, num_images_per_prompt=2, num_inference_steps=1, output_type="np", generator=torch.Generator().manual_seed(0), **arguments)
    recording = recorder.recordings[0]
    assert [recording.prompt(image).text for image in range(4)] == [prompts[0]] * 2 + [prompts[1]] * 2
    site = next(iter(recording.sites.values()))
    assert recording.sums(site, 0).shape[1] != recording.sums(site, 2).shape[1]
    assert not np.array_equal(recording.sums(site, 2), recording.sums(site, 3))


def test_half_precision_is_summed_in_f32():
    pipe, arguments = build("flux")
    pipe.to(torch.bfloat16)
    with attnmap.record(pipe) as recorder:
        run(pipe, arguments)
    recording = recorder.recordings[0]
    assert recording.dtype == "bf16"
    for site in recording.sites.values():
        assert site.sums[0].dtype == torch.float32
        assert np.abs(recording.sums(site, 0).sum(1) - STEPS).max() < 1e-5


def test_pieces_of_the_score_matrix_change_nothing():
    pipe, arguments = build("sd3")
    sums = []
    for workspace in (1 << 28, 1 << 14):
        with attnmap.record(pipe, workspace=workspace) as recorder:
            run(pipe, arguments)
        recording = recorder.recordings[0]
        sums.append([recording.sums(site, 0) for site in recording.sites.values()])
    assert all(np.abs(a - b).max() < 1e-6 for a, b in zip(*sums))


def test_the_budget_is_kept():
    pipe, arguments = build("flux")
    with pytest.raises(attnmap.RecordError, match="heads='mean'"), attnmap.record(pipe, memory=1000):
        run(pipe, arguments)
    # The pipeline is left as it was.
    assert type(pipe).__name__ == "FluxPipeline" and not pipe.transformer._forward_pre_hooks
    run(pipe, arguments)
