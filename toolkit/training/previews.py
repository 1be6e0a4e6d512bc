"""Sample videos of fixed prompts while a LoRA is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from toolkit.lora.file import Lora
from toolkit.lora.special_tokens import encode_prompts
from toolkit.models.flow_matching import sigma_schedule
from toolkit.models.interfaces import Denoiser, ModelSpec
from toolkit.models.registry import load_encoders
from toolkit.sampling.denoise import denoise, guided_velocity, initial_noise
from toolkit.sampling.output import new_video
from toolkit.training.settings import Watch


def previewer(
    spec: ModelSpec,
    prompts: Sequence[str],
    shape: tuple[int, ...],
    device: torch.device,
    watch: Watch,
    out: Path,
    loras: Sequence[Lora] = (),
) -> Callable[[Denoiser, int], None]:
    """A function that makes a video of every prompt with the present network, at the size of the clips.

    loras: Files with the special tokens that prompts may use.
    """
    encoders = load_encoders(spec, device)
    embeds = encode_prompts(encoders, [*prompts, ""], loras)
    encoders.release_text_encoder()
    facts = {"model": spec.name, "guidance_scale": spec.guidance_scale, "shift": spec.shift, "seed": 0}

    sigmas = sigma_schedule(watch.sample_steps or spec.steps, spec.shift)
    noise = initial_noise([0], (shape[0], shape[1], shape[2], shape[3]))

    def preview(denoiser: Denoiser, step: int) -> None:
        for i, prompt in enumerate(prompts):
            velocity = guided_velocity(denoiser, embeds[i : i + 1], embeds[-1:], spec.guidance_scale)
            latents = denoise(velocity, noise.to(denoiser.device), sigmas.to(denoiser.device))
            video = encoders.decode_video(latents)[0]
            about = {"prompt": prompt, "training_step": step, **facts}
            path = out / "samples" / f"step_{step:06d}" / f"{i:02d}.mp4"
            new_video(video, spec.fps, about).save(path)

    return preview
