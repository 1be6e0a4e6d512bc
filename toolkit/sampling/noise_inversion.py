"""Back from a video to the noise that would draw it: flow inversion of the motion clip.

Sampling goes down the noise levels by x' = x + (sigma' - sigma) v(x, sigma). Its inverse needs the velocity
at the point that it is looking for. Guesses of that point, from the first to the best:

    next point    x' = x + (sigma' - sigma) v(x, sigma')         one forward a level
    fixed point   the same again with v(x', sigma'), once or twice

Taking v(x, sigma) instead would begin at sigma = 0, where no flow model was trained, and be least exact.
"""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from toolkit.core.errors import CastmixError
from toolkit.core.files import (
    fingerprint_file,
    fingerprint_text,
    read_safetensors,
    safetensors_bytes,
    write_atomic,
)
from toolkit.core.progress import say, track
from toolkit.footage.video import read_video
from toolkit.lora.layers import activate
from toolkit.models.flow_matching import Velocity, sigma_schedule
from toolkit.models.interfaces import Denoiser, Encoders, ModelSpec
from toolkit.models.pixels import frames_to_video
from toolkit.models.registry import fingerprint
from toolkit.sampling.denoise import guided_velocity

FORMAT = "1"  # raise it when the content of a file changes its meaning


@torch.no_grad()
def invert(
    velocity: Velocity,
    latents: Tensor,
    sigmas: Tensor,
    *,
    iterations: int = 1,
    callback: Callable[[int], object] | None = None,
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

    Inverted noise is too strong or too weak (0.7 to 1.2 were seen on the sandbox). Frame by frame would erase
    the motion.
    noise: (B, C, f, h, w).
    """
    deviation, mean = torch.std_mean(noise, dim=(2, 3, 4), keepdim=True, correction=0)
    return (noise - mean) / deviation


def mix_noise(inverted: Tensor, noise: Tensor, share: float) -> Tensor:
    """sqrt(share) inverted + sqrt(1 - share) noise, of unit variance if both are (VideoMage, supplement).

    inverted: (1 or B, C, f, h, w), standardised. noise: (B, C, f, h, w). share: in [0, 1].
    """
    return math.sqrt(share) * inverted.to(noise) + math.sqrt(1 - share) * noise


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


def clip_caption(clip: Path) -> str:
    """What the clip's own json says that it shows; nothing if it has none: both will do for inverting it."""
    beside = clip.with_suffix(".json")
    if not beside.is_file():
        return ""
    row = json.loads(beside.read_text(encoding="utf-8"))
    return str(row.get("text", ""))


def read_clip(clip: Path, *, num_frames: int, height: int, width: int, fps: float) -> Tensor:
    """A video of exactly that size as (1, 3, F, H, W) in [-1, 1].

    Raises:
        CastmixError: it has another size, or another number of frames a second by more than 5 %.
    """
    frames, rate = read_video(clip)
    if frames.shape != (num_frames, height, width, 3) or abs(rate / fps - 1) > 0.05:
        found = f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} at {rate:g} a second"
        raise CastmixError(
            f"{clip} has {found}, the video to be made {num_frames} of {width}x{height} at {fps:g}: cut it "
            f"with `castmix prepare --fps {fps:g} --num-frames {num_frames} --height {height} "
            f"--width {width}`"
        )
    return frames_to_video(frames)[None]


def motion_noise(
    clip: Path,
    spec: ModelSpec,
    encoders: Encoders,
    denoiser: Denoiser,
    caption_embeds: Tensor,
    *,
    size: tuple[int, int, int],
    steps: int,
    shift: float,
    iterations: int,
) -> Tensor:
    """Noise (1, C, f, h, w) from which the base model draws the clip: no LoRAs, no guidance; standardised.

    It is kept in the folder `inversions` beside the clip: steps x iterations forwards, once for each clip.

    size: frames, height, width of the clip. caption_embeds: (1, L, D), of `clip_caption`.
    """
    num_frames, height, width = size
    video = read_clip(clip, num_frames=num_frames, height=height, width=width, fps=spec.fps)

    def make() -> Tensor:
        sigmas = sigma_schedule(steps, shift).to(denoiser.device)
        latents = encoders.encode_video(video).to(denoiser.device)
        ticks = iter(track(range(steps), f"inverting {clip.name}"))
        velocity = guided_velocity(denoiser, caption_embeds, caption_embeds, 1.0)
        with activate(denoiser.module, {}):
            noise = invert(
                velocity, latents, sigmas, iterations=iterations, callback=lambda i: next(ticks, None)
            )
        for _ in ticks:  # the bar ends
            pass
        say(f"{clip.name} inverted: deviation {noise.std():.2f} before it is made 1 in each channel")
        return standardised(noise)

    if not spec.path:  # a pipeline in memory has no fingerprint to file it under
        return make().float().cpu()
    made_from = {
        "clip": fingerprint_file(clip),
        "caption": fingerprint_text(clip_caption(clip)),
        "network": fingerprint(spec),
        "encoders": fingerprint(spec, "encoders"),
        "steps": str(steps),
        "shift": f"{shift:g}",
        "iterations": str(iterations),
    }
    return cached(clip.parent / "inversions", clip.stem, made_from, make)
