"""A model opened to look into: encoders, denoiser with LoRAs, and what prompts and videos are to it."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from toolkit.lora.file import Lora, load_lora
from toolkit.lora.layers import activate, attach
from toolkit.lora.loading import parse_lora
from toolkit.lora.special_tokens import apply, spans, written
from toolkit.models.interfaces import Denoiser, Encoders, ModelSpec
from toolkit.models.registry import default_device, fingerprint, load_denoiser, load_encoders

if TYPE_CHECKING:
    from toolkit.footage.decoding import Frames


@dataclass(frozen=True)
class Look:
    """The parts of a model with LoRAs in it; `active` switches these on."""

    spec: ModelSpec
    encoders: Encoders
    denoiser: Denoiser
    loras: Sequence[Lora]
    weights: dict[str, float]

    def active(self) -> AbstractContextManager[None]:
        """The LoRAs act in here."""
        return activate(self.denoiser.module, self.weights)

    @property
    def blocks(self) -> int:
        """How many blocks the network has."""
        module: Any = self.denoiser.module
        return int(module.config.num_layers)


def open_model(spec: ModelSpec, lora: Sequence[str]) -> Look:
    """The model with these LoRAs (PATH or PATH:WEIGHT) attached."""
    given = [parse_lora(one) for one in lora]
    loras = [load_lora(path) for path, _ in given]
    device = default_device()
    denoiser, base = load_denoiser(spec, device), fingerprint(spec)
    weights: dict[str, float] = {}
    for i, ((_, weight), one) in enumerate(zip(given, loras, strict=True)):
        if one.tensors:  # a LoRA of special tokens alone changes no layer
            weights[f"lora_{i}"] = weight
            attach(denoiser.module, one, f"lora_{i}", base)
    return Look(spec, load_encoders(spec, device), denoiser, loras, weights)


def prompted(look: Look, prompt: str, subjects: Sequence[str]) -> tuple[list[tuple[int, ...]], int, Tensor]:
    """Where each subject is named, how many tokens are real, and embeddings (2, L, D): the prompt, nothing.

    A special token of a LoRA is where its class noun takes its place.

    Raises:
        CastmixError: a subject that the prompt does not name.
    """
    found, real = spans(look.encoders, prompt, subjects, written(look.loras))
    return found, real, apply(look.encoders, [prompt, ""], look.loras)


def whole(frames: int) -> int:
    """The largest 4k + 1 of so many frames."""
    return (frames - 1) // 4 * 4 + 1


def encode(look: Look, frames: Frames) -> Tensor:
    """Frames (F, H, W, 3) to latents (1, C, f, h, w)."""
    video = torch.from_numpy(frames.copy()).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    return look.encoders.encode_video(video)
