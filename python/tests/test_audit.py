"""Nothing is missed silently: what cannot be recorded is refused with a way out, and what can is recorded right."""

from __future__ import annotations

import attnmap
import diffusers
import numpy as np
import peft
import pytest
import torch
from accelerate import cpu_offload
from diffusers.models import attention_processor
from reference import FullMatrices
from test_run import PROMPT, load, refusal
from tiny import build

SIZE = {"height": 32, "width": 48}


def call(pipe, prompt=PROMPT, **arguments):
    given = {"num_inference_steps": 1, "output_type": "np", **SIZE} | arguments
    return pipe(prompt=prompt, generator=torch.Generator().manual_seed(3), **given).images


def watched(pipe, prompt=PROMPT, **arguments):
    """A recording whose image is the same to the bit as without it, and whose sums are those of the full matrices."""
    plain = call(pipe, prompt, **arguments)
    with attnmap.record(pipe) as recorder:
        images = call(pipe, prompt, **arguments)
    assert np.array_equal(plain, images)
    [recording] = recorder.recordings
    denoiser = getattr(pipe, recorder.family.denoiser)
    with FullMatrices(denoiser, recorder.expected) as full:
        call(pipe, prompt, **arguments)
    count = len(images)
    for path, site in recording.sites.items():
        for image in range(count):
            rows = [matrix[matrix.shape[0] - count + image] for matrix in full.seen[path]]
            expected = sum(rows).numpy()[..., recording.prompt(image).keys].transpose(0, 2, 1)
            got = recording.sums(site, image)
            assert np.abs(got.reshape(*got.shape[:2], -1)[:, : expected.shape[1]] - expected).max() < 1e-5
    return recording


def sums(recording, image=0):
    return np.concatenate([recording.sums(site, image).ravel() for site in recording.sites.values()])


def words(recording, image=0):
    return [word["text"] for word in recording.prompt(image).words]


@pytest.fixture(scope="module")
def sd1(fixtures):
    return load(fixtures / "tiny-sd1")


@pytest.fixture
def pipe(sd1):
    """The pipeline with processors as they were."""
    before = sd1.unet.attn_processors
    yield sd1
    sd1.unet.set_attn_processor(before)


# What is recorded right


def test_fused_projections(fixtures):
    pipe = load(fixtures / "tiny-sd1")
    plain = watched(pipe)
    pipe.fuse_qkv_projections()
    assert np.abs(sums(plain) - sums(watched(pipe))).max() < 1e-5


def test_weights_that_lie_elsewhere_until_they_are_used(fixtures):
    pipe = load(fixtures / "tiny-sd1")
    plain = watched(pipe)
    cpu_offload(pipe.unet, execution_device=torch.device("cpu"))
    assert next(pipe.unet.parameters()).device.type == "meta"
    offloaded = watched(pipe)
    assert np.array_equal(sums(plain), sums(offloaded)) and offloaded.device == "cpu" and offloaded.dtype == "f32"


def test_a_lora(fixtures):
    pipe = load(fixtures / "tiny-sd1")
    plain = watched(pipe)
    torch.manual_seed(1)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    adapted = watched(pipe)
    assert list(plain.sites) == list(adapted.sites) and np.abs(sums(plain) - sums(adapted)).max() > 1e-3


def test_textual_inversion_of_several_vectors(fixtures):
    pipe = load(fixtures / "tiny-sd1")
    width = pipe.text_encoder.config.hidden_size
    vectors = torch.randn(3, width, generator=torch.Generator().manual_seed(1))
    pipe.load_textual_inversion({"<my-frog>": vectors}, token="<my-frog>")
    recording = watched(pipe, "a <my-frog> on the beach")
    assert words(recording) == ["a", "<my-frog>", "on", "the", "beach"]
    prompt = recording.prompt(0)
    assert prompt.words[1]["tokens"] == [2, 3, 4] and prompt.keys == list(range(len(prompt.tokens)))


def test_several_images_of_several_prompts(pipe):
    prompts = ["red apple", "a red apple on the beach"]
    recording = watched(pipe, prompts, num_images_per_prompt=2, negative_prompt=["a red apple", ""])
    assert [" ".join(words(recording, image)) for image in range(4)] == [prompts[0]] * 2 + [prompts[1]] * 2
    assert not np.array_equal(sums(recording, 2), sums(recording, 3))


def test_without_guidance(pipe):
    assert np.isfinite(sums(watched(pipe, guidance_scale=1.0))).all()


def test_embeddings_have_no_words(pipe, tmp_path):
    embeds, negative = pipe.encode_prompt(PROMPT, "cpu", 1, True)
    given = {"prompt_embeds": embeds, "negative_prompt_embeds": negative, "num_images_per_prompt": 2}
    recording = watched(pipe, None, **given)
    assert recording.prompt(1).words == [] and "words are not known" in recording.warnings(1)[0]
    assert len(recording.prompt(1).tokens) == 77
    with attnmap.record(pipe) as recorder:
        call(pipe, None, **given)
    for run in recorder.save(tmp_path):
        assert run.check() == [] and list(run.words) == [] and "not known" in run.record["warnings"][0]
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["untitled-3-0", "untitled-3-1"]


@pytest.mark.parametrize("name", ["Img2Img", "Inpaint", "ControlNet", "XLImg2Img", "XLInpaint", "XLControlNet"])
def test_other_pipelines_of_stable_diffusion(name, fixtures):
    from tiny import picture

    base = load(fixtures / ("tiny-sdxl" if name.startswith("XL") else "tiny-sd1"))
    more = {}
    if name.endswith("ControlNet"):
        torch.manual_seed(1)
        more["controlnet"] = diffusers.ControlNetModel.from_unet(base.unet, conditioning_embedding_out_channels=(16, 32, 32))
    pipe = getattr(diffusers, f"StableDiffusion{name}Pipeline").from_pipe(base, **more)
    pipe.set_progress_bar_config(disable=True)
    arguments = {"image": picture(SIZE)}
    if not name.endswith("ControlNet"):
        arguments |= {"strength": 0.6, "num_inference_steps": 2}
    if name.endswith("Inpaint"):
        arguments["mask_image"] = picture(SIZE, "L")
    assert words(watched(pipe, **arguments)) == PROMPT.split()


def test_latent_consistency(fixtures):
    pipe = load(fixtures / "tiny-lcm")
    assert type(pipe).__name__ == "LatentConsistencyModelPipeline"
    watched(pipe, num_inference_steps=2)


def test_prompts_are_those_that_were_given():
    """Z-Image's pipeline writes its chat template into the list that it is given."""
    pipe, arguments = build("z_image")
    prompts = ["a red apple", "a green frog"]
    with attnmap.record(pipe) as recorder:
        call(pipe, prompts, negative_prompt=["rain", "snow"], **arguments)
    [recording] = recorder.recordings
    assert [words(recording, image) for image in range(2)] == [["a", "red", "apple"], ["a", "green", "frog"]]
    assert [recording.negative(image) for image in range(2)] == ["rain", "snow"]


def test_embeddings_of_different_lengths():
    pipe, arguments = build("z_image")
    embeds, negative = pipe.encode_prompt([f"{PROMPT} on the beach " * 2, "frog"], device="cpu")
    assert len(embeds[0]) > 32 >= len(embeds[1])
    with attnmap.record(pipe) as recorder:
        call(pipe, None, prompt_embeds=embeds, negative_prompt_embeds=negative, **arguments)
    assert [len(prompt.keys) for prompt in recorder.recordings[0].prompts] == [64, 32]


def test_the_second_prompt_of_flux_is_the_one_that_is_seen():
    pipe, arguments = build("flux")
    with attnmap.record(pipe) as recorder:
        call(pipe, "a green frog", prompt_2="a red apple", **arguments)
    assert words(recorder.recordings[0]) == ["a", "red", "apple"]


def test_an_encoder_that_was_left_out(fixtures):
    pipe = load(fixtures / "tiny-sd3")
    pipe.text_encoder_3 = None  # its tokenizer stays
    with attnmap.record(pipe) as recorder:
        call(pipe, height=64, width=64)
    assert words(recorder.recordings[0]) == PROMPT.split()


def test_guidance_that_skips_layers(fixtures):
    """Its further call has no part in the maps."""
    pipe = load(fixtures / "tiny-sd3")
    skip = {"skip_guidance_layers": [0], "skip_layer_guidance_start": 0.0, "skip_layer_guidance_stop": 1.0}
    with attnmap.record(pipe) as recorder:
        call(pipe, height=64, width=64, num_inference_steps=3, **skip)
    [recording] = recorder.recordings
    assert len(recording.timesteps) == 3 < recording._calls


def test_a_derived_class_hands_on_what_it_is_given(pipe):
    class All(diffusers.StableDiffusionPipeline):
        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs)

    class Rest(diffusers.StableDiffusionPipeline):
        def __call__(self, prompt, **kwargs):
            return super().__call__(prompt, **kwargs)

    for cls in (All, Rest):
        mine = cls(**pipe.components, requires_safety_checker=False)
        with attnmap.record(mine) as recorder:
            call(mine, negative_prompt="blue", num_images_per_prompt=2)
        [recording] = recorder.recordings
        assert recording.seed(0) == 3 and words(recording, 1) == PROMPT.split() and recording.negative(1) == "blue"
        assert recording.settings(0)["guidance_scale"] == 7.5


def test_sums_of_many_calls_do_not_stay_on_the_device(pipe, tmp_path):
    with attnmap.record(pipe) as recorder:
        call(pipe, output_type="pil")
        call(pipe, output_type="pil")
    assert not any(site.sums for recording in recorder.recordings for site in recording.sites.values())
    assert np.array_equal(*(sums(recording) for recording in recorder.recordings))
    assert all(run.check() == [] for run in recorder.save(tmp_path, report=False))


def test_both_halves_with_one_text_are_told_apart():
    pipe, arguments = build("chroma")
    with attnmap.record(pipe) as recorder:
        call(pipe, negative_prompt=PROMPT, **arguments | {"num_inference_steps": 2})
    recording = recorder.recordings[0]
    assert len(recording.timesteps) == 2 and recording._calls == 4


# What is refused


def refused(match, pipe, prompt=PROMPT, **arguments):
    with pytest.raises(attnmap.RecordError, match=match) as caught, attnmap.record(pipe):
        call(pipe, prompt, **arguments)
    assert "\n" not in str(caught.value)


def test_attention_that_is_not_torchs(pipe):
    pipe.enable_attention_slicing(1)
    refused(r"SlicedAttnProcessor.*disable_attention_slicing", pipe)
    pipe.unet.set_attn_processor(attention_processor.AttnProcessor())
    refused(r"AttnProcessor.*AttnProcessor2_0", pipe)
    pipe.unet.set_attn_processor(attention_processor.AttnProcessor2_0())
    watched(pipe)


def test_one_layer_alone_is_named(pipe):
    path = "mid_block.attentions.0.transformer_blocks.0.attn2"
    pipe.unet.get_submodule(path).set_processor(attention_processor.AttnProcessor())
    refused(rf"1 of \d+ attention layers that see the text were not recorded: {path}\.", pipe)


def test_a_layer_that_attends_twice(pipe):
    class Twice(attention_processor.AttnProcessor2_0):
        """As adapters of image prompts do."""

        def __call__(self, *args, **kwargs):
            return super().__call__(*args, **kwargs) + super().__call__(*args, **kwargs)

    pipe.unet.set_attn_processor(Twice())
    refused("attends twice.*unload", pipe)


def test_compiled_networks(fixtures):
    pipe = load(fixtures / "tiny-sd1")
    plain = pipe.unet
    pipe.unet = torch.compile(plain)
    with pytest.raises(attnmap.RecordError, match=r"pipe\.unet is compiled.*_orig_mod"):
        attnmap.record(pipe)
    pipe.unet = plain
    block = plain.mid_block.attentions[0]
    plain.mid_block.attentions[0] = torch.compile(block)
    with pytest.raises(attnmap.RecordError, match=r"pipe\.unet\.mid_block\.attentions\.0 is compiled"):
        attnmap.record(pipe)
    plain.mid_block.attentions[0] = block
    plain.forward = torch.compile(plain.forward)
    with pytest.raises(attnmap.RecordError, match="is compiled"):
        attnmap.record(pipe)
    del plain.forward
    plain.compile()
    with pytest.raises(attnmap.RecordError, match=r"pipe\.unet is compiled.*compile\(\) was not called"):
        attnmap.record(pipe)


def test_blocks_that_are_skipped():
    pipe, arguments = build("flux")
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=1e9))
    refused(r"disable_cache\(\)", pipe, **arguments | {"num_inference_steps": 3})
    pipe.transformer.disable_cache()
    with attnmap.record(pipe) as recorder:
        call(pipe, **arguments)
    assert len(recorder.recordings) == 1


def test_pipelines_that_are_not_known(fixtures):
    base = load(fixtures / "tiny-sd1")
    parts = base.components | {"requires_safety_checker": False}
    for name in ("StableDiffusionPAGPipeline", "StableDiffusionInstructPix2PixPipeline"):
        pipe = getattr(diffusers, name)(**parts)
        with pytest.raises(attnmap.RecordError, match=rf"{name} is not known.*StableDiffusionPipeline\.from_pipe"):
            attnmap.record(pipe)
    with pytest.raises(attnmap.RecordError, match="is not known; pipelines of these families"):
        attnmap.record(object())

    class Mine(diffusers.StableDiffusionPipeline):
        """What a user derives from a known pipeline is one."""

    watched(Mine(**parts))


def test_a_part_of_the_picture(fixtures):
    from tiny import picture

    pipe = diffusers.StableDiffusionInpaintPipeline.from_pipe(load(fixtures / "tiny-sd1"))
    given = {"image": picture(SIZE), "mask_image": picture(SIZE, "L"), "padding_mask_crop": 4}
    refused("padding_mask_crop.*leave it out", pipe, **given)


def test_two_texts(fixtures):
    pipe = load(fixtures / "tiny-sdxl")
    refused("prompt_2 is another text than prompt.*leave prompt_2 out", pipe, prompt_2="a green frog")


def test_a_failed_run_leaves_the_pipeline_as_it_was(pipe):
    def stop(*_):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), attnmap.record(pipe):
        call(pipe, callback_on_step_end=stop)
    assert type(pipe) is diffusers.StableDiffusionPipeline
    assert not pipe.unet._forward_pre_hooks and not pipe.unet._forward_hooks
    watched(pipe)


# The folders


def test_runs_of_one_name_stand_beside_each_other(pipe, tmp_path):
    with attnmap.record(pipe) as recorder:
        call(pipe)
        call(pipe, num_inference_steps=2)
    names = [run.folder.name for run in recorder.save(tmp_path, report=False)]
    assert names == ["a-red-apple-to-the-left-of-a-green-frog-3", "a-red-apple-to-the-left-of-a-green-frog-3-again-2"]
    with pytest.raises(FileExistsError, match="force=True"):
        recorder.save(tmp_path)
    with attnmap.record(pipe) as recorder:
        pass
    with pytest.raises(attnmap.RecordError, match="nothing was recorded"):
        recorder.save(tmp_path)


def test_force_keeps_what_the_user_put_into_a_run(pipe, tmp_path):
    with attnmap.record(pipe) as recorder:
        call(pipe)
    [run] = recorder.save(tmp_path)
    (run.folder / "notes.txt").write_text("mine")
    (run.folder / "sketches" / "old").mkdir(parents=True)
    (run.folder / "overlays" / "mine.png").write_bytes(b"mine")
    (run.folder / "overlays" / "99-stale.png").write_bytes((run.folder / "words.png").read_bytes())
    recorder.save(tmp_path, force=True)
    assert (run.folder / "notes.txt").read_text() == "mine" and (run.folder / "sketches" / "old").is_dir()
    assert (run.folder / "overlays" / "mine.png").read_bytes() == b"mine"
    assert not (run.folder / "overlays" / "99-stale.png").exists() and run.check() == []
    assert [path.name for path in tmp_path.iterdir()] == [run.folder.name]
    # A page of the user's is not written over, nor a folder whose run.json is of another program.
    run.report.write_text("<p>mine</p>")
    with pytest.raises(FileExistsError, match=r"report\.html is there and not attnmap's"):
        recorder.save(tmp_path, force=True)
    assert run.report.read_text() == "<p>mine</p>"
    (run.folder / "run.json").write_text("{}")
    with pytest.raises(FileExistsError, match="no run of attnmap"):
        recorder.save(tmp_path, force=True)


def test_the_page_names_the_folder_that_it_lies_in(pipe, tmp_path):
    with attnmap.record(pipe) as recorder:
        call(pipe)
    [run] = recorder.save(tmp_path)
    page = run.report.read_text()
    assert f"attnmap explain {run.folder}" in page and ".partial" not in page


def test_force_keeps_the_picture_that_a_run_set_out_from(fixtures, tmp_path):
    """The recorder writes none, so that it is the user's."""
    from tiny import picture

    pipe = diffusers.StableDiffusionImg2ImgPipeline.from_pipe(load(fixtures / "tiny-sd1"))
    with attnmap.record(pipe) as recorder:
        call(pipe, image=picture(SIZE), strength=0.6, num_inference_steps=3)
    [run] = recorder.save(tmp_path, report=False)
    picture(SIZE).save(run.folder / "init.png")
    recorder.save(tmp_path, force=True, report=False)
    assert (run.folder / "init.png").is_file()


def test_a_run_is_as_readable_as_other_files(pipe, tmp_path):
    with attnmap.record(pipe) as recorder:
        call(pipe)
    [run] = recorder.save(tmp_path, report=False)
    modes = {path.name: path.stat().st_mode for path in run.folder.iterdir() if path.is_file()}
    assert modes["trace.safetensors"] == modes["run.json"], modes
    with pytest.raises(FileNotFoundError, match=r"report\.html is not there: `attnmap report"):
        run.show()


def test_settings_are_what_the_image_was_drawn_with(fixtures, tmp_path):
    pipe = load(fixtures / "tiny-sd1")
    pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
    with attnmap.record(pipe) as recorder:
        call(pipe, eta=0.5, guidance_rescale=0.7)
        call(pipe, guidance_scale=1.0, guidance_rescale=0.7, negative_prompt="blue")
    further, off = recorder.recordings
    settings = further.settings(0)
    assert (settings["eta"], settings["guidance_rescale"]) == (0.5, 0.7)
    assert "guidance_rescale" not in off.settings(0) and "eta" not in off.settings(0)
    assert further.warnings(0) == [] and "negative prompt had no effect" in off.warnings(0)[0]
    run = recorder.save(tmp_path)[0]
    assert run.check() == [] and "was made with `eta`" in refusal("explain", str(run.folder), "--words", "frog")
    pipe.scheduler = diffusers.DDPMScheduler.from_config(pipe.scheduler.config)
    with attnmap.record(pipe) as recorder:
        call(pipe, timesteps=[900, 500, 100], num_inference_steps=50)
    settings = recorder.recordings[0].settings(0)
    assert settings["steps"] == 3 and settings["timesteps"] == "given"


def test_what_sdxl_was_told_of_sizes(fixtures, tmp_path):
    pipe = load(fixtures / "tiny-sdxl")
    with attnmap.record(pipe) as recorder:
        call(pipe, original_size=(512, 384), crops_coords_top_left=(0, 64), target_size=(32, 48), num_inference_steps=2)
        call(pipe, target_size=(64, 48), negative_prompt_2="rain", cross_attention_kwargs={"scale": 0.5})
    told, others = (recording.settings(0) for recording in recorder.recordings)
    assert (told["original_size"], told["crop"]) == ("384x512", "64,0") and "target_size" not in told
    assert others["target_size"] == "48x64" and "original_size" not in others and "crop" not in others
    assert others["negative_prompt_2"] == others["cross_attention_kwargs"] == "given"
    told, others = recorder.save(tmp_path, report=False)
    assert attnmap._run.call("explain", str(told.folder), "--words", "frog", "--quiet")
    assert "which cannot be replayed" in refusal("explain", str(others.folder), "--words", "frog")


def test_an_image_of_another_shape_is_told(pipe):
    with attnmap.record(pipe) as recorder:
        call(pipe, output_type="pil")
    [recording] = recorder.recordings
    assert recording.warnings(0) == []
    recording.images = [recording.images[0].resize((48, 40))]
    assert "cut to another shape" in recording.warnings(0)[0]


def test_each_call_has_its_own_seed_and_sampler(fixtures, tmp_path):
    """One generator that is seeded anew, and another scheduler at each call, as loops over seeds have them."""
    pipe = load(fixtures / "tiny-sd1")
    generator, given = torch.Generator(), {"num_inference_steps": 1, **SIZE}
    first = type(pipe.scheduler).__name__
    with attnmap.record(pipe) as recorder:
        pipe(PROMPT, generator=generator.manual_seed(5), **given)
        pipe.scheduler = diffusers.DDIMScheduler.from_config(pipe.scheduler.config)
        pipe(PROMPT, generator=generator.manual_seed(6), **given)
    settings = [run.record["settings"] for run in recorder.save(tmp_path, report=False)]
    assert [setting["seed"] for setting in settings] == [5, 6]
    assert [setting["scheduler"] for setting in settings] == [first, "DDIMScheduler"] and first != "DDIMScheduler"
    assert not any("latents" in setting for setting in settings)
