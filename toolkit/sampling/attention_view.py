"""Where a model sees the subjects of a prompt: attention maps of a generated or a given video.

The maps are read from the network that `generate` uses: the same LoRAs, and the parts of a masked fusion each
in its own place.
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
from toolkit.sampling.prompt_encoding import EncodedPrompts, encode_plainly
from toolkit.sampling.samplers import Active, Network, adapters_in_place, within
from toolkit.sampling.session import Studio
from toolkit.sampling.settings import Sampling


@dataclass(frozen=True, eq=False)
class Seen:
    """What was seen: frames (F, H, W, 3), maps (subjects, f, h, w) by noise level, and the blocks read."""

    frames: Frames
    maps: Mapping[float, Tensor]
    layers: tuple[int, ...]


@dataclass(frozen=True)
class AttentionView:
    """Reads where a model sees the subjects of a prompt, at several noise levels.

    Attributes:
        studio: The model with its LoRAs.
        prompt: The prompt.
        subjects: Phrases of the prompt.
        sigmas: Noise levels in (0, 1].
        layers: Blocks whose maps are averaged; empty for the model's own.
        seed: Of the noise.
    """

    studio: Studio
    prompt: str
    subjects: tuple[str, ...]
    sigmas: tuple[float, ...]
    layers: tuple[int, ...]
    seed: int

    def generated(self, steps: int | None) -> Seen:
        """Sample the prompt as `generate` does, and read the latents on the way, at the nearest levels."""

        studio, (network, prompts) = self.studio, self._encoded(steps)
        count, _, shift, *size = network.request.number
        schedule = sigma_schedule(count, shift).to(studio.denoiser.device)
        noise = initial_noise([self.seed], studio.latent_shape(*size)).to(studio.denoiser.device)
        active, velocity = in_place(network, prompts, noise, schedule)
        wanted = {int((schedule[:-1] - sigma).abs().argmin()) for sigma in self.sigmas}
        noised = {1.0: noise} if 0 in wanted else {}

        def keep(step: int, latents: Tensor) -> None:
            if step + 1 in wanted:
                noised[float(schedule[step + 1])] = latents.clone()

        latents = denoise(within(active, velocity), noise, schedule, keep)
        video = new_video(studio.encoders.decode_video(latents)[0], studio.spec.fps, {"prompt": self.prompt})
        return Seen(video.frames, *self._read(noised, active, prompts))

    def given(self, path: Path) -> Seen:
        """Resize a video to the model's size, add noise, and read it."""
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
        active, _ = in_place(network, prompts, at_level, torch.stack([level, torch.zeros(())]))
        return Seen(frames, *self._read(noised, active, prompts))

    def _encoded(self, steps: int | None) -> tuple[Network, EncodedPrompts]:

        studio = self.studio
        request = studio.request(Sampling(steps=steps))
        prompts = encode_plainly(studio.encoders, [self.prompt], "", studio.loras)
        return Network(studio.denoiser, studio.loras, request), prompts

    def _read(
        self, noised: Mapping[float, Tensor], active: Active, prompts: EncodedPrompts
    ) -> tuple[dict[float, Tensor], tuple[int, ...]]:
        """Maps (subjects, f, h, w) by noise level, and the blocks that they are of."""
        studio = self.studio
        nouns = token_nouns(studio.loras.files)
        found, real = subject_spans(studio.encoders, self.prompt, self.subjects, nouns)
        chosen = MapLayers(self.layers, ()) if self.layers else map_layers(blocks(studio))
        maps: dict[float, Tensor] = {}
        with active(), torch.no_grad():
            for level, latents in noised.items():
                maps[level] = read_maps(
                    studio.denoiser,
                    latents,
                    torch.tensor(level),
                    prompts.embeds,
                    spans=found,
                    real=real,
                    layers=chosen,
                    kind="token",
                )[0].cpu()
        return maps, chosen.cross


def in_place(
    network: Network, prompts: EncodedPrompts, latents: Tensor, sigmas: Tensor
) -> tuple[Active, Velocity]:
    """The network's LoRAs where they act, as `generate` has them, and the guided velocity of the prompt."""
    _, guidance_scale, *_ = network.request.number
    velocity = guided_velocity(network.denoiser, prompts.embeds, prompts.negative, guidance_scale)
    return adapters_in_place(network, network.loras.parts, velocity, prompts, latents, sigmas), velocity


def blocks(studio: Studio) -> int:
    """How many blocks the network has."""
    module: Any = studio.denoiser.module
    return int(module.config.num_layers)


def at_clip(studio: Studio, clip: MaskedClip) -> AbstractContextManager[None]:
    """The LoRAs as they act in a clip: those of a masked fusion where their subjects are."""
    network = Network(studio.denoiser, studio.loras, studio.request(Sampling()))
    prompts = encode_plainly(studio.encoders, [clip.prompt], "", studio.loras)
    level = torch.tensor(network.request.masked.level)
    noise = torch.randn(clip.latents.shape, generator=generator_for(0, 0, f"masks/{clip.name}"))
    latents = interpolate(clip.latents, noise, level).unsqueeze(0)
    active, _ = in_place(network, prompts, latents, torch.stack([level, torch.zeros(())]))
    return active()
