"""Every family against the full matrices, and the image against a run that nobody watched."""

from __future__ import annotations

import inspect

import attnmap
import numpy as np
import pytest
import torch
from reference import FullMatrices
from tiny import FROM_IMAGES, PIPELINES, build, from_images

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
    "kolors": (1, [1], "alone"),
    "hunyuan": (1, [1], "alone"),
    "lumina": (2, [0], "before"),
    "chroma": (2, [0], "before"),
    "flux2": (2, [0], "before"),
}


def run(pipe, arguments, prompt=PROMPT):
    given = {"num_inference_steps": STEPS, "output_type": "np"} | arguments
    return pipe(prompt=prompt, generator=torch.Generator().manual_seed(5), **given).images


def parts(name: str, site, keys: int, references: int) -> tuple[slice, int]:
    """The image's places and the first of the text's keys, in the full matrix of a layer."""
    cells = site.grid[0] * site.grid[1]
    where = LAYOUT[name][2]
    if name == "z_image":
        return slice(0, cells), cells + (-cells) % 32
    if where == "before":
        text = keys - (1 + references) * cells
        return slice(text, text + cells), 0
    return slice(0, cells), cells if where == "behind" else 0


def compare(name: str, pipe, arguments, references: int = 0) -> None:
    """A recorded run against the full matrices of the same run, and its image against that of a run nobody watched."""
    with attnmap.record(pipe) as recorder:
        watched = run(pipe, arguments)
    [recording] = recorder.recordings
    with FullMatrices(getattr(pipe, recorder.family.denoiser), recorder.expected) as full:
        run(pipe, arguments)
    calls, rows, where = LAYOUT[name]
    prompt, steps = recording.prompt(0), len(recording.timesteps)
    assert set(full.seen) == set(recording.sites) == set(recorder.expected)
    for path, site in recording.sites.items():
        matrices = full.seen[path][::calls]
        assert len(matrices) == steps
        sums = recording.sums(site, 0)
        height, width = site.grid
        assert watched.shape[2] * height == watched.shape[1] * width, "the grid has the image's aspect"
        image, first = parts(name, site, matrices[0].shape[-1], references)
        expected = sum(matrix[rows[0], :, image] for matrix in matrices).numpy()  # [heads, cells, keys]
        own = expected[..., [first + key for key in prompt.keys]]
        got = sums.reshape(*sums.shape[:2], height * width)
        assert np.abs(got[:, : len(prompt.keys)] - own.transpose(0, 2, 1)).max() < 1e-5
        if where != "alone":
            pictures = slice(image.start, None if references else image.stop)
            assert np.abs(got[:, -1] - expected[..., pictures].sum(-1)).max() < 1e-5
        assert np.abs(got.sum(1) - steps).max() < 1e-5
        single = recording.single_steps(site, 0)
        assert single.shape == (steps, got.shape[1], height, width)
        assert np.abs(single.astype("f4").sum(0) - sums.mean(0)).max() < steps * 2**-11
    assert np.array_equal(watched, run(pipe, arguments)), "the recorder must not change the image"


@pytest.mark.parametrize("name", PIPELINES)
def test_a_family_equals_its_full_matrices(name):
    pipe, arguments = build(name)
    assert arguments["height"] < arguments["width"], "the image is not square"
    compare(name, pipe, arguments)


@pytest.mark.parametrize("name", PIPELINES)
def test_square_images(name):
    pipe, arguments = build(name)
    compare(name, pipe, arguments | {"width": arguments["height"], "num_inference_steps": 1})


@pytest.mark.parametrize("name", FROM_IMAGES)
def test_pipelines_that_start_from_a_picture(name):
    pipe, arguments = from_images(name)
    # FLUX.2's inpainting shows the network the picture beside the image.
    compare(name.split("-")[0], pipe, arguments, references=1 if name == "flux2-inpaint" else 0)


def groups(prompt) -> list[list[int]]:
    """Indices of the tokens of each encoder."""
    found = [[]]
    for index, token in enumerate(prompt.tokens):
        if found[-1] and token.position <= prompt.tokens[found[-1][-1]].position:
            found.append([])
        found[-1].append(index)
    return found


def text_states(pipe, denoiser, arguments, noise: tuple[torch.nn.Module, int] | None = None) -> list[torch.Tensor]:
    """The text that the denoiser is given first, `[rows, keys, width]` each; with `noise` at a token of an encoder."""
    seen: list[list[torch.Tensor]] = []

    def note(module, args, kwargs):
        given = inspect.signature(type(module).forward).bind(module, *args, **kwargs).arguments
        states = [given.get("encoder_hidden_states"), given.get("encoder_hidden_states_t5")]
        if isinstance(given.get("cap_feats"), list):
            states = [torch.nn.utils.rnn.pad_sequence(list(given["cap_feats"]), batch_first=True)]
        seen.append([s for s in states if s is not None])

    def disturb(_, args, output):
        return output + 30 * torch.sin(torch.arange(output.shape[-1])) * (args[0] == noise[1])[..., None]

    hooks = [denoiser.register_forward_pre_hook(note, with_kwargs=True)]
    if noise is not None:
        # T5 has a second module of the same embeddings, which is used in the place of the first.
        size = noise[0].get_input_embeddings().num_embeddings
        tables = [m for m in noise[0].modules() if isinstance(m, torch.nn.Embedding) and m.num_embeddings == size]
        hooks += [table.register_forward_hook(disturb) for table in tables]
    try:
        run(pipe, arguments | {"num_inference_steps": 1, "output_type": "latent"})
    finally:
        for hook in hooks:
            hook.remove()
    return seen[0]


@pytest.mark.parametrize("name", [name for name in PIPELINES if name != "kolors"])
def test_the_keys_hold_the_words(name):
    """Noise at the embedding of a word's token moves the text state at its key most, in the row that was given the prompt."""
    pipe, arguments = build(name)
    with attnmap.record(pipe) as recorder:
        run(pipe, arguments | {"num_inference_steps": 1})
    prompt = recorder.recordings[0].prompt(0)
    assert [word["text"] for word in prompt.words] == PROMPT.split()
    covered = [index for word in prompt.words for index in word["tokens"]]
    text = [index for index, token in enumerate(prompt.tokens) if token.kind == "text" and token.range[0] < token.range[1]]
    assert sorted(covered) == text, "every token of the text lies in one word"
    assert len(set(prompt.keys)) == len(prompt.keys) == len(prompt.tokens)
    denoiser, row = getattr(pipe, recorder.family.denoiser), LAYOUT[name][1][0]
    plain = text_states(pipe, denoiser, arguments)
    encoders = [encoder for encoder in recorder.family.encoders(pipe) if not encoder.beside]
    for encoder, own in zip(encoders, groups(prompt), strict=True):
        model = getattr(pipe, encoder.tokenizer.replace("tokenizer", "text_encoder"))
        ids = [prompt.tokens[index].id for index in own]
        frog = [index for index in prompt.words[-1]["tokens"] if index in own and ids.count(prompt.tokens[index].id) == 1][0]
        moved = text_states(pipe, denoiser, arguments, (model, prompt.tokens[frog].id))
        change = torch.cat([(a - b).abs().sum(-1) for a, b in zip(plain, moved)], dim=-1)
        assert int(change[row].argmax()) == prompt.keys[frog], encoder
        others = [r for r in range(len(change)) if r != row]
        assert not change[others].any(), "the negative prompt has no frog"


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
