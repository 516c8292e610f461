#!/usr/bin/env python3
"""Make every fixture of the project: tiny random SD3 pipelines and diffusers' results on them.

usage: python scripts/make_fixtures.py --tokenizers DIR --out fixtures [--only NAME ...]

DIR holds clip_vocab.json, clip_merges.txt and t5_tokenizer.json.

What it writes:
  NAME/model/                diffusers folder with f16 weights, one per entry of PIPELINES
  NAME/golden.safetensors    inputs and outputs of every stage, computed in f32 from those weights:
                             ids_clip ids_clip2 ids_t5, prompt_embeds negative_prompt_embeds,
                             pooled negative_pooled, noise, velocity (timestep 731.5), sigmas,
                             latents, decoded, image, encoded_mean.
                             Metadata key `args`: the PipelineSpec as JSON.
                             `noise` is torch.randn of a CPU generator seeded with `seed`.
  NAME/official.safetensors  the same weights as in the official single-file checkpoints
  torch_noise.safetensors    torch.randn for several seeds and shapes
  clip_tokens.json           awkward prompts with their CLIP, T5 and ByT5 token ids

make_golden.py does the same for a model of yours. Needs torch, diffusers, transformers and
safetensors.
"""

import argparse
import json
import math
import re
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from diffusers.utils import logging as diffusers_logging
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    ByT5Tokenizer,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)
from transformers.utils import logging as transformers_logging

Tensors = dict[str, Tensor]

CLIP_LENGTH = 77
CLIP_VOCABULARY = 49408
T5_VOCABULARY = 32128
LATENT_CHANNELS = 16
SCALING_FACTOR = 1.5305
SHIFT_FACTOR = 0.0609
VELOCITY_TIMESTEP = 731.5


@dataclass(frozen=True)
class RunSpec:
    """The run whose values are stored."""

    name: str
    prompt: str
    negative: str
    size: str  # "WIDTHxHEIGHT" in pixels
    steps: int
    cfg: float
    shift: float
    seqlen: int  # T5 tokens
    seed: int

    def pixels(self) -> tuple[int, int]:
        """Width and height."""
        width, height = self.size.split("x")
        return int(width), int(height)


@dataclass(frozen=True)
class PipelineSpec(RunSpec):
    """One tiny pipeline and its run."""

    depth: int  # blocks, and attention heads of 64
    qk: bool = False
    dual: tuple[int, ...] = ()
    clip: tuple[int, int] = (16, 16)  # widths
    clip_eos: int = 49407  # 2, as in the released configs, means: pool at the largest id
    t5: int = 32  # width; at least the sum of the CLIP widths
    vae: tuple[int, int, int, int] = (16, 32, 32, 48)
    groups: int = 8
    tokenizers: str = "none"  # "json": tokenizer.json; "files": vocab.json and merges.txt
    shard: bool = False  # store the transformer in two files
    official: bool = False  # also write the official single file


PIPELINES = [
    PipelineSpec(
        name="sd3",
        prompt="a red fox asleep under a blue umbrella, watercolor",
        negative="blurry, low quality",
        size="64x48",
        steps=4,
        cfg=4.5,
        shift=3.0,
        seqlen=77,
        seed=0,
        depth=2,
        clip=(64, 64),
        t5=128,
        vae=(32, 32, 64, 64),
        groups=32,
        tokenizers="json",
        official=True,
    ),
    PipelineSpec(
        name="sd35m",
        prompt='a wooden sign that reads "OPEN 24/7", 3d render',
        negative="watermark, jpeg artifacts, extra letters",
        size="48x64",
        steps=6,
        cfg=3.5,
        shift=3.0,
        seqlen=96,
        seed=3,
        depth=2,
        qk=True,
        dual=(0,),
        clip=(32, 32),
        clip_eos=2,
        t5=72,
        vae=(32, 32, 64, 64),
        groups=32,
        tokenizers="files",
        shard=True,
    ),
    PipelineSpec(
        name="deep-unicode",
        prompt=(
            "Crème brûlée à l'été\u00a0— 日本の桜と中国龙, 🦊👩\u200d🚀 e\u0301te\u0301"
            "\u3000nai\u0308ve\u2009ångström ½ cup\nЖар-птица ﬁn"
        ),
        negative="모호한, 模糊的\t ñandú, U\u0308BERBELICHTET",
        size="96x64",
        steps=3,
        cfg=7.0,
        shift=1.0,
        seqlen=128,
        seed=42,
        depth=4,
        qk=True,
        clip=(16, 32),
        t5=48,
    ),
    PipelineSpec(
        name="long",
        prompt=(
            "A wide-angle photograph of a crowded night market after the rain: paper lanterns"
            " in red and gold hang between narrow brick buildings, steam rises from copper"
            " pots, and puddles on the cobblestones mirror neon signs. In the foreground an"
            " elderly woman in a green raincoat hands a paper bag of roasted chestnuts to a"
            " boy holding a yellow balloon, while a grey cat watches from a wooden crate"
            " stacked with oranges. Behind them a musician plays a battered accordion, two"
            " students share one umbrella, and a cyclist in a striped scarf squeezes past a"
            " fish stall covered with crushed ice. Shallow depth of field, 35mm lens, f/1.8,"
            " ISO 1600, slight film grain, muted shadows, warm highlights, no visible brand"
            " names, shot from hip height in the last blue minutes before dark."
        ),
        negative=(
            "overexposed sky, empty street, daylight, cartoon, illustration, oversaturated"
            " colors, distorted hands, duplicated faces, text overlay, watermark, frame, low"
            " resolution"
        ),
        size="48x80",
        steps=6,
        cfg=4.0,
        shift=5.0,
        seqlen=256,
        seed=1234567890123,
        depth=3,
        qk=True,
        dual=(0, 1),
    ),
    PipelineSpec(
        name="empty",
        prompt="",
        negative="",
        size="32x32",
        steps=1,
        cfg=1.0,
        shift=3.0,
        seqlen=77,
        seed=7,
        depth=3,
    ),
]


# --- random weights ---------------------------------------------------------------------------


def five_levels(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Integers from -2 to 2, half of them 0: vocabularies made of them compress to a fifth."""
    levels = torch.tensor([-2.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 2.0])
    return levels[torch.randint(0, 8, shape, generator=generator)]


def phrased_normal(shape: torch.Size, generator: torch.Generator) -> Tensor:
    """Normal values made of 64 phrases of 16 in random order, so that large weights compress."""
    phrases = torch.randn(64, 16, generator=generator)
    count = math.ceil(shape.numel() / 16)
    picks = torch.randint(0, 64, (count,), generator=generator)
    return phrases[picks].flatten()[: shape.numel()].reshape(shape)


def random_weight(name: str, shape: torch.Size, gain: float, generator: torch.Generator) -> Tensor:
    """A random value for one parameter that keeps activations near unit size."""
    if len(shape) == 1:
        noise = torch.randn(shape, generator=generator)
        return 1 + 0.1 * noise if name.endswith("weight") else 0.05 * noise
    scale = gain / math.sqrt(shape[1:].numel())
    if len(shape) == 2 and shape[0] > 10_000:
        # A power of two leaves the low byte of every f16 value zero.
        return five_levels(shape, generator) * 2.0 ** round(math.log2(scale))
    if shape.numel() >= 4096:
        return phrased_normal(shape, generator) * scale
    return torch.randn(shape, generator=generator) * scale


def randomize(model: nn.Module, seed: int, gain: float = 0.8) -> None:
    """Replace every parameter, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(random_weight(name, parameter.shape, gain, generator))
    model.eval()


# --- the pipeline -----------------------------------------------------------------------------


def clip_encoder(
    width: int, layers: int, activation: str, eos_token: int
) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=CLIP_VOCABULARY,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        # Released encoders have heads of 64, which the official layout takes for granted.
        num_attention_heads=width // 64 if width % 64 == 0 else 4,
        projection_dim=width,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=eos_token,
    )
    return CLIPTextModelWithProjection(config)


def t5_encoder(width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=T5_VOCABULARY,
        d_model=width,
        d_kv=16,
        d_ff=2 * width,
        num_layers=3,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    return T5EncoderModel(config)


def transformer(spec: PipelineSpec) -> SD3Transformer2DModel:
    return SD3Transformer2DModel(
        sample_size=32,
        patch_size=2,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        num_layers=spec.depth,
        attention_head_dim=64,
        num_attention_heads=spec.depth,
        caption_projection_dim=64 * spec.depth,
        joint_attention_dim=spec.t5,
        pooled_projection_dim=sum(spec.clip),
        pos_embed_max_size=24,
        qk_norm="rms_norm" if spec.qk else None,
        dual_attention_layers=spec.dual,
    )


def autoencoder(widths: tuple[int, ...], groups: int) -> AutoencoderKL:
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=2,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
        sample_size=64,
        scaling_factor=SCALING_FACTOR,
        shift_factor=SHIFT_FACTOR,
    )


def clip_tokenizer(tokenizers: Path, pad_token: str) -> CLIPTokenizer:
    return CLIPTokenizer(
        vocab=str(tokenizers / "clip_vocab.json"),
        merges=str(tokenizers / "clip_merges.txt"),
        model_max_length=CLIP_LENGTH,
        pad_token=pad_token,
    )


def t5_tokenizer(tokenizers: Path) -> T5TokenizerFast:
    """Built from the file itself: `from_pretrained` replaces the file's normalizer by its own."""
    return T5TokenizerFast(
        tokenizer_file=str(tokenizers / "t5_tokenizer.json"),
        eos_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        extra_ids=0,
    )


def build_pipeline(spec: PipelineSpec, tokenizers: Path) -> StableDiffusion3Pipeline:
    pipeline = StableDiffusion3Pipeline(
        transformer=transformer(spec),
        scheduler=FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=spec.shift),
        vae=autoencoder(spec.vae, spec.groups),
        text_encoder=clip_encoder(spec.clip[0], 3, "quick_gelu", spec.clip_eos),
        tokenizer=clip_tokenizer(tokenizers, pad_token="<|endoftext|>"),
        text_encoder_2=clip_encoder(spec.clip[1], 4, "gelu", spec.clip_eos),
        tokenizer_2=clip_tokenizer(tokenizers, pad_token="!"),
        text_encoder_3=t5_encoder(spec.t5),
        tokenizer_3=t5_tokenizer(tokenizers),
    )
    pipeline.set_progress_bar_config(disable=True)
    randomize(pipeline.text_encoder, spec.seed + 1)
    randomize(pipeline.text_encoder_2, spec.seed + 2)
    randomize(pipeline.text_encoder_3, spec.seed + 3, gain=0.6)
    randomize(pipeline.transformer, spec.seed + 4)
    randomize(pipeline.vae, spec.seed + 5)
    # From here on every weight is a value that f16 can hold.
    return pipeline.to(dtype=torch.float16)


# --- the diffusers folder ---------------------------------------------------------------------


def save_model(
    pipeline: StableDiffusion3Pipeline, spec: PipelineSpec, tokenizers: Path, folder: Path
) -> None:
    pipeline.save_pretrained(folder)
    if spec.shard:
        shard_transformer(pipeline.transformer, folder / "transformer")
    if spec.tokenizers == "none":
        for part in ("tokenizer", "tokenizer_2", "tokenizer_3"):
            shutil.rmtree(folder / part)
    if spec.tokenizers == "files":
        write_tokenizer_files(tokenizers, folder / "tokenizer", pad_token="<|endoftext|>")
        write_tokenizer_files(tokenizers, folder / "tokenizer_2", pad_token="!")


def shard_transformer(model: SD3Transformer2DModel, folder: Path) -> None:
    """Store the model again, in two files and an index."""
    shutil.rmtree(folder)
    total = sum(value.nbytes for value in model.state_dict().values())
    model.save_pretrained(folder, max_shard_size=int(0.6 * total))


def write_tokenizer_files(tokenizers: Path, folder: Path, pad_token: str) -> None:
    """The older form of a CLIP tokenizer folder, as in the released checkpoints."""
    shutil.rmtree(folder)
    folder.mkdir()
    shutil.copyfile(tokenizers / "clip_vocab.json", folder / "vocab.json")
    shutil.copyfile(tokenizers / "clip_merges.txt", folder / "merges.txt")

    shape = {"lstrip": False, "normalized": True, "rstrip": False, "single_word": False}
    names = {
        "bos_token": "<|startoftext|>",
        "eos_token": "<|endoftext|>",
        "unk_token": "<|endoftext|>",
    }
    special = {key: {"content": content} | shape for key, content in names.items()}
    write_json(folder / "special_tokens_map.json", special | {"pad_token": pad_token})
    config = names | {
        "add_prefix_space": False,
        "clean_up_tokenization_spaces": True,
        "do_lower_case": True,
        "errors": "replace",
        "model_max_length": CLIP_LENGTH,
        "pad_token": pad_token,
        "tokenizer_class": "CLIPTokenizer",
    }
    write_json(folder / "tokenizer_config.json", config)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n")


# --- golden values ----------------------------------------------------------------------------


def golden_values(pipeline: StableDiffusion3Pipeline, spec: RunSpec) -> Tensors:
    with torch.no_grad():
        values = token_ids(pipeline, spec) | conditioning(pipeline, spec)
        values |= denoising(pipeline, spec, values)
        values |= autoencoding(pipeline, spec, values["latents"])
    return {name: as_stored(value) for name, value in values.items()}


def token_ids(pipeline: StableDiffusion3Pipeline, spec: RunSpec) -> Tensors:
    def ids(tokenizer: Callable, length: int) -> Tensor:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        return tokenizer(spec.prompt, max_length=length, **options).input_ids

    tokenizers = {
        "ids_clip": (pipeline.tokenizer, CLIP_LENGTH),
        "ids_clip2": (pipeline.tokenizer_2, CLIP_LENGTH),
        "ids_t5": (pipeline.tokenizer_3, spec.seqlen),
    }
    # A pipeline may lack T5.
    return {name: ids(*how) for name, how in tokenizers.items() if how[0] is not None}


def conditioning(pipeline: StableDiffusion3Pipeline, spec: RunSpec) -> Tensors:
    prompt, negative, pooled, negative_pooled = pipeline.encode_prompt(
        prompt=spec.prompt,
        prompt_2=None,
        prompt_3=None,
        negative_prompt=spec.negative,
        do_classifier_free_guidance=True,
        max_sequence_length=spec.seqlen,
    )
    return {
        "prompt_embeds": prompt,
        "negative_prompt_embeds": negative,
        "pooled": pooled,
        "negative_pooled": negative_pooled,
    }


def denoising(pipeline: StableDiffusion3Pipeline, spec: RunSpec, given: Tensors) -> Tensors:
    width, height = spec.pixels()
    noise = seeded_normal((1, LATENT_CHANNELS, height // 8, width // 8), spec.seed)
    velocity = pipeline.transformer(
        hidden_states=noise,
        encoder_hidden_states=given["prompt_embeds"],
        pooled_projections=given["pooled"],
        timestep=torch.tensor([VELOCITY_TIMESTEP]),
    ).sample
    latents = pipeline(
        spec.prompt,
        negative_prompt=spec.negative,
        width=width,
        height=height,
        num_inference_steps=spec.steps,
        guidance_scale=spec.cfg,
        latents=noise.clone(),
        max_sequence_length=spec.seqlen,
        output_type="latent",
    ).images
    sigmas = pipeline.scheduler.sigmas
    return {"noise": noise, "velocity": velocity, "latents": latents, "sigmas": sigmas}


def autoencoding(pipeline: StableDiffusion3Pipeline, spec: RunSpec, latents: Tensor) -> Tensors:
    width, height = spec.pixels()
    generator = torch.Generator("cpu").manual_seed(spec.seed + 6)
    image = torch.rand(1, 3, height, width, generator=generator) * 2 - 1
    config = pipeline.vae.config
    return {
        "decoded": pipeline.vae.decode(latents / config.scaling_factor + config.shift_factor).sample,
        "image": image,
        "encoded_mean": pipeline.vae.encode(image).latent_dist.mean,
    }


def save_golden(pipeline: StableDiffusion3Pipeline, spec: RunSpec, path: Path) -> Tensors:
    values = golden_values(pipeline, spec)
    save_file(values, path, metadata={"args": json.dumps(asdict(spec))})
    return values


def seeded_normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator("cpu").manual_seed(seed))


def as_stored(value: Tensor) -> Tensor:
    return value.to(torch.float32 if value.is_floating_point() else torch.int32).contiguous()


def make_pipeline(spec: PipelineSpec, tokenizers: Path, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    pipeline = build_pipeline(spec, tokenizers)
    save_model(pipeline, spec, tokenizers, folder / "model")
    values = save_golden(pipeline.to(dtype=torch.float32), spec, folder / "golden.safetensors")
    if spec.official:
        save_file(official_tensors(folder / "model"), folder / "official.safetensors")
    spread = {name: f"{values[name].std():.3f}" for name in ("velocity", "latents", "decoded")}
    print(f"{spec.name}: standard deviations {spread}")


# --- the official layout ----------------------------------------------------------------------


class Renamer:
    """Moves tensors from their diffusers names to their official ones, each exactly once."""

    def __init__(self, source: Tensors, prefix: str) -> None:
        self.source = dict(source)
        self.prefix = prefix
        self.moved: Tensors = {}

    def put(self, name: str, value: Tensor) -> None:
        self.moved[self.prefix + name] = value.contiguous()

    def move(self, old: str, new: str) -> None:
        self.put(new, self.source.pop(old))

    def move_if_there(self, old: str, new: str) -> None:
        if old in self.source:
            self.move(old, new)

    def move_layer(self, old: str, new: str) -> None:
        for kind in ("weight", "bias"):
            self.move(f"{old}.{kind}", f"{new}.{kind}")

    def fuse_layers(self, olds: list[str], new: str) -> None:
        """Stack the outputs of several layers in one."""
        for kind in ("weight", "bias"):
            self.put(f"{new}.{kind}", torch.cat([self.source.pop(f"{old}.{kind}") for old in olds]))

    def move_swapping_halves(self, old: str, new: str) -> None:
        """diffusers stores (scale, shift) where the official layer has (shift, scale)."""
        for kind in ("weight", "bias"):
            scale, shift = self.source.pop(f"{old}.{kind}").chunk(2)
            self.put(f"{new}.{kind}", torch.cat([shift, scale]))

    def finish(self) -> Tensors:
        if self.source:
            raise ValueError(f"no official name for {sorted(self.source)}")
        return self.moved


def official_tensors(model: Path) -> Tensors:
    """All weights of a diffusers folder under their names in an official single file."""
    tensors = official_transformer(load_part(model / "transformer"))
    tensors |= official_autoencoder(load_part(model / "vae"))
    encoders = {"clip_l": "text_encoder", "clip_g": "text_encoder_2", "t5xxl": "text_encoder_3"}
    for official, part in encoders.items():
        for name, value in load_part(model / part).items():
            tensors[f"text_encoders.{official}.transformer.{name}"] = value
    return tensors


def load_part(folder: Path) -> Tensors:
    tensors: Tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        tensors |= load_file(path)
    return tensors


def official_transformer(source: Tensors) -> Tensors:
    names = Renamer(source, "model.diffusion_model.")
    names.move("pos_embed.pos_embed", "pos_embed")
    names.move_layer("pos_embed.proj", "x_embedder.proj")
    names.move_layer("context_embedder", "context_embedder")
    for old, new in (("timestep_embedder", "t_embedder"), ("text_embedder", "y_embedder")):
        names.move_layer(f"time_text_embed.{old}.linear_1", f"{new}.mlp.0")
        names.move_layer(f"time_text_embed.{old}.linear_2", f"{new}.mlp.2")

    depth = 1 + max(int(name.split(".")[1]) for name in source if name.startswith("transformer_b"))
    for block in range(depth):
        old, new = f"transformer_blocks.{block}", f"joint_blocks.{block}"
        move_image_stream(names, old, f"{new}.x_block")
        move_text_stream(names, old, f"{new}.context_block", is_last=block == depth - 1)

    names.move_swapping_halves("norm_out.linear", "final_layer.adaLN_modulation.1")
    names.move_layer("proj_out", "final_layer.linear")
    return names.finish()


def move_image_stream(names: Renamer, old: str, new: str) -> None:
    names.move_layer(f"{old}.norm1.linear", f"{new}.adaLN_modulation.1")
    move_image_attention(names, f"{old}.attn", f"{new}.attn")
    if f"{old}.attn2.to_q.weight" in names.source:
        move_image_attention(names, f"{old}.attn2", f"{new}.attn2")
    names.move_layer(f"{old}.ff.net.0.proj", f"{new}.mlp.fc1")
    names.move_layer(f"{old}.ff.net.2", f"{new}.mlp.fc2")


def move_image_attention(names: Renamer, old: str, new: str) -> None:
    names.fuse_layers([f"{old}.to_{kind}" for kind in "qkv"], f"{new}.qkv")
    for kind in "qk":
        names.move_if_there(f"{old}.norm_{kind}.weight", f"{new}.ln_{kind}.weight")
    names.move_layer(f"{old}.to_out.0", f"{new}.proj")


def move_text_stream(names: Renamer, old: str, new: str, is_last: bool) -> None:
    attention = f"{old}.attn"
    names.fuse_layers([f"{attention}.add_{kind}_proj" for kind in "qkv"], f"{new}.attn.qkv")
    for kind in "qk":
        names.move_if_there(f"{attention}.norm_added_{kind}.weight", f"{new}.attn.ln_{kind}.weight")
    if is_last:
        # The text leaves the last block unused, so only its keys and values are computed there.
        names.move_swapping_halves(f"{old}.norm1_context.linear", f"{new}.adaLN_modulation.1")
        return
    names.move_layer(f"{old}.norm1_context.linear", f"{new}.adaLN_modulation.1")
    names.move_layer(f"{attention}.to_add_out", f"{new}.attn.proj")
    names.move_layer(f"{old}.ff_context.net.0.proj", f"{new}.mlp.fc1")
    names.move_layer(f"{old}.ff_context.net.2", f"{new}.mlp.fc2")


VAE_NAMES = [
    (r"\bconv_norm_out\.", "norm_out."),
    (r"\bdown_blocks\.(\d)\.resnets\.", r"down.\1.block."),
    (r"\bdown_blocks\.(\d)\.downsamplers\.0\.", r"down.\1.downsample."),
    (r"\bup_blocks\.(\d)\.resnets\.", lambda found: f"up.{3 - int(found[1])}.block."),
    (r"\bup_blocks\.(\d)\.upsamplers\.0\.", lambda found: f"up.{3 - int(found[1])}.upsample."),
    (r"\bconv_shortcut\.", "nin_shortcut."),
    (r"\bmid_block\.resnets\.(\d)\.", lambda found: f"mid.block_{int(found[1]) + 1}."),
    (r"\bmid_block\.attentions\.0\.group_norm\.", "mid.attn_1.norm."),
    (r"\bmid_block\.attentions\.0\.to_([qkv])\.", r"mid.attn_1.\1."),
    (r"\bmid_block\.attentions\.0\.to_out\.0\.", "mid.attn_1.proj_out."),
]


def official_autoencoder(source: Tensors) -> Tensors:
    tensors: Tensors = {}
    for name, value in source.items():
        for pattern, replacement in VAE_NAMES:
            name = re.sub(pattern, replacement, name)
        if ".attn_1." in name and value.ndim == 2:
            value = value[:, :, None, None]  # a linear layer is a 1x1 convolution there
        tensors[f"first_stage_model.{name}"] = value.contiguous()
    return tensors


# --- noise and tokens -------------------------------------------------------------------------

NOISE_SEEDS = [0, 1, 42, 1234567890123, 2**63 - 1]
NOISE_SHAPES = [
    (1, 16, 6, 8),
    (1, 16, 16, 16),
    (3, 5),  # fewer than 16 values: drawn one by one
    (2, 3, 7),  # not a multiple of 16: the last 16 values are drawn again
]


def make_noise(path: Path) -> None:
    tensors: Tensors = {}
    for seed in NOISE_SEEDS:
        for shape in NOISE_SHAPES:
            tensors[f"seed{seed}_{'x'.join(map(str, shape))}"] = seeded_normal(shape, seed)
    save_file(tensors, path)


AWKWARD_PROMPTS = [
    "",
    " ",
    "a",
    "A photo of a CAT",
    "  leading and trailing  ",
    "runs   of \t tabs\t\tand\n\nnewlines\r\n",
    "line one\nline two\rline three",
    "vertical\x0btab and form\x0cfeed",
    "don't can't it's we're they've I'm she'll he'd",
    "DON'T IT'S WE'RE",
    "rock 'n' roll 'tis the '90s",
    "typographic \u2018quotes\u2019 and don\u2019t \u201chello\u201d",
    "''' '' ' 's's 'sthe",
    "0 1 12 123 1234567890",
    "3.14159, 1,000,000; 50% off: $19.99",
    "room42b 4k 8K UHD 1girl x264",
    "½ ¾ ² ³ Ⅳ ① ٣ ४",
    "hello,world!how?are...you",
    "!!! ??? !? ...",
    "a-b_c/d\\e|f+g=h&i@j#k$l%m^n*o(p)q[r]s{t}u<v>w~x`y",
    "(masterpiece:1.2), [blurry], {best|worst}",
    "https://example.com/a?b=c&d=e#f",
    "user.name+tag@example.co.uk",
    "naïve café résumé Ångström Œuvre",
    "nai\u0308ve cafe\u0301 re\u0301sume\u0301 A\u030angstro\u0308m",
    "STRASSE straße ẞ İstanbul ıspanak DŽ ǅ ΑΣ ΑΣΑ",
    "ﬁne ﬂow ﬃ Å Ω ℌ ™ ㎏ ℃",
    "ｆｕｌｌ ｗｉｄｔｈ １２３ ！？",
    "日本語のテキスト",
    "中国龙在天上飞，很漂亮。",
    "한국어 텍스트",
    "한국어 decomposed: \u1112\u1161\u11ab\u1100\u116e\u11a8",
    "ﾊﾝｶｸ ｶﾞｷﾞ",
    "Привет, как дела? ЁЛКА",
    "Γειά σου Κόσμε",
    "שלום עולם שָׁלוֹם",
    "مرحبا بالعالم ٱلسَّلَامُ",
    "नमस्ते दुनिया क्षत्रिय",
    "สวัสดีชาวโลก",
    "Tiếng Việt có dấu",
    "mixed латиница and 漢字 with हिन्दी",
    "😀",
    "😀😀😀 🎉!",
    "👨\u200d👩\u200d👧\u200d👦 family",
    "👍🏽 thumbs 🏳\ufe0f\u200d🌈 flag 🇩🇪🇯🇵",
    "❤ ❤\ufe0f ☎\ufe0e",
    "zero\u200bwidth\u200cjoin\u200ders\u2060and\ufeffbom",
    "soft\u00adhyphen and \u202eright-to-left\u202c mark\u200f",
    "no\u00a0break en\u2002space thin\u2009space ideographic\u3000space",
    "line\u2028separator para\u2029separator next\x85line",
    "null\x00byte bell\x07 escape\x1b delete\x7f",
    "private \ue000 use, noncharacter \ufffe, replacement \ufffd, tag \U000e0041",
    "Z\u0351\u036b\u0343a\u0329\u0323l\u033f\u0352g\u0321\u034bo\u0338\u0305",
    "before<|endoftext|>after",
    "<|startoftext|> a cat <|endoftext|>",
    "<|ENDOFTEXT|> <|endoftext <| |>",
    "a cat</s>a dog",
    "</s> <pad> <unk> <extra_id_0> <extra_id_99>",
    "<s> </S> <PAD> < /s>",
    "▁underline ▁ ▁▁ low_line",
    "supercalifragilisticexpialidocious pneumonoultramicroscopicsilicovolcanoconiosis",
    "a" * 300,
    "zq" * 100,
    "a photo of a cat, " * 40,
    "𝕱𝖗𝖆𝖐𝖙𝖚𝖗 𝒸𝓊𝓇𝓈𝒾𝓋ℯ 𐍈 𠜎 𓀀",
]


def make_tokens(tokenizers: Path, path: Path) -> None:
    """Ids without padding or truncation, one prompt a line."""
    clip = clip_tokenizer(tokenizers, pad_token="<|endoftext|>")
    t5 = t5_tokenizer(tokenizers)
    models = {"clip": clip, "t5": t5, "byt5": ByT5Tokenizer()}
    lines = [
        json.dumps({"prompt": prompt} | {name: model(prompt).input_ids for name, model in models.items()})
        for prompt in AWKWARD_PROMPTS
    ]
    path.write_text("[\n" + ",\n".join(lines) + "\n]\n")


# --- command line -----------------------------------------------------------------------------


def quiet() -> None:
    for logging in (diffusers_logging, transformers_logging):
        logging.set_verbosity_error()  # long prompts are truncated on purpose
        logging.disable_progress_bar()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tokenizers", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="a pipeline, `noise` or `tokens`")
    options = parser.parse_args()

    jobs: dict[str, Callable[[], None]] = {
        spec.name: lambda spec=spec: make_pipeline(
            spec, options.tokenizers, options.out / spec.name
        )
        for spec in PIPELINES
    }
    jobs["noise"] = lambda: make_noise(options.out / "torch_noise.safetensors")
    jobs["tokens"] = lambda: make_tokens(options.tokenizers, options.out / "clip_tokens.json")
    unknown = set(options.only or []) - set(jobs)
    if unknown:
        parser.error(f"no such fixture: {', '.join(sorted(unknown))}; there are {', '.join(jobs)}")

    torch.set_num_threads(1)  # the order of a sum does not depend on the machine
    quiet()
    options.out.mkdir(parents=True, exist_ok=True)
    for name in options.only or jobs:
        jobs[name]()


if __name__ == "__main__":
    main()
