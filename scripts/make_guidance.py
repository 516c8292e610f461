#!/usr/bin/env python3
"""Writes fixtures/guidance.safetensors: latents that diffusers draws with the tiny SD3 model under several guidances.

usage: python scripts/make_guidance.py

Each tensor is named as its case in crates/generate/tests/guidance.rs. Text features, noise and shift are those of
fixtures/sd3/golden.safetensors. Needs torch, diffusers, transformers and safetensors.
"""

import copy
from pathlib import Path

import torch
from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3PAGPipeline, StableDiffusion3Pipeline
from diffusers.guiders.adaptive_projected_guidance import MomentumBuffer, normalized_guidance
from diffusers.guiders.classifier_free_zero_star_guidance import cfg_zero_star_scale
from diffusers.guiders.guider_utils import rescale_noise_cfg
from safetensors.torch import load_file, save_file

FIXTURES = Path(__file__).resolve().parent.parent / "fixtures"
STEPS = 6
SCALE = 4.5
SHIFT = 3.0


def scheduler():
    return FlowMatchEulerDiscreteScheduler(shift=SHIFT)


def whole(pipeline, golden, **more):
    """By the pipeline itself."""
    _, _, height, width = golden["noise"].shape
    return pipeline(
        prompt_embeds=golden["prompt_embeds"],
        negative_prompt_embeds=golden["negative_prompt_embeds"],
        pooled_prompt_embeds=golden["pooled"],
        negative_pooled_prompt_embeds=golden["negative_pooled"],
        latents=golden["noise"],
        height=8 * height,
        width=8 * width,
        num_inference_steps=STEPS,
        guidance_scale=SCALE,
        output_type="latent",
        return_dict=False,
        **more,
    )[0]


def stepwise(transformer, golden, lead):
    """By a loop, with the guider's own function for what becomes of two velocities."""
    euler = scheduler()
    euler.set_timesteps(STEPS)
    latent = golden["noise"]
    for step, timestep in enumerate(euler.timesteps):
        said = [
            transformer(
                hidden_states=latent,
                timestep=timestep.expand(1),
                encoder_hidden_states=golden[f"{which}prompt_embeds"],
                pooled_projections=golden[f"{which}pooled"],
                return_dict=False,
            )[0]
            for which in ("", "negative_")
        ]
        latent = euler.step(lead(step, *said), timestep, latent, return_dict=False)[0]
    return latent


@torch.no_grad()
def main():
    golden = load_file(FIXTURES / "sd3" / "golden.safetensors")
    pipeline = StableDiffusion3Pipeline.from_pretrained(FIXTURES / "sd3" / "model").to(dtype=torch.float32)
    pipeline.scheduler = scheduler()
    pipeline.set_progress_bar_config(disable=True)
    found = {}
    for name, layers in {"skip_first": [0], "skip_last": [1]}.items():
        found[name] = whole(
            pipeline,
            golden,
            skip_guidance_layers=layers,
            skip_layer_guidance_scale=2.8,
            skip_layer_guidance_start=0.01,
            skip_layer_guidance_stop=0.6,
        )
    for name, layers in {"pag_first": ["blocks.0"], "pag_both": ["blocks.0", "blocks.1"]}.items():
        components = {**pipeline.components, "transformer": copy.deepcopy(pipeline.transformer)}
        for unknown in ("image_encoder", "feature_extractor"):
            components.pop(unknown)
        perturbed = StableDiffusion3PAGPipeline(**components, pag_applied_layers=layers)
        perturbed.scheduler = scheduler()
        perturbed.set_progress_bar_config(disable=True)
        found[name] = whole(perturbed, golden, pag_scale=3.0)

    def zero_star(step, prompt, negative):
        if step < 1:
            return torch.zeros_like(prompt)
        negative = negative * cfg_zero_star_scale(prompt.flatten(1), negative.flatten(1)).view(-1, 1, 1, 1)
        return negative + SCALE * (prompt - negative)

    buffer = MomentumBuffer(-0.3)

    def projected(_, prompt, negative):
        return normalized_guidance(prompt, negative, SCALE, buffer, eta=0.5, norm_threshold=5.0)

    def rescaled(_, prompt, negative):
        return rescale_noise_cfg(negative + SCALE * (prompt - negative), prompt, 0.7)

    for name, lead in {"zero_star": zero_star, "projected": projected, "rescaled": rescaled}.items():
        found[name] = stepwise(pipeline.transformer, golden, lead)
    found = {name: latent.contiguous() for name, latent in found.items()}
    path = FIXTURES / "guidance.safetensors"
    save_file(found, path)
    for name, latent in found.items():
        print(name, list(latent.shape), latent.std().item())
    print(path.name, path.stat().st_size, "bytes")


main()
