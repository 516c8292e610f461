#!/usr/bin/env python3
"""Run diffusers on a model of yours and store what it computes at every stage, for `rectiflow verify`.

usage: python scripts/make_golden.py --model DIR --out FILE [--prompt TEXT] [--size WxH] ...
       rectiflow verify --model DIR --golden FILE

DIR is a diffusers folder with its tokenizers; text_encoder_3 may be left out of model_index.json.
FILE becomes a safetensors file as described in make_fixtures.py. Everything is computed in f32 on
the CPU: SD3-Medium with T5 has 31 GB of weights so. `rectiflow verify` takes single files of the same
model too.

Needs torch, diffusers, transformers and safetensors.
"""

import argparse
import re
from pathlib import Path


def size(text: str) -> str:
    """WIDTHxHEIGHT, both multiples of 16."""
    found = re.fullmatch(r"(\d+)x(\d+)", text)
    if not found or any(int(side) == 0 or int(side) % 16 for side in found.groups()):
        raise argparse.ArgumentTypeError("give WIDTHxHEIGHT, both multiples of 16, such as 512x512")
    return text


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--prompt", default="a red fox asleep under a blue umbrella, watercolor")
    parser.add_argument("--negative", default="blurry, low quality")
    parser.add_argument("--size", type=size, default="256x256", metavar="WxH")
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--cfg", type=float, default=4.5, help="guidance scale")
    parser.add_argument("--shift", type=float, help="of the timesteps [default: the model's]")
    parser.add_argument("--seqlen", type=int, default=256, help="T5 tokens, 77 to 512")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if not (options.model / "model_index.json").is_file():
        parser.error(f"{options.model} is not a diffusers folder: it has no model_index.json")
    return options


def main() -> None:
    options = parse()

    # Only now: `--help` works without them.
    import make_fixtures as fixtures
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    fixtures.quiet()
    pipeline = StableDiffusion3Pipeline.from_pretrained(options.model, local_files_only=True)
    pipeline.to(dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    config = pipeline.scheduler.config
    shift = config.shift if options.shift is None else options.shift
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler.from_config(config, shift=shift)
    run = fixtures.RunSpec(
        name=options.model.resolve().name,
        prompt=options.prompt,
        negative=options.negative,
        size=options.size,
        steps=options.steps,
        cfg=options.cfg,
        shift=shift,
        seqlen=options.seqlen,
        seed=options.seed,
    )
    fixtures.save_golden(pipeline, run, options.out)
    print(options.out)


if __name__ == "__main__":
    main()
