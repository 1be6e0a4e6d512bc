"""Attention maps of a prompt's subjects, from a new video or an existing one.

The network is the one that `generate` uses: it has the same LoRAs, and each part of a masked fusion acts in
its own region.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.attention.block_ranking import MaskedClip, encode_frames, whole_chunks
from toolkit.attention.map_reading import MapLayers, map_layers, read_maps
from toolkit.core.seeds import generator_for
from toolkit.footage.decoding import Frames
from toolkit.footage.video import read_video, resize_and_crop
from toolkit.lora.special_tokens import subject_spans, token_nouns
from toolkit.models.flow_matching import Velocity, interpolate, sigma_schedule
from toolkit.sampling.denoise import denoise, guided_velocity, initial_noise
from toolkit.sampling.output import new_video
from toolkit.sampling.prompt_encoding import EncodedPrompts, encode_with_subjects
from toolkit.sampling.samplers import Active, Network, adapters_in_place, with_adapters
from toolkit.sampling.session import Studio
from toolkit.sampling.settings import Sampling


@dataclass(frozen=True, eq=False)
class ViewedVideo:
    """A video with its attention maps.

    Attributes:
        frames: (F, H, W, 3) uint8, RGB.
        maps: (subjects, f, h, w) by noise level.
        layers: The blocks whose maps were averaged.
    """

    frames: Frames
    maps: Mapping[float, Tensor]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class AttentionView:
    """Reads attention maps of a prompt's subjects, at several noise levels.

    Attributes:
        studio: The model with its LoRAs.
        prompt: The prompt.
        subjects: Phrases of the prompt, or special tokens.
        sigmas: Noise levels in (0, 1].
        layers: Blocks whose maps are averaged. Empty: the model's default.
        seed: Of the noise.
    """

    studio: Studio
    prompt: str
    subjects: tuple[str, ...]
    sigmas: tuple[float, ...]
    layers: tuple[int, ...]
    seed: int

    def of_new_video(self, steps: int | None) -> ViewedVideo:
        """Sample the prompt as `generate` does. Maps are read at the schedule's nearest noise levels."""
        studio, (network, prompts) = self.studio, self._encoded(steps)
        numbers = network.request.numbers
        schedule = sigma_schedule(numbers.steps, numbers.shift).to(studio.denoiser.device)
        noise = initial_noise([self.seed], studio.latent_shape(*numbers.size)).to(studio.denoiser.device)
        active, velocity = adapters_and_velocity(network, prompts, noise, schedule)
        wanted = {int((schedule[:-1] - sigma).abs().argmin()) for sigma in self.sigmas}
        noised = {1.0: noise} if 0 in wanted else {}

        def keep(step: int, latents: Tensor) -> None:
            if step + 1 in wanted:
                noised[float(schedule[step + 1])] = latents.clone()

        latents = denoise(with_adapters(active, velocity), noise, schedule, keep)
        video = new_video(studio.encoders.decode_video(latents)[0], studio.spec.fps, {"prompt": self.prompt})
        return ViewedVideo(video.frames, *self._read(noised, active, prompts))

    def of_video(self, path: Path) -> ViewedVideo:
        """Read maps of an existing video: resized to the model's size, encoded, with noise added."""
        spec, (network, prompts) = self.studio.spec, self._encoded(None)
        frames, _ = read_video(path)
        length = whole_chunks(min(len(frames), spec.num_frames))
        frames = resize_and_crop(frames[:length], spec.height, spec.width)
        latents = encode_frames(self.studio.encoders, frames)
        noised = {}
        for i, sigma in enumerate(self.sigmas):
            noise = torch.randn(latents.shape, generator=generator_for(self.seed, i, "look-attention"))
            noised[float(sigma)] = interpolate(latents, noise.to(latents), torch.tensor(sigma))
        level = torch.tensor(network.request.masked.level)
        at_level = interpolate(latents, noise.to(latents), level)
        active, _ = adapters_and_velocity(network, prompts, at_level, torch.stack([level, torch.zeros(())]))
        return ViewedVideo(frames, *self._read(noised, active, prompts))

    def _encoded(self, steps: int | None) -> tuple[Network, EncodedPrompts]:
        studio = self.studio
        request = studio.request(Sampling(steps=steps))
        prompts = encode_with_subjects(studio.encoders, [self.prompt], "", studio.loras)
        return Network(studio.denoiser, studio.loras, request), prompts

    def _read(
        self, noised: Mapping[float, Tensor], active: Active, prompts: EncodedPrompts
    ) -> tuple[dict[float, Tensor], tuple[int, ...]]:
        """Maps (subjects, f, h, w) of the latents by noise level, and the blocks that were averaged."""
        studio = self.studio
        nouns = token_nouns(studio.loras.files)
        spans, real = subject_spans(studio.encoders, self.prompt, self.subjects, nouns)
        chosen = MapLayers(self.layers, ()) if self.layers else map_layers(blocks(studio))
        maps: dict[float, Tensor] = {}
        with active(), torch.no_grad():
            for level, latents in noised.items():
                maps[level] = read_maps(
                    studio.denoiser,
                    latents,
                    torch.tensor(level),
                    prompts.embeds,
                    spans=spans,
                    real=real,
                    layers=chosen,
                    kind="token",
                )[0].cpu()
        return maps, chosen.cross


def adapters_and_velocity(
    network: Network, prompts: EncodedPrompts, latents: Tensor, sigmas: Tensor
) -> tuple[Active, Velocity]:
    """The context in which the LoRAs are active, as in `generate`, and the guided velocity of the prompt.

    latents: At noise level sigmas[0]; a masked fusion finds its regions from there.
    """
    scale = network.request.numbers.guidance_scale
    velocity = guided_velocity(network.denoiser, prompts.embeds, prompts.negative, scale)
    return adapters_in_place(network, network.loras.parts, velocity, prompts, latents, sigmas), velocity


def blocks(studio: Studio) -> int:
    """Number of the network's blocks."""
    module: Any = studio.denoiser.module
    return int(module.config.num_layers)


def at_clip(studio: Studio, clip: MaskedClip) -> AbstractContextManager[None]:
    """A context in which the LoRAs are active; the parts of a masked fusion act on the clip's subjects."""
    network = Network(studio.denoiser, studio.loras, studio.request(Sampling()))
    prompts = encode_with_subjects(studio.encoders, [clip.prompt], "", studio.loras)
    level = torch.tensor(network.request.masked.level)
    noise = torch.randn(clip.latents.shape, generator=generator_for(0, 0, f"masks/{clip.name}"))
    latents = interpolate(clip.latents, noise, level).unsqueeze(0)
    active, _ = adapters_and_velocity(network, prompts, latents, torch.stack([level, torch.zeros(())]))
    return active()
