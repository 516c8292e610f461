#!/usr/bin/env python3
"""Make golden values of a small patch critic and of small CLIP image towers, with PyTorch and transformers.

usage: python scripts/make_vision.py --out fixtures/vision

Writes, in f32, parameters under their own names and gradients as `gradient.NAME`:
  patch_gan.safetensors   taming-transformers' NLayerDiscriminator, 4 channels wide: `real` and `made` pictures, its words
                          on both (`real.out`, `made.out`), the hinge losses `critic` and `generator`; the gradients are
                          the critic loss', `gradient.made` the generator loss' for the made pictures
  clip_ACTIVATION.safetensors  CLIPVisionModelWithProjection of transformers and `logit_scale`: `picture`, `texts`,
                          `embedding`, `loss`; the gradients are the contrastive loss', `gradient.picture` too

Needs torch, transformers and safetensors.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

Tensors = dict[str, Tensor]


def layers(width: int, halvings: int) -> nn.Sequential:
    """`main` of NLayerDiscriminator, written from its description."""
    made: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
    before = width
    for index in range(1, halvings + 1):
        after = width * min(2**index, 8)
        stride = 2 if index < halvings else 1
        made += [nn.Conv2d(before, after, 4, stride, 1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.2)]
        before = after
    return nn.Sequential(*made, nn.Conv2d(before, 1, 4, 1, 1))


def gradients_of(model: nn.Module) -> Tensors:
    return {f"gradient.{name}": parameter.grad for name, parameter in model.named_parameters()}


def patch_gan(folder: Path) -> None:
    torch.manual_seed(0)
    critic = nn.ModuleDict({"main": layers(4, 3)}).train()
    with torch.no_grad():
        for name, parameter in critic.named_parameters():
            # Larger than it starts, so that no gradient is small beside rounding.
            parameter.copy_(parameter * 2 if parameter.ndim > 1 else parameter + 0.1 * torch.randn_like(parameter))
    real, made = torch.rand(2, 3, 32, 40) * 2 - 1, torch.rand(2, 3, 32, 40) * 2 - 1
    made.requires_grad_()
    run = critic["main"]
    generator = -run(made).mean()
    tensors = {"gradient.made": torch.autograd.grad(generator, made)[0]}
    out = {"real.out": run(real), "made.out": run(made.detach())}
    loss = 0.5 * (functional.relu(1 - out["real.out"]).mean() + functional.relu(1 + out["made.out"]).mean())
    loss.backward()
    tensors |= dict(critic.named_parameters()) | gradients_of(critic) | out
    tensors |= {"real": real, "made": made, "critic": loss[None], "generator": generator[None]}
    save(tensors, folder / "patch_gan.safetensors")


def clip(folder: Path, activation: str) -> None:
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    torch.manual_seed(1)
    config = CLIPVisionConfig(
        hidden_size=24,
        intermediate_size=40,
        projection_dim=12,
        num_hidden_layers=2,
        num_attention_heads=3,
        image_size=24,
        patch_size=8,
        hidden_act=activation,
        attn_implementation="eager",
    )
    tower = CLIPVisionModelWithProjection(config)
    with torch.no_grad():
        for name, parameter in tower.named_parameters():
            # Away from where they start, where biases are 0 and nothing shows.
            scale = 0.1 if parameter.ndim == 1 else 0.5 / parameter[0].numel() ** 0.5
            parameter.add_(scale * torch.randn_like(parameter))
    tower.logit_scale = nn.Parameter(torch.tensor(2.6592))
    picture = torch.rand(4, 3, 24, 24) * 2 - 1
    picture.requires_grad_()
    texts = torch.randn(4, 12)
    embedding = tower(pixel_values=picture).image_embeds
    units = [functional.normalize(x, dim=-1) for x in (texts, embedding)]
    logits = tower.logit_scale.exp() * units[0] @ units[1].T
    places = torch.arange(4)
    loss = (functional.cross_entropy(logits, places) + functional.cross_entropy(logits.T, places)) / 2
    loss.backward()
    tensors = dict(tower.named_parameters()) | gradients_of(tower)
    tensors |= {"picture": picture, "texts": texts, "embedding": embedding, "loss": loss[None]}
    tensors["gradient.picture"] = picture.grad
    save(tensors, folder / f"clip_{activation}.safetensors")


def save(tensors: Tensors, path: Path) -> None:
    save_file({name: value.detach().contiguous() for name, value in tensors.items()}, path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    patch_gan(options.out)
    for activation in ("quick_gelu", "gelu"):
        clip(options.out, activation)


if __name__ == "__main__":
    main()
