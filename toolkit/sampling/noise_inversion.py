"""Flow inversion: from a motion clip back to the noise from which the base model would sample it.

A sampling step goes down by x' = x + (sigma' - sigma) v(x, sigma). Its inverse goes up, and needs the
velocity at the unknown point x'. Two approximations, the second more exact:

    next point    x' = x + (sigma' - sigma) v(x, sigma')         one forward pass per level
    fixed point   the same again with v(x', sigma'), once or twice

v(x, sigma) is less exact than both, and starts at sigma = 0, where flow models are not trained.
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

FORMAT = "1"  # of the cache files; raise it when their content changes its meaning


@torch.no_grad()
def invert(
    velocity: Velocity,
    latents: Tensor,
    sigmas: Tensor,
    *,
    iterations: int = 1,
    callback: Callable[[int], object] | None = None,
) -> Tensor:
    """The noise from which Euler steps along `sigmas` lead approximately to the latents.

    Args:
        velocity: Of the network with a prompt, without guidance: a guided velocity cannot be inverted.
        latents: Clean latents, (B, C, f, h, w).
        sigmas: As for sampling, falling from 1 to 0.
        iterations: Forward passes per level: 1 is the next-point rule, 2 or 3 the fixed point.
        callback: Gets the number of each level after it.
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
    """Scale noise (B, C, f, h, w) to zero mean and unit deviation per sample and channel, over all frames.

    Inverted noise is too strong or too weak (deviations of 0.7 to 1.2 on the sandbox). Scaling each frame
    alone would erase the motion.
    """
    deviation, mean = torch.std_mean(noise, dim=(2, 3, 4), keepdim=True, correction=0)
    return (noise - mean) / deviation


def mix_noise(inverted: Tensor, noise: Tensor, share: float) -> Tensor:
    """sqrt(share) inverted + sqrt(1 - share) noise, which keeps unit variance (VideoMage, supplement).

    inverted: (1 or B, C, f, h, w), standardised. noise: (B, C, f, h, w). share: in [0, 1].
    """
    return math.sqrt(share) * inverted.to(noise) + math.sqrt(1 - share) * noise


def cached(folder: Path, stem: str, made_from: dict[str, str], make: Callable[[], Tensor]) -> Tensor:
    """A float32 tensor from a cache file. If there is none for these facts, make the tensor and save it.

    made_from: All that the tensor depends on, by name. Each combination of values has a file of its own.
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
    """The caption in the clip's JSON file; "" without such a file. Inversion works with either."""
    beside = clip.with_suffix(".json")
    if not beside.is_file():
        return ""
    row = json.loads(beside.read_text(encoding="utf-8"))
    return str(row.get("text", ""))


def read_clip(clip: Path, *, num_frames: int, height: int, width: int, fps: float) -> Tensor:
    """Read a video of exactly this size as (1, 3, F, H, W) in [-1, 1].

    Raises:
        CastmixError: the video has another size, or its fps differ by more than 5 %.
    """
    frames, rate = read_video(clip)
    if frames.shape != (num_frames, height, width, 3) or abs(rate / fps - 1) > 0.05:
        found = f"{len(frames)} frames of {frames.shape[2]}x{frames.shape[1]} at {rate:g} a second"
        raise CastmixError(
            f"{clip} has {found}, the new video has {num_frames} of {width}x{height} at {fps:g}: cut it "
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
    """The clip's inverted noise (1, C, f, h, w), standardised. The base model runs without LoRAs or guidance.

    It takes steps * iterations forward passes, and is cached in the folder `inversions` beside the clip.

    Args:
        clip: The motion clip.
        spec: The base model.
        encoders: Its encoders.
        denoiser: Its network.
        caption_embeds: (1, L, D), of `clip_caption`.
        size: Frames, height, width of the clip and of the new video.
        steps: Steps of the schedule.
        shift: Shift of the schedule.
        iterations: Forward passes per level; see `invert`.

    Raises:
        CastmixError: the clip has another size.
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
        for _ in ticks:  # close the progress bar
            pass
        say(f"{clip.name} inverted: deviation {noise.std():.2f}, scaled to 1 in each channel")
        return standardised(noise)

    if not spec.path:  # a pipeline in memory has no fingerprint, so its noise cannot be cached
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
