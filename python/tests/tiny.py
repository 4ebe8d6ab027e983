"""Tiny pipelines of every family with random weights: nothing is downloaded."""

from __future__ import annotations

import tempfile
from pathlib import Path

import diffusers
import numpy
import sentencepiece
import torch
import transformers
from PIL import Image
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

FIXTURES = Path(__file__).parents[2] / "tests" / "fixtures"

CORPUS = ["a red apple to the left of a green frog on the beach", "sky skyscraper sky at night with a hairclip in her hair"] * 4

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def qwen_tokenizer() -> transformers.PreTrainedTokenizerFast:
    """Byte-level BPE with a chat template and no start token, as Qwen's."""
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet))
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|endoftext|>", eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    fast.chat_template = CHATML
    return fast


def metaspace_tokenizer(start: str | None, end: str | None, lower: bool = False) -> transformers.PreTrainedTokenizerFast:
    """Unigram with a mark before each word: as T5's (`</s>` behind), Gemma's (`<bos>` before) or mT5's."""
    special = ["<pad>", "</s>", "<unk>", "<bos>", "<Prompt>"]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=False))
    if lower:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=150, special_tokens=special))
    template = " ".join(part for part in (start, "$A", end) if part)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(t, tokenizer.token_to_id(t)) for t in (start, end) if t]
    )
    names = {"bos_token": start} if start else {}
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", padding_side="right", **names
    )


def bert_tokenizer() -> transformers.PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(CORPUS, trainers.WordPieceTrainer(vocab_size=150, special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]"
    )


def clip_tokenizer() -> transformers.CLIPTokenizer:
    return transformers.CLIPTokenizer.from_pretrained(FIXTURES / "tiny-sd1" / "tokenizer")


def clip_model(projection: bool = True, width: int = 32) -> torch.nn.Module:
    config = transformers.CLIPTextConfig(
        vocab_size=len(clip_tokenizer()), hidden_size=width, intermediate_size=37, num_hidden_layers=3, num_attention_heads=4,
        projection_dim=width, eos_token_id=2, bos_token_id=0,
    )  # fmt: skip
    return (transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel)(config)


def t5_model(width: int, vocabulary: int = 200) -> transformers.T5EncoderModel:
    return transformers.T5EncoderModel(
        transformers.T5Config(vocab_size=vocabulary, d_model=width, d_kv=8, d_ff=37, num_layers=2, num_heads=4)
    )


def qwen3_model(width: int, head: bool = False, layers: int = 3) -> torch.nn.Module:
    config = transformers.Qwen3Config(
        vocab_size=500, hidden_size=width, intermediate_size=16, num_hidden_layers=layers, num_attention_heads=2,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=1024,
    )  # fmt: skip
    return (transformers.Qwen3ForCausalLM if head else transformers.Qwen3Model)(config)


def gemma_model(width: int) -> torch.nn.Module:
    return transformers.Gemma2Model(transformers.Gemma2Config(
        vocab_size=200, hidden_size=width, intermediate_size=16, num_hidden_layers=3, num_attention_heads=2,
        num_key_value_heads=1, head_dim=8,
    ))  # fmt: skip


def vae(channels: int, width: tuple[int, ...] = (4,), **more: float) -> diffusers.AutoencoderKL:
    blocks = len(width)
    return diffusers.AutoencoderKL(
        in_channels=3, out_channels=3, block_out_channels=width, layers_per_block=1, latent_channels=channels,
        norm_num_groups=1, down_block_types=("DownEncoderBlock2D",) * blocks, up_block_types=("UpDecoderBlock2D",) * blocks,
        **more,
    )  # fmt: skip


def flow(**more: object) -> diffusers.FlowMatchEulerDiscreteScheduler:
    return diffusers.FlowMatchEulerDiscreteScheduler(**more)


def sd3() -> diffusers.DiffusionPipeline:
    return diffusers.StableDiffusion3Pipeline(
        transformer=diffusers.SD3Transformer2DModel(
            sample_size=32, patch_size=2, in_channels=16, num_layers=3, attention_head_dim=8, num_attention_heads=4,
            joint_attention_dim=64, caption_projection_dim=32, pooled_projection_dim=64, out_channels=16,
        ),
        scheduler=flow(), vae=vae(16, shift_factor=0.06), text_encoder=clip_model(), tokenizer=clip_tokenizer(),
        text_encoder_2=clip_model(), tokenizer_2=clip_tokenizer(), text_encoder_3=t5_model(64),
        tokenizer_3=metaspace_tokenizer(None, "</s>"),
    )  # fmt: skip


def flux() -> diffusers.DiffusionPipeline:
    return diffusers.FluxPipeline(
        transformer=diffusers.FluxTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, pooled_projection_dim=32, axes_dims_rope=(4, 4, 8),
        ),
        scheduler=flow(), vae=vae(1, shift_factor=0.06), text_encoder=clip_model(False), tokenizer=clip_tokenizer(),
        text_encoder_2=t5_model(32), tokenizer_2=metaspace_tokenizer(None, "</s>"),
    )  # fmt: skip


def z_image() -> diffusers.DiffusionPipeline:
    transformer = diffusers.ZImageTransformer2DModel(
        all_patch_size=(2,), all_f_patch_size=(1,), in_channels=16, dim=32, n_layers=3, n_refiner_layers=1, n_heads=2,
        n_kv_heads=2, qk_norm=True, cap_feat_dim=16, rope_theta=256.0, t_scale=1000.0, axes_dims=[8, 4, 4],
        axes_lens=[256, 32, 32],
    )  # fmt: skip
    with torch.no_grad():
        transformer.x_pad_token.normal_()
        transformer.cap_pad_token.normal_()
    return diffusers.ZImagePipeline(
        scheduler=flow(), vae=vae(16, (8, 8), shift_factor=0.06), text_encoder=qwen3_model(16), tokenizer=qwen_tokenizer(),
        transformer=transformer,
    )  # fmt: skip


def qwen_image() -> diffusers.DiffusionPipeline:
    text = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
        "num_key_value_heads": 2, "vocab_size": 500, "rope_scaling": {"mrope_section": [1, 1, 2], "rope_type": "default", "type": "default"},
        "rope_theta": 1000000.0,
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 16, "intermediate_size": 16, "num_heads": 2, "out_hidden_size": 16,
        "fullatt_block_indexes": [1],
    }  # fmt: skip
    config = transformers.Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, vision_token_id=400, image_token_id=401, video_token_id=402,
        vision_start_token_id=403, vision_end_token_id=404,
    )  # fmt: skip
    tokenizer = qwen_tokenizer()
    pipe = diffusers.QwenImagePipeline(
        scheduler=flow(), tokenizer=tokenizer, text_encoder=transformers.Qwen2_5_VLForConditionalGeneration(config),
        vae=diffusers.AutoencoderKLQwenImage(
            base_dim=24, z_dim=4, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True],
            latents_mean=[0.0] * 4, latents_std=[1.0] * 4,
        ),
        transformer=diffusers.QwenImageTransformer2DModel(
            patch_size=2, in_channels=16, out_channels=4, num_layers=3, attention_head_dim=16, num_attention_heads=3,
            joint_attention_dim=16, guidance_embeds=False, axes_dims_rope=(8, 4, 4),
        ),
    )  # fmt: skip
    # The number of tokens before the prompt, which depends on the tokenizer.
    before = pipe.prompt_template_encode.split("{}")[0]
    pipe.prompt_template_encode_start_idx = len(tokenizer(before).input_ids)
    return pipe


def pixart() -> diffusers.DiffusionPipeline:
    return diffusers.PixArtSigmaPipeline(
        transformer=diffusers.PixArtTransformer2DModel(
            sample_size=8, num_layers=3, patch_size=2, attention_head_dim=8, num_attention_heads=3, caption_channels=32,
            in_channels=4, cross_attention_dim=24, out_channels=8, attention_bias=True, activation_fn="gelu-approximate",
            num_embeds_ada_norm=1000, norm_type="ada_norm_single", norm_elementwise_affine=False, norm_eps=1e-6,
        ),
        vae=vae(4, (8, 8)), scheduler=diffusers.DDIMScheduler(), text_encoder=t5_model(32),
        tokenizer=metaspace_tokenizer(None, "</s>"),
    )  # fmt: skip


def sana() -> diffusers.DiffusionPipeline:
    blocks = ("ResBlock", "EfficientViTBlock")
    return diffusers.SanaPipeline(
        transformer=diffusers.SanaTransformer2DModel(
            patch_size=1, in_channels=4, out_channels=4, num_layers=3, num_attention_heads=2, attention_head_dim=4,
            num_cross_attention_heads=2, cross_attention_head_dim=4, cross_attention_dim=8, caption_channels=8, sample_size=32,
        ),
        vae=diffusers.AutoencoderDC(
            latent_channels=4, attention_head_dim=2, encoder_block_types=blocks, decoder_block_types=blocks,
            encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), encoder_qkv_multiscales=((), (5,)),
            decoder_qkv_multiscales=((), (5,)), encoder_layers_per_block=(1, 1), decoder_layers_per_block=[1, 1],
            downsample_block_type="conv", upsample_block_type="interpolate", decoder_norm_types="rms_norm",
            decoder_act_fns="silu", scaling_factor=0.41407,
        ),
        scheduler=flow(shift=7.0), text_encoder=gemma_model(8), tokenizer=metaspace_tokenizer("<bos>", None),
    )  # fmt: skip


def hunyuan() -> diffusers.DiffusionPipeline:
    bert = transformers.BertConfig(vocab_size=200, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=37)
    return diffusers.HunyuanDiTPipeline(
        transformer=diffusers.HunyuanDiT2DModel(
            sample_size=16, num_layers=4, patch_size=2, attention_head_dim=8, num_attention_heads=3, in_channels=4,
            cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=24,
            activation_fn="gelu-approximate",
        ),
        vae=vae(4, (8, 8, 8, 8)), scheduler=diffusers.DDPMScheduler(), text_encoder=transformers.BertModel(bert),
        tokenizer=bert_tokenizer(), text_encoder_2=t5_model(32), tokenizer_2=metaspace_tokenizer(None, "</s>"),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


def lumina() -> diffusers.DiffusionPipeline:
    return diffusers.Lumina2Pipeline(
        transformer=diffusers.Lumina2Transformer2DModel(
            sample_size=4, patch_size=2, in_channels=4, hidden_size=16, num_layers=3, num_attention_heads=2, num_kv_heads=1,
            multiple_of=16, ffn_dim_multiplier=None, norm_eps=1e-5, scaling_factor=1.0, axes_dim_rope=[4, 2, 2],
            axes_lens=[300, 512, 512], cap_feat_dim=8,
        ),
        vae=vae(4, (8, 8, 8, 8), shift_factor=0.06), scheduler=flow(), text_encoder=gemma_model(8),
        tokenizer=metaspace_tokenizer("<bos>", None),
    )  # fmt: skip


def chroma() -> diffusers.DiffusionPipeline:
    return diffusers.ChromaPipeline(
        transformer=diffusers.ChromaTransformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=32, axes_dims_rope=(4, 4, 8), approximator_hidden_dim=32, approximator_layers=1,
            approximator_num_channels=16,
        ),
        scheduler=flow(), vae=vae(1, shift_factor=0.06), text_encoder=t5_model(32),
        tokenizer=metaspace_tokenizer(None, "</s>"),
    )  # fmt: skip


def flux2() -> diffusers.DiffusionPipeline:
    return diffusers.Flux2KleinPipeline(
        transformer=diffusers.Flux2Transformer2DModel(
            patch_size=1, in_channels=4, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
            joint_attention_dim=48, timestep_guidance_channels=256, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=False,
        ),
        scheduler=flow(), text_encoder=qwen3_model(16, head=True), tokenizer=qwen_tokenizer(),
        vae=diffusers.AutoencoderKLFlux2(
            sample_size=32, block_out_channels=(4,), layers_per_block=1, latent_channels=1, norm_num_groups=1,
            down_block_types=("DownEncoderBlock2D",), up_block_types=("UpDecoderBlock2D",), use_quant_conv=False,
            use_post_quant_conv=False,
        ),
    )  # fmt: skip


def kolors() -> diffusers.DiffusionPipeline:
    from diffusers.pipelines.kolors import ChatGLMModel, ChatGLMTokenizer
    from diffusers.pipelines.kolors.text_encoder import ChatGLMConfig

    with tempfile.TemporaryDirectory() as folder:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter([*CORPUS, "red red red apple apple frog frog"] * 8), model_prefix=f"{folder}/tokenizer",
            vocab_size=340, byte_fallback=True, model_type="bpe", hard_vocab_limit=False, minloglevel=2,
        )  # fmt: skip
        tokenizer = ChatGLMTokenizer(f"{folder}/tokenizer.model")
    model = ChatGLMModel(ChatGLMConfig(
        num_layers=2, padded_vocab_size=tokenizer.vocab_size, hidden_size=16, ffn_hidden_size=16, kv_channels=8,
        num_attention_heads=2, seq_length=64, add_qkv_bias=True, original_rope=True,
    ), empty_init=False)  # fmt: skip
    for path, parameter in model.named_parameters():
        if "layernorm" in path or "layer_norm" in path:
            torch.nn.init.ones_(parameter)  # they are left as the memory was
    unet = diffusers.UNet2DConditionModel(
        block_out_channels=(8, 16), layers_per_block=1, sample_size=16, in_channels=4, out_channels=4, norm_num_groups=4,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time", addition_time_embed_dim=8,
        transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=64, cross_attention_dim=16,
    )  # fmt: skip
    return diffusers.KolorsPipeline(
        vae=vae(4, (8, 8)), text_encoder=model, tokenizer=tokenizer, unet=unet, force_zeros_for_empty_prompt=False,
        scheduler=diffusers.EulerDiscreteScheduler(),
    )  # fmt: skip


#: Family to its pipeline and the arguments of a call, for an image that is not square.
PIPELINES = {
    "sd3": (sd3, {"height": 16, "width": 24, "max_sequence_length": 32}),
    "flux": (flux, {"height": 16, "width": 24, "max_sequence_length": 48}),
    "z_image": (z_image, {"height": 16, "width": 24, "guidance_scale": 3.0, "max_sequence_length": 96}),
    "qwen_image": (qwen_image, {"height": 32, "width": 48, "true_cfg_scale": 2.0, "negative_prompt": "bad"}),
    "pixart": (pixart, {"height": 16, "width": 24, "use_resolution_binning": False}),
    "kolors": (kolors, {"height": 16, "width": 24, "max_sequence_length": 64}),
    "sana": (sana, {"height": 32, "width": 64, "use_resolution_binning": False, "complex_human_instruction": ["the left of a frog:"]}),
    "hunyuan": (hunyuan, {"height": 32, "width": 64, "use_resolution_binning": False}),
    "lumina": (lumina, {"height": 32, "width": 48}),
    "chroma": (chroma, {"height": 16, "width": 24, "max_sequence_length": 48}),
    "flux2": (flux2, {"height": 16, "width": 24, "max_sequence_length": 96, "text_encoder_out_layers": (1, 2, 3)}),
}  # fmt: skip

#: Further pipelines of the families.
FROM_IMAGES = {
    "kolors-img2img": "KolorsImg2ImgPipeline",
    "sd3-img2img": "StableDiffusion3Img2ImgPipeline",
    "sd3-inpaint": "StableDiffusion3InpaintPipeline",
    "flux-img2img": "FluxImg2ImgPipeline",
    "flux-inpaint": "FluxInpaintPipeline",
    "z_image-img2img": "ZImageImg2ImgPipeline",
    "z_image-inpaint": "ZImageInpaintPipeline",
    "qwen_image-img2img": "QwenImageImg2ImgPipeline",
    "qwen_image-inpaint": "QwenImageInpaintPipeline",
    "chroma-img2img": "ChromaImg2ImgPipeline",
    "chroma-inpaint": "ChromaInpaintPipeline",
    "flux2-inpaint": "Flux2KleinInpaintPipeline",
}


def picture(arguments: dict[str, object], channels: str = "RGB") -> Image.Image:
    """A picture of the size of a call."""
    height, width = arguments["height"], arguments["width"]
    values = numpy.random.default_rng(3).integers(0, 256, (height, width, 3), dtype=numpy.uint8)
    return Image.fromarray(values).convert(channels)


def from_images(name: str) -> tuple[diffusers.DiffusionPipeline, dict[str, object]]:
    """A pipeline that starts from a picture, and the arguments of its call."""
    text, arguments = build(name.split("-")[0])
    pipe = getattr(diffusers, FROM_IMAGES[name]).from_pipe(text)
    pipe.set_progress_bar_config(disable=True)
    if name.startswith("qwen"):
        pipe.prompt_template_encode_start_idx = text.prompt_template_encode_start_idx
    if name == "chroma-inpaint":
        pipe.transformer.register_to_config(guidance_embeds=False)  # which the pipeline reads and the class does not have
    arguments |= {"image": picture(arguments), "strength": 0.7, "num_inference_steps": 3}
    if name.endswith("inpaint"):
        arguments["mask_image"] = picture(arguments, "L").point(lambda v: 255 * (v > 128))
    return pipe, arguments


def build(name: str) -> tuple[diffusers.DiffusionPipeline, dict[str, object]]:
    """A pipeline with attention that is far from uniform, and the arguments of its call."""
    torch.manual_seed(7)
    make, arguments = PIPELINES[name]
    pipe = make()
    pipe.set_progress_bar_config(disable=True)
    generator = torch.Generator().manual_seed(1)
    for part in pipe.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()  # T5 has dropout
    denoiser = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
    with torch.no_grad():
        for path, parameter in denoiser.named_parameters():
            if any(part in path for part in ("to_q.weight", "to_k.weight", "add_q_proj.weight", "add_k_proj.weight", "qkv")):
                parameter.copy_(1.5 * torch.randn(parameter.shape, generator=generator) / parameter.shape[-1] ** 0.5)
    return pipe, dict(arguments)
