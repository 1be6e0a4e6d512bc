"""Wan 2.1 with the classes of diffusers and transformers. All sizes come from the model's configuration."""

from __future__ import annotations

import contextlib
import functools
import html
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from toolkit.captions.whole_words import find_phrases
from toolkit.core.errors import CastmixError
from toolkit.models.attention_capture import AttentionCapture, capturing, new_capture
from toolkit.models.interfaces import CapturedAttention, ModelSpec, Reduce
from toolkit.models.weights import DENOISER, ENCODERS, locate_weights


@dataclass(eq=False)
class WanEncoders:
    """VAE and text encoder of a WanPipeline folder. Each is loaded on its first use."""

    folder: Path
    text_length: int
    device: torch.device
    dtype: torch.dtype
    owned: bool = True
    """True if castmix loaded the modules and may free them. False for modules of a user's pipeline."""

    @classmethod
    def load(cls, spec: ModelSpec, device: str | torch.device, dtype: torch.dtype | None) -> WanEncoders:
        """Locate the files. The weights are loaded on their first use."""
        device = torch.device(device)
        return cls(locate_weights(spec, ENCODERS), spec.text_length, device, dtype or default_dtype(device))

    @functools.cached_property
    def vae(self) -> Any:
        """The AutoencoderKLWan."""
        from diffusers import AutoencoderKLWan

        untyped: Any = AutoencoderKLWan
        vae = untyped.from_pretrained(self.folder / "vae", torch_dtype=torch.float32)
        return vae.to(self.device).eval().requires_grad_(False)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, of the class that the folder's configuration names."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "tokenizer")

    @functools.cached_property
    def text_encoder(self) -> Any:
        """The UMT5EncoderModel."""
        from transformers import UMT5EncoderModel

        with _progress_bars_disabled():
            model: Any = UMT5EncoderModel.from_pretrained(self.folder / "text_encoder", dtype=self.dtype)
        return model.to(self.device).eval().requires_grad_(False)

    def release_text_encoder(self) -> None:
        """Free the text encoder: 11 GB that a 14B transformer needs."""
        if not self.owned:
            return
        self.__dict__.pop("text_encoder", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """Encode videos (B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, f, h, w) (posterior mode)."""
        mean, std = self._statistics()
        latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents.float() - mean) / std

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, C, f, h, w) to videos (B, 3, F, H, W) in [-1, 1]."""
        mean, std = self._statistics()
        scaled = latents.to(self.device, torch.float32) * std + mean
        video: Tensor = self.vae.decode(scaled.to(self.vae.dtype)).sample
        return video.float()

    def _statistics(self) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (
            torch.tensor(values, device=self.device).view(1, -1, 1, 1, 1)
            for values in (config.latents_mean, config.latents_std)
        )
        return mean, std

    @torch.no_grad()
    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to (B, text_length, D) float32, zero after the real tokens, as in WanPipeline."""
        tokens = self._tokens(prompts)
        embeds = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return torch.where(tokens.attention_mask.bool().unsqueeze(-1), embeds.float(), 0.0)

    @torch.no_grad()
    def token_embeddings(self, text: str) -> Tensor:
        """Return the input embeddings of a text's tokens, (n, D_in) float32; see `Encoders`."""
        ids = self.tokenizer(clean_prompt(text), return_tensors="pt").input_ids[0, :-1]
        rows: Tensor = self.text_encoder.get_input_embeddings()(ids.to(self.device)).float()
        return rows

    def encode_text_with_deltas(
        self, prompts: Sequence[str], deltas: Sequence[Mapping[int, Tensor]]
    ) -> Tensor:
        """Encode prompts with vectors (D_in,) added to their input embeddings; see `Encoders`.

        The result is differentiable with respect to the vectors.
        """
        tokens = self._tokens(prompts)
        rows = self.text_encoder.get_input_embeddings()(tokens.input_ids)
        total = torch.zeros_like(rows)
        for row, by_position in enumerate(deltas):
            for position, vector in by_position.items():
                if vector.shape != rows.shape[-1:]:
                    raise CastmixError(
                        f"a special token's vector has the shape {tuple(vector.shape)}, but this model's "
                        f"embeddings have {rows.shape[-1]} dimensions: it was learned on another base model"
                    )
                total[row, position] = vector.to(rows)
        encoded = self.text_encoder(inputs_embeds=rows + total, attention_mask=tokens.attention_mask)
        embeds = encoded.last_hidden_state
        return torch.where(tokens.attention_mask.bool().unsqueeze(-1), embeds.float(), 0.0)

    def token_positions(self, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Return the positions of the tokens of each character range of a cleaned prompt; see `Encoders`."""
        tokens = self.tokenizer(
            prompt, max_length=self.text_length, truncation=True, return_offsets_mapping=True
        )
        places = list(enumerate(tokens.offset_mapping))
        return [
            tuple(k for k, (first, last) in places if first < end and last > start) for start, end in ranges
        ]

    def _tokens(self, prompts: Sequence[str]) -> Any:
        return self.tokenizer(
            [clean_prompt(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.text_length,
            truncation=True,
            return_attention_mask=True,
            return_tensors="pt",
        ).to(self.device)

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt before truncation to text_length."""
        return len(self.tokenizer(clean_prompt(prompt)).input_ids)

    def prompt_length(self, prompt: str) -> int:
        """Return the number of a prompt's tokens in `encode_text`, end token included, without padding."""
        return min(self.count_tokens(prompt), self.text_length)

    def token_spans(self, prompt: str, phrases: Sequence[str]) -> list[tuple[int, ...]]:
        """Return for each phrase the positions, in `encode_text`, of the tokens of all its occurrences.

        Raises:
            CastmixError: A phrase is not in the prompt, or only in the truncated part.
        """
        text = clean_prompt(prompt)
        where = find_phrases(text, map(clean_prompt, phrases))
        found = []
        for phrase in phrases:
            places = where[clean_prompt(phrase)]
            if not places:
                raise CastmixError(
                    f"{phrase!r} is not in the prompt {text!r}: write it exactly as in the prompt"
                )
            positions = tuple(sorted({place for one in self.token_positions(text, places) for place in one}))
            if not positions:
                raise CastmixError(
                    f"{phrase!r} is cut off: the model takes {self.text_length} tokens; shorten {text!r}"
                )
            found.append(positions)
        return found


@dataclass(eq=False)
class WanDenoiser:
    """The transformer of a WanPipeline folder as a velocity function with a prompt."""

    module: Any
    execution_device: torch.device | None = None
    """Device of the computation, if it is not the device of the weights: a pipeline may offload them."""
    _capture: AttentionCapture | None = field(default=None, init=False, repr=False)

    @classmethod
    def load(cls, spec: ModelSpec, device: str | torch.device, dtype: torch.dtype | None) -> WanDenoiser:
        """Load the transformer, frozen and in eval mode."""
        from diffusers import WanTransformer3DModel

        device = torch.device(device)
        folder = locate_weights(spec, DENOISER) / "transformer"
        untyped: Any = WanTransformer3DModel
        module = untyped.from_pretrained(folder, torch_dtype=dtype or default_dtype(device))
        return cls(module.to(device).eval().requires_grad_(False))

    @property
    def device(self) -> torch.device:
        """The device of the computation. Inputs may be on any device."""
        device: torch.device = self.execution_device or self.module.device
        return device

    def __call__(self, latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predict the velocity of latents (B, C, f, h, w) at noise level sigma, scalar or (B,), in [0, 1]."""
        device, dtype = self.device, self.module.patch_embedding.weight.dtype
        timestep = (sigma.to(device, torch.float32) * 1000).expand(len(latents))
        with contextlib.nullcontext() if self._capture is None else capturing(self.module, self._capture):
            (velocity,) = self.module(
                hidden_states=latents.to(device, dtype),
                timestep=timestep,
                encoder_hidden_states=prompt_embeds.to(device, dtype),
                return_dict=False,
            )
        if self._capture is not None and self._capture.stop_after is not None:
            return latents.new_tensor(float("nan")).expand_as(latents)
        return velocity.to(latents)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def capture_attention(
        self,
        *,
        cross: Collection[int] = (),
        temporal: Collection[int] = (),
        stop_after: int | None = None,
        reduce: Reduce | None = None,
    ) -> Iterator[CapturedAttention]:
        """Capture queries and keys of these blocks; see `Denoiser` in `toolkit.models.interfaces`."""
        if self._capture is not None:
            raise CastmixError(
                "attention of this network is already captured: request all blocks in one capture"
            )
        self._capture = new_capture(self.module, cross, temporal, stop_after, reduce)
        try:
            yield self._capture.captured
        finally:
            self._capture = None


@contextlib.contextmanager
def _progress_bars_disabled() -> Iterator[None]:
    """Disable transformers' progress bars, which it shows even if loading takes no time."""
    from transformers.utils import logging

    bars: Any = logging
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            bars.enable_progress_bar()


def use_math_attention(transformer: Any) -> None:
    """Make a transformer compute attention with plain matrix products, which compile well on a CPU.

    Other models are not affected. diffusers would make this backend the default of the whole process: a video
    generated after training would differ from the same one generated alone.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    registry: Any = _AttentionBackendRegistry
    before, _ = registry.get_active_backend()
    transformer.set_attention_backend("_native_math")
    registry.set_active_backend(before)


def default_dtype(device: torch.device) -> torch.dtype:
    """Return float32 on a CPU, where bfloat16 is slow, and bfloat16 on other devices."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def clean_prompt(prompt: str) -> str:
    """Clean a prompt as WanPipeline does: fix its encoding, unescape HTML twice, join whitespace."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
