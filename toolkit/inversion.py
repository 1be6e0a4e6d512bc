"""Back from a video to the noise that would draw it: flow inversion of the motion clip.

Sampling goes down the noise levels by x' = x + (sigma' - sigma) v(x, sigma). Its inverse needs the velocity
at the point that it is looking for. Guesses of that point, from the first to the best:

    next point    x' = x + (sigma' - sigma) v(x, sigma')         one forward a level
    fixed point   the same again with v(x', sigma'), once or twice

Taking v(x, sigma) instead would begin at sigma = 0, where no flow model was trained, and be least exact.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from toolkit.data import fingerprint_text, safetensors_bytes, write_atomic
from toolkit.flow import Velocity
from toolkit.lora import read_safetensors

FORMAT = "1"  # raise it when the content of a file changes its meaning


@torch.no_grad()
def invert(
    velocity: Velocity,
    latents: Tensor,
    sigmas: Tensor,
    *,
    iterations: int = 1,
    callback: Callable[[int], None] | None = None,
) -> Tensor:
    """The point at sigmas[0] from which Euler steps along `sigmas` lead to the latents, nearly.

    latents: clean, (B, C, f, h, w). sigmas: as for sampling, falling from 1 to 0. iterations: forwards a
    level; 1 is the next-point rule, 2 or 3 the fixed point. The velocity should be the plain conditional one:
    guidance is no flow that can be followed back. callback(i) after each level i.
    """
    for i, (sigma, following) in enumerate(itertools.pairwise(sigmas.flip(0))):
        point = latents
        for _ in range(iterations):
            point = latents + (following - sigma) * velocity(point, following)
        latents = point
        if callback is not None:
            callback(i)
    return latents


def standardised(noise: Tensor) -> Tensor:
    """Zero mean and unit deviation in each channel of each sample, over all frames together.

    Inverted noise is a little too strong or too weak (0.9 to 1.1). Frame by frame would erase the motion.
    noise: (B, C, f, h, w).
    """
    deviation, mean = torch.std_mean(noise, dim=(2, 3, 4), keepdim=True, correction=0)
    return (noise - mean) / deviation


def mix_noise(inverted: Tensor, noise: Tensor, share: float) -> Tensor:
    """sqrt(share) inverted + sqrt(1 - share) noise, of unit variance if both are (VideoMage, supplement).

    inverted: (1 or B, C, f, h, w), standardised. noise: (B, C, f, h, w). share: in [0, 1].
    """
    kept, fresh = share**0.5, (1 - share) ** 0.5
    return kept * inverted.to(noise) + fresh * noise


def cached(folder: Path, stem: str, made_from: dict[str, str], make: Callable[[], Tensor]) -> Tensor:
    """A tensor from the folder's file for exactly these facts, else made and put there; float32.

    made_from: all that the tensor depends on, by name: another value is another file.
    """
    facts = {**made_from, "format": FORMAT}
    key = fingerprint_text("\n".join(f"{name}={facts[name]}" for name in sorted(facts)))
    path = folder / f"{stem}-{key}.safetensors"
    if path.is_file():
        return read_safetensors(path)[0]["noise"]
    noise = make().float().cpu()
    write_atomic(path, safetensors_bytes({"noise": noise}, facts))
    return noise
