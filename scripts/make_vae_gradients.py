#!/usr/bin/env python3
"""Make the gradients of a tiny autoencoder as diffusers and PyTorch have them.

usage: python scripts/make_vae_gradients.py --out fixtures/vae/gradients.safetensors

The file holds, in f32: every parameter under its official name; its gradient as `gradient.NAME`; `picture`, `noise` of
the latent, `mean`, `log_variance`, `decoded`, and the losses `l1`, `kl`, each summed over elements and divided by the
batch. The gradients are those of `l1 + kl_weight * kl`; the metadata has `kl_weight`, the widths, the blocks and the
groups.

Needs torch, diffusers, transformers and safetensors.
"""

import argparse
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    # Only now: `--help` works without them.
    import torch
    from diffusers import AutoencoderKL
    from make_fixtures import official_autoencoder, randomize
    from safetensors.torch import save_file

    widths, blocks, channels, groups, kl_weight = (8, 12, 16, 16), 1, 4, 4, 0.3
    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * len(widths),
        up_block_types=("UpDecoderBlock2D",) * len(widths),
        block_out_channels=widths,
        layers_per_block=blocks,
        latent_channels=channels,
        norm_num_groups=groups,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )
    randomize(model, options.seed + 1)
    generator = torch.Generator().manual_seed(options.seed)
    # Neither square nor of one tile of a kernel.
    picture = torch.rand(2, 3, 24, 40, generator=generator) * 2 - 1
    noise = torch.randn(2, channels, 3, 5, generator=generator)

    posterior = model.encode(picture).latent_dist
    decoded = model.decode(posterior.mean + posterior.std * noise).sample
    batch = len(picture)
    l1 = (picture - decoded).abs().sum() / batch
    kl = posterior.kl().sum() / batch
    (l1 + kl_weight * kl).backward()

    def official(tensors: dict) -> dict:
        prefix = "first_stage_model."
        return {name.removeprefix(prefix): value for name, value in official_autoencoder(tensors).items()}

    gradients = {name: parameter.grad for name, parameter in model.named_parameters()}
    tensors = official(dict(model.state_dict()))
    tensors |= {f"gradient.{name}": value for name, value in official(gradients).items()}
    tensors |= {"picture": picture, "noise": noise, "decoded": decoded}
    tensors |= {"mean": posterior.mean, "log_variance": posterior.logvar, "l1": l1[None], "kl": kl[None]}
    metadata = {"widths": widths, "blocks": blocks, "latent_channels": channels, "groups": groups, "kl_weight": kl_weight}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    stored = {name: value.detach().contiguous() for name, value in tensors.items()}
    save_file(stored, options.out, {key: str(value) for key, value in metadata.items()})


if __name__ == "__main__":
    main()
