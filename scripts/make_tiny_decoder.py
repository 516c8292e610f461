#!/usr/bin/env python3
"""Writes fixtures/vae/tiny_decoder.safetensors: a random tiny decoder of TAESD3's form, a latent, and diffusers' picture of it.

usage: python scripts/make_tiny_decoder.py

The weights have the names of a diffusers file (`decoder.layers.0.weight`). Needs torch, diffusers and safetensors.
"""

from pathlib import Path

import torch
from diffusers import AutoencoderTiny
from safetensors.torch import save_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
WIDTH = 8


@torch.no_grad()
def main():
    torch.manual_seed(0)
    model = AutoencoderTiny(
        latent_channels=16,
        encoder_block_out_channels=(WIDTH,) * 4,
        decoder_block_out_channels=(WIDTH,) * 4,
        num_decoder_blocks=(3, 3, 3, 1),
    )
    latent = 3 * torch.randn(2, 16, 5, 4)
    tensors = {name: tensor for name, tensor in model.state_dict().items() if name.startswith("decoder.")}
    tensors |= {"latent": latent, "picture": model.decode(latent, return_dict=False)[0]}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, FIXTURES / "vae" / "tiny_decoder.safetensors")


if __name__ == "__main__":
    main()
