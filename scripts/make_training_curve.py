#!/usr/bin/env python3
"""Train a transformer for some steps with PyTorch and store the batches and the losses.

usage: python scripts/make_training_curve.py --model fixtures/sd35m/model --out FILE
       python scripts/make_training_curve.py --depth 8 --save DIR --out FILE

With --model the folder's transformer is trained; with --depth a new one, 64 * depth wide, which is saved to DIR first.
FILE becomes a safetensors file: `latents`, `context` and `pooled` of one batch, `noise` and `sigmas` of each step,
and the `losses` and gradient norms (`norms`) of each step, before clipping. The loss is that of rectified flow, the
optimiser AdamW with a learning rate of --lr and torch's other defaults, gradients are clipped to a norm of 1.

Needs torch, diffusers and safetensors.
"""

import argparse
from pathlib import Path


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--model", type=Path, metavar="DIR")
    source.add_argument("--depth", type=int)
    parser.add_argument("--save", type=Path, metavar="DIR", help="where a new transformer goes")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--side", type=int, default=8, help="of the latents")
    parser.add_argument("--text", type=int, default=11, help="text tokens")
    parser.add_argument("--lr", type=float, default=1e-4)
    parser.add_argument("--bf16", action="store_true", help="autocast to bf16")
    options = parser.parse_args()
    if options.depth and not options.save:
        parser.error("--depth makes a new transformer: say with --save where it goes")
    return options


def train(model, options, watch=lambda step: None) -> dict:
    """Train `model`; what the file holds. `watch` is called with each step's number when its gradients are there."""
    import torch

    model.float().train()
    config = model.config
    batch, side = options.batch, options.side
    latents = torch.randn(batch, config.in_channels, side, side)
    context = torch.randn(batch, options.text, config.joint_attention_dim)
    pooled = torch.randn(batch, config.pooled_projection_dim)
    noise = torch.randn(options.steps, *latents.shape)
    sigmas = torch.sigmoid(torch.randn(options.steps, batch))

    optimizer = torch.optim.AdamW(model.parameters(), lr=options.lr)
    losses, norms = [], []
    for step in range(options.steps):
        sigma = sigmas[step].view(-1, 1, 1, 1)
        noisy = (1 - sigma) * latents + sigma * noise[step]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=options.bf16):
            velocity = model(
                hidden_states=noisy,
                encoder_hidden_states=context,
                pooled_projections=pooled,
                timestep=sigmas[step] * 1000,
                return_dict=False,
            )[0]
        loss = ((velocity.float() - (noise[step] - latents)) ** 2).mean()
        loss.backward()
        watch(step)
        norms.append(torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item())
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
        print(f"step {step + 1}: loss {losses[-1]:.6f}, norm {norms[-1]:.6f}", flush=True)

    tensors = {"latents": latents, "context": context, "pooled": pooled, "noise": noise, "sigmas": sigmas}
    tensors["losses"], tensors["norms"] = torch.tensor(losses), torch.tensor(norms)
    return tensors


def main() -> None:
    options = parse()

    # Only now: `--help` works without them.
    import torch
    from diffusers import SD3Transformer2DModel
    from safetensors.torch import save_file

    torch.manual_seed(0)
    if options.model:
        model = SD3Transformer2DModel.from_pretrained(options.model / "transformer")
    else:
        model = SD3Transformer2DModel(
            sample_size=32,
            patch_size=2,
            in_channels=16,
            num_layers=options.depth,
            attention_head_dim=64,
            num_attention_heads=options.depth,
            joint_attention_dim=512,
            caption_projection_dim=64 * options.depth,
            pooled_projection_dim=256,
            out_channels=16,
            pos_embed_max_size=32,
            qk_norm="rms_norm",
        )
        model.save_pretrained(options.save / "transformer")
    tensors = train(model, options)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.out, {"lr": str(options.lr)})


if __name__ == "__main__":
    main()
