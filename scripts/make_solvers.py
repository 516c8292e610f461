"""Writes fixtures/solvers.json: where diffusers' schedulers for flow models lead on a model whose velocity is known.

    python scripts/make_solvers.py        (PyTorch and diffusers needed)

The model is a mixture of two normal distributions, each number by itself; crates/sample/tests/diffusers.rs has the same.
"""

import json
import pathlib

import torch
from diffusers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    FlowMatchEulerDiscreteScheduler,
    FlowMatchHeunDiscreteScheduler,
    FlowMatchLCMScheduler,
    UniPCMultistepScheduler,
)
from diffusers.schedulers import scheduling_flow_match_lcm

SHARES = torch.tensor([0.4, 0.6], dtype=torch.float64)
MEANS = torch.tensor([-1.2, 0.8], dtype=torch.float64)
STD = 0.3
STEPS = 10
SHIFT = 3.0
NUMBERS = 16


def velocity(latent, sigma):
    x, sigma = latent.double()[..., None], float(sigma)
    variance = ((1 - sigma) * STD) ** 2 + sigma**2
    apart = x - (1 - sigma) * MEANS
    weights = torch.softmax(SHARES.log() - apart**2 / (2 * variance), dim=-1)
    means = MEANS + STD**2 * (1 - sigma) / variance * apart
    denoised = (weights * means).sum(-1)
    return ((latent.double() - denoised) / sigma).float()


def follow(scheduler, latent, fresh):
    scheduler.set_timesteps(STEPS)
    drawn = iter(fresh)
    scheduling_flow_match_lcm.randn_tensor = lambda *_, **__: next(drawn)
    variance = "sde" in getattr(scheduler.config, "algorithm_type", "")
    for index, timestep in enumerate(scheduler.timesteps):
        more = {"variance_noise": fresh[index]} if variance else {}
        found = velocity(latent, scheduler.sigmas[index])
        latent = scheduler.step(found, timestep, latent, **more).prev_sample
    return latent


def main():
    generator = torch.Generator().manual_seed(5)
    noise = torch.randn(1, NUMBERS, generator=generator)
    fresh = torch.randn(STEPS, 1, NUMBERS, generator=generator)
    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": SHIFT}
    schedulers = {
        "euler": FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        "heun": FlowMatchHeunDiscreteScheduler(shift=SHIFT),
        "lcm": FlowMatchLCMScheduler(shift=SHIFT),
        "dpmpp_2m_flow": DPMSolverMultistepScheduler(**flow),
        "dpmpp_2m_sde": DPMSolverMultistepScheduler(algorithm_type="sde-dpmsolver++", **flow),
        "uni_pc": UniPCMultistepScheduler(**flow),
        "deis": DEISMultistepScheduler(**flow),
    }
    runs = {}
    for name, scheduler in schedulers.items():
        latent = follow(scheduler, noise, fresh)
        sigmas = scheduler.sigmas.double().tolist()
        # Heun's levels come twice, and DEIS stays at its last one.
        levels = [one for one, before in zip(sigmas, [None] + sigmas) if one != before]
        runs[name] = {"sigmas": levels, "latent": latent[0].double().tolist()}
    out = {"noise": noise[0].double().tolist(), "fresh": fresh[:, 0].double().tolist(), "runs": runs}
    path = pathlib.Path(__file__).parent.parent / "fixtures" / "solvers.json"
    path.write_text(json.dumps(out, indent=1) + "\n")
    print(path, path.stat().st_size, "bytes")


main()
