#!/usr/bin/env python3
"""Write a full-size SD3 pipeline in the diffusers folder layout, with random weights.

usage: python scripts/make_random_checkpoint.py VARIANT OUT [--t5 FOLDER]

VARIANT is sd3-medium, sd35-medium or sd35-large. The weights are f16, those of T5-XXL (9.5 GB)
bf16; --t5 hard-links them from an existing text_encoder_3 folder instead of writing them again.
Tokenizer folders are left out.

For measuring speed and memory: the sizes, names and configs are those of the released models and
activations stay finite, but the weights repeat after 16 million values. No model is ever built:
names and shapes come from diffusers and transformers on torch's meta device, and weights go to the
file one tensor at a time. Needs torch, diffusers and transformers.
"""

import argparse
import json
import math
import os
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel
from diffusers import __version__ as diffusers_version
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedModel,
    T5Config,
    T5EncoderModel,
)

SHARD_BYTES = 5_000_000_000
SAMPLE_SIZE = 128  # latent pixels a side at 1024x1024
VAE_PARAMETERS = 83_819_683


@dataclass(frozen=True)
class Variant:
    depth: int
    parameters: int  # of the transformer, without its table of positions
    positions: int  # a side of that table
    qk_norm: str | None
    dual_attention: tuple[int, ...] = ()


VARIANTS = {
    "sd3-medium": Variant(24, 2_028_328_000, 192, None),
    "sd35-medium": Variant(24, 2_243_171_520, 384, "rms_norm", tuple(range(13))),
    "sd35-large": Variant(38, 8_056_627_520, 192, "rms_norm"),
}

MODEL_INDEX = {
    "_class_name": "StableDiffusion3Pipeline",
    "_diffusers_version": diffusers_version,
    "feature_extractor": [None, None],
    "image_encoder": [None, None],
    "scheduler": ["diffusers", "FlowMatchEulerDiscreteScheduler"],
    "text_encoder": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "text_encoder_3": ["transformers", "T5EncoderModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "tokenizer_3": ["transformers", "T5TokenizerFast"],
    "transformer": ["diffusers", "SD3Transformer2DModel"],
    "vae": ["diffusers", "AutoencoderKL"],
}


# --- the parts, without weights ---------------------------------------------------------------


def transformer(variant: Variant) -> SD3Transformer2DModel:
    with torch.device("meta"):
        return SD3Transformer2DModel(
            sample_size=SAMPLE_SIZE,
            patch_size=2,
            in_channels=16,
            out_channels=16,
            num_layers=variant.depth,
            attention_head_dim=64,
            num_attention_heads=variant.depth,
            caption_projection_dim=64 * variant.depth,
            joint_attention_dim=4096,
            pooled_projection_dim=2048,
            pos_embed_max_size=variant.positions,
            qk_norm=variant.qk_norm,
            dual_attention_layers=variant.dual_attention,
        )


def autoencoder() -> AutoencoderKL:
    with torch.device("meta"):
        return AutoencoderKL(
            in_channels=3,
            out_channels=3,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            latent_channels=16,
            norm_num_groups=32,
            use_quant_conv=False,
            use_post_quant_conv=False,
            sample_size=1024,
            scaling_factor=1.5305,
            shift_factor=0.0609,
        )


def clip_encoder(
    width: int, layers: int, heads: int, activation: str
) -> CLIPTextModelWithProjection:
    config = CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        projection_dim=width,
        hidden_act=activation,
        # As released: an end token of 2 tells transformers to pool at the largest id.
        bos_token_id=0,
        eos_token_id=2,
    )
    with torch.device("meta"):
        return CLIPTextModelWithProjection(config)


def t5_encoder() -> T5EncoderModel:
    config = T5Config(
        vocab_size=32128,
        d_model=4096,
        d_kv=64,
        d_ff=10240,
        num_layers=24,
        num_heads=64,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
    )
    with torch.device("meta"):
        return T5EncoderModel(config)


def tensors_of(model: nn.Module) -> dict[str, torch.Size]:
    """Names and shapes as they are stored: tied weights once, buffers if they are persistent."""
    stored = model.state_dict().keys()
    tensors = dict(model.named_parameters()) | dict(model.named_buffers())
    return {name: tensor.shape for name, tensor in tensors.items() if name in stored}


# --- weights ----------------------------------------------------------------------------------


class RandomWeights:
    """Normal values of any scale, cut from one random block at random offsets."""

    # A prime, so that neither rows nor columns of a large matrix line up with the repetition.
    BLOCK = 2**24 - 3

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.block = torch.empty(self.BLOCK).normal_(generator=self.generator)
        self.scaled: dict[tuple[float, torch.dtype], Tensor] = {}

    def pieces(self, count: int, scale: float, dtype: torch.dtype) -> Iterator[Tensor]:
        if (scale, dtype) not in self.scaled:
            self.scaled[scale, dtype] = (self.block * scale).to(dtype)
        values = self.scaled[scale, dtype]
        start = int(torch.randint(self.BLOCK, (), generator=self.generator))
        while count > 0:
            piece = values[start : start + count]
            yield piece
            count -= len(piece)
            start = 0


def axis_table(length: int, width: int) -> Tensor:
    """Sines and cosines of the places along one side of the image, `[length, width]`."""
    places = torch.arange(length, dtype=torch.float64) * (SAMPLE_SIZE // 2 / length)
    frequencies = 10000.0 ** -(torch.arange(width // 2, dtype=torch.float64) / (width // 2))
    angles = torch.outer(places, frequencies)
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def position_table(side: int, width: int, dtype: torch.dtype) -> Tensor:
    """diffusers' 2-D sincos table: the column in the first half of the channels, then the row."""
    axis = axis_table(side, width // 2).to(dtype)
    table = torch.empty(side, side, width, dtype=dtype)
    table[..., : width // 2] = axis[None, :, :]
    table[..., width // 2 :] = axis[:, None, :]
    return table.flatten()


def values_of(
    name: str, shape: torch.Size, dtype: torch.dtype, weights: RandomWeights
) -> Iterator[Tensor]:
    """The values of one tensor, in pieces."""
    if name == "pos_embed.pos_embed":
        yield position_table(math.isqrt(shape[1]), shape[2], dtype)
    elif len(shape) == 1:
        yield torch.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=dtype)
    else:
        # At most half of what would keep the variance, and of the size trained weights have.
        scale = min(0.02, 0.5 / math.sqrt(shape[1:].numel()))
        yield from weights.pieces(shape.numel(), scale, dtype)


# --- files ------------------------------------------------------------------------------------

DTYPE_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16"}


def into_shards(tensors: dict[str, torch.Size], item_bytes: int) -> list[dict[str, torch.Size]]:
    shards: list[dict[str, torch.Size]] = [{}]
    room = SHARD_BYTES
    for name, shape in tensors.items():
        size = shape.numel() * item_bytes
        if size > room:
            shards.append({})
            room = SHARD_BYTES
        shards[-1][name] = shape
        room -= size
    return shards


def write_header(file: BinaryIO, tensors: dict[str, torch.Size], dtype: torch.dtype) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in tensors.items():
        start, end = end, end + shape.numel() * dtype.itemsize
        header[name] = {
            "dtype": DTYPE_NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [start, end],
        }
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    file.write(struct.pack("<Q", len(text)) + text)


def write_weights(
    model: nn.Module, folder: Path, stem: str, dtype: torch.dtype, weights: RandomWeights
) -> None:
    """`stem.safetensors`, or several shards and their index."""
    tensors = tensors_of(model)
    shards = into_shards(tensors, dtype.itemsize)
    files = [f"{stem}-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    if len(shards) == 1:
        files = [f"{stem}.safetensors"]
    placed = dict(zip(files, shards, strict=True))
    for file_name, shard in placed.items():
        with open(folder / file_name, "wb") as file:
            write_header(file, shard, dtype)
            for name, shape in shard.items():
                for piece in values_of(name, shape, dtype, weights):
                    file.write(piece.view(torch.uint8).numpy())
    if len(shards) > 1:
        total = sum(shape.numel() for shape in tensors.values()) * dtype.itemsize
        weight_map = {name: file_name for file_name, shard in placed.items() for name in shard}
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(folder / f"{stem}.safetensors.index.json", index)


def write_json(path: Path, value: object) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n")


def write_part(model: nn.Module, folder: Path, dtype: torch.dtype, weights: RandomWeights) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    if isinstance(model, PreTrainedModel):
        model.config.architectures = [type(model).__name__]
        model.config.dtype = dtype
        model.config.save_pretrained(folder)
        write_weights(model, folder, "model", dtype, weights)
    else:
        model.save_config(folder)
        write_weights(model, folder, "diffusion_pytorch_model", dtype, weights)


def link_part(source: Path, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for path in source.iterdir():
        target = folder / path.name
        target.unlink(missing_ok=True)
        os.link(path, target)


# --- command line -----------------------------------------------------------------------------


def parameters_of(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


def check_count(part: str, model: nn.Module, expected: int) -> None:
    """Print the number of parameters, and stop if it is not that of the released model."""
    count = parameters_of(model)
    print(f"{part}: {count:,} parameters", flush=True)
    if count != expected:
        raise SystemExit(f"{part}: {expected:,} parameters expected")


def make_checkpoint(variant: Variant, out: Path, t5: Path | None) -> None:
    mmdit, vae = transformer(variant), autoencoder()
    check_count("transformer without positions", mmdit, variant.parameters)
    check_count("vae", vae, VAE_PARAMETERS)

    parts: dict[str, Callable[[], nn.Module]] = {
        "transformer": lambda: mmdit,
        "vae": lambda: vae,
        "text_encoder": lambda: clip_encoder(768, 12, 12, "quick_gelu"),
        "text_encoder_2": lambda: clip_encoder(1280, 32, 20, "gelu"),
        "text_encoder_3": t5_encoder,
    }
    for seed, (part, build) in enumerate(parts.items()):
        dtype = torch.bfloat16 if part == "text_encoder_3" else torch.float16
        if part == "text_encoder_3" and t5 is not None:
            link_part(t5, out / part)
        else:
            write_part(build(), out / part, dtype, RandomWeights(seed))
        size = sum(path.stat().st_size for path in (out / part).iterdir())
        print(f"{part}: {size / 1e9:.2f} GB", flush=True)

    scheduler = FlowMatchEulerDiscreteScheduler(num_train_timesteps=1000, shift=3.0)
    scheduler.save_pretrained(out / "scheduler")
    write_json(out / "model_index.json", MODEL_INDEX)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("variant", choices=VARIANTS)
    parser.add_argument("out", type=Path)
    parser.add_argument("--t5", type=Path, metavar="FOLDER", help="text_encoder_3 to hard-link")
    options = parser.parse_args()
    torch.set_num_threads(1)
    make_checkpoint(VARIANTS[options.variant], options.out, options.t5)


if __name__ == "__main__":
    main()
