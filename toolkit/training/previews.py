"""Videos of the same prompts again and again while a LoRA is trained."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from toolkit.lora.file import Lora
from toolkit.lora.special_tokens import apply
from toolkit.models.interfaces import Denoiser, ModelSpec
from toolkit.models.registry import load_encoders
from toolkit.sampling.denoise import sample_latents
from toolkit.sampling.output import save_generated
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
    """A function that makes a video of every prompt with the network as it is, at the clips' own size.

    loras: bring the special tokens that prompts may use.
    """
    encoders = load_encoders(spec, device)
    embeds = apply(encoders, [*prompts, ""], loras)
    encoders.release_text()
    facts = {"model": spec.name, "guidance_scale": spec.guidance_scale, "shift": spec.shift, "seed": 0}

    def preview(denoiser: Denoiser, step: int) -> None:
        for i, prompt in enumerate(prompts):
            latents = sample_latents(
                denoiser,
                embeds[i : i + 1],
                embeds[-1:],
                shape=(shape[0], shape[1], shape[2], shape[3]),
                seeds=[0],
                steps=watch.sample_steps or spec.steps,
                guidance_scale=spec.guidance_scale,
                shift=spec.shift,
            )
            path = out / "samples" / f"step_{step:06d}" / f"{i:02d}.mp4"
            video = encoders.decode_video(latents)[0]
            save_generated(path, video, spec.fps, {"prompt": prompt, "training_step": step, **facts})

    return preview
