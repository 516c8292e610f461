#!/usr/bin/env python3
"""Make the golden gradients: PyTorch's gradient of every parameter of tiny transformers, and ten steps from there.

usage: python scripts/make_gradients.py --out fixtures/gradients

Makes, for SD3's form (`plain`) and for QK-norm with dual attention in block 0 (`dual`), two blocks of width 64 each:
- `NAME/model/transformer`: every parameter random, also those that begin at 0 or 1, f16, diffusers' layout;
- `NAME/training.safetensors`: a batch and ten steps of AdamW, as `make_training_curve.py` writes them;
- `NAME/gradients/transformer`: the gradients of the first step's loss, f32, under the names of their parameters. Those of
  parameters that the loss does not depend on are 0.

All is computed in f32 from the stored f16 parameters. Needs torch, diffusers and safetensors.
"""

import argparse
import shutil
from argparse import Namespace
from pathlib import Path

from make_training_curve import train

FORMS = {
    "plain": {},
    "dual": {"qk_norm": "rms_norm", "dual_attention_layers": (0,)},
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    out = parser.parse_args().out
    for seed, (name, form) in enumerate(FORMS.items()):
        make(out / name, form, seed)


def make(folder: Path, form: dict, seed: int) -> None:
    import torch
    from diffusers import SD3Transformer2DModel
    from safetensors.torch import save_file

    torch.manual_seed(seed)
    model = SD3Transformer2DModel(
        sample_size=12,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=64,
        num_attention_heads=1,
        joint_attention_dim=24,
        caption_projection_dim=64,
        pooled_projection_dim=16,
        out_channels=4,
        pos_embed_max_size=6,
        **form,
    )
    with torch.no_grad():
        for parameter in model.parameters():
            # Products keep about the size of what goes in; vectors, norm weights too, are of all signs.
            deviation = parameter[0].numel() ** -0.5 if parameter.dim() > 1 else 0.5
            parameter.normal_(0.0, deviation)
    model.half().save_pretrained(folder / "model/transformer")

    gradients = {}

    def keep_first(step: int) -> None:
        if step == 0:
            for name, parameter in model.named_parameters():
                unread = torch.zeros_like(parameter)
                gradients[name] = (unread if parameter.grad is None else parameter.grad).clone()

    options = Namespace(batch=3, side=8, text=5, steps=10, lr=1e-3, bf16=False)
    tensors = train(model, options, keep_first)
    save_file(tensors, folder / "training.safetensors", {"lr": str(options.lr)})
    place = folder / "gradients/transformer"
    place.mkdir(parents=True, exist_ok=True)
    save_file(gradients, place / "diffusion_pytorch_model.safetensors")
    shutil.copy(folder / "model/transformer/config.json", place)


if __name__ == "__main__":
    main()
