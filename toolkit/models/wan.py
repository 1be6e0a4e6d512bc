"""Wan 2.1 through the classes of diffusers and transformers: nothing here knows a size in advance."""

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
from toolkit.models.attention_capture import Tap, new_tap, tapped
from toolkit.models.interfaces import ModelSpec, Read, Taps
from toolkit.models.weights import DENOISER, ENCODERS, locate


@dataclass(eq=False)
class WanEncoders:
    """VAE and text encoder of a WanPipeline folder, each loaded when first used."""

    folder: Path
    text_length: int
    device: torch.device
    dtype: torch.dtype
    owned: bool = True
    """Whether the modules are castmix's own, to be freed; not those of a pipeline in memory."""

    @classmethod
    def load(cls, spec: ModelSpec, device: str | torch.device, dtype: torch.dtype | None) -> WanEncoders:
        """Find the files; the weights wait for their first use."""
        device = torch.device(device)
        return cls(locate(spec, ENCODERS), spec.text_length, device, dtype or default_dtype(device))

    @functools.cached_property
    def vae(self) -> Any:
        """The AutoencoderKLWan."""
        from diffusers import AutoencoderKLWan

        untyped: Any = AutoencoderKLWan
        vae = untyped.from_pretrained(self.folder / "vae", torch_dtype=torch.float32)
        return vae.to(self.device).eval().requires_grad_(False)

    @functools.cached_property
    def tokenizer(self) -> Any:
        """The tokenizer, of whatever class the folder names."""
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.folder / "tokenizer")

    @functools.cached_property
    def text_encoder(self) -> Any:
        """The UMT5EncoderModel."""
        from transformers import UMT5EncoderModel

        with _without_bars():
            model: Any = UMT5EncoderModel.from_pretrained(self.folder / "text_encoder", dtype=self.dtype)
        return model.to(self.device).eval().requires_grad_(False)

    def release_text(self) -> None:
        """Free the text encoder: next to a 14B transformer its 11 GB are better spent."""
        if not self.owned:
            return
        self.__dict__.pop("text_encoder", None)
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    @torch.no_grad()
    def encode_video(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, f, h, w): the mode of the posterior."""
        mean, std = self._statistics()
        latents: Tensor = self.vae.encode(video.to(self.device, self.vae.dtype)).latent_dist.mode()
        return (latents.float() - mean) / std

    @torch.no_grad()
    def decode_video(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, f, h, w) to (B, 3, F, H, W) in [-1, 1]."""
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
        """Prompts to (B, text_length, D) float32, zero after each prompt's real tokens, as in WanPipeline."""
        tokens = self._tokens(prompts)
        embeds = self.text_encoder(tokens.input_ids, tokens.attention_mask).last_hidden_state
        return torch.where(tokens.attention_mask.bool().unsqueeze(-1), embeds.float(), 0.0)

    @torch.no_grad()
    def word_rows(self, text: str) -> Tensor:
        """What a text's tokens are in the text encoder's embedding table, (n, D_in) float32."""
        ids = self.tokenizer(clean_prompt(text), return_tensors="pt").input_ids[0, :-1]
        rows: Tensor = self.text_encoder.get_input_embeddings()(ids.to(self.device)).float()
        return rows

    def encode_with(self, prompts: Sequence[str], added: Sequence[Mapping[int, Tensor]]) -> Tensor:
        """`encode_text` with vectors (D_in,) added to the embedding rows at these positions of each prompt.

        Differentiable with respect to the vectors.
        """
        tokens = self._tokens(prompts)
        rows = self.text_encoder.get_input_embeddings()(tokens.input_ids)
        moved = torch.zeros_like(rows)
        for row, by_position in enumerate(added):
            for position, vector in by_position.items():
                if vector.shape != rows.shape[-1:]:
                    raise CastmixError(
                        f"a special token has a vector of {tuple(vector.shape)}, this model's rows have "
                        f"{rows.shape[-1]} numbers: it was learnt on another base"
                    )
                moved[row, position] = vector.to(rows)
        encoded = self.text_encoder(inputs_embeds=rows + moved, attention_mask=tokens.attention_mask)
        embeds = encoded.last_hidden_state
        return torch.where(tokens.attention_mask.bool().unsqueeze(-1), embeds.float(), 0.0)

    def positions(self, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Positions of the tokens of each range of characters of a cleaned prompt: see `Encoders`."""
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
        """How many tokens a prompt has before it is cut to text_length."""
        return len(self.tokenizer(clean_prompt(prompt)).input_ids)

    def prompt_length(self, prompt: str) -> int:
        """How many of encode_text's positions are a prompt's own, end mark included; the rest are pads."""
        return min(self.count_tokens(prompt), self.text_length)

    def spans(self, prompt: str, phrases: Sequence[str]) -> list[tuple[int, ...]]:
        """For each phrase, the positions in encode_text's output of all tokens of all its occurrences.

        Raises:
            CastmixError: a phrase is not in the prompt, or only in a part that is cut off.
        """
        text = clean_prompt(prompt)
        where = find_phrases(text, map(clean_prompt, phrases))
        found = []
        for phrase in phrases:
            places = where[clean_prompt(phrase)]
            if not places:
                raise CastmixError(
                    f"{phrase!r} is not in the prompt {text!r}: name it as it is written there"
                )
            positions = tuple(sorted({place for one in self.positions(text, places) for place in one}))
            if not positions:
                raise CastmixError(
                    f"{phrase!r} is cut off: the model takes {self.text_length} tokens, shorten {text!r}"
                )
            found.append(positions)
        return found


@dataclass(eq=False)
class WanDenoiser:
    """The transformer of a WanPipeline folder as a velocity function with a prompt."""

    module: Any
    execution_device: torch.device | None = None
    """Where it computes, if that is not where its weights lie: a pipeline may offload them."""
    _tap: Tap | None = field(default=None, init=False, repr=False)

    @classmethod
    def load(cls, spec: ModelSpec, device: str | torch.device, dtype: torch.dtype | None) -> WanDenoiser:
        """Load the transformer, frozen and in eval mode."""
        from diffusers import WanTransformer3DModel

        device = torch.device(device)
        folder = locate(spec, DENOISER) / "transformer"
        untyped: Any = WanTransformer3DModel
        module = untyped.from_pretrained(folder, torch_dtype=dtype or default_dtype(device))
        return cls(module.to(device).eval().requires_grad_(False))

    @property
    def device(self) -> torch.device:
        """Where the transformer computes. Inputs may lie anywhere."""
        device: torch.device = self.execution_device or self.module.device
        return device

    def __call__(self, latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Velocity, (B, C, f, h, w) like the latents, at noise level sigma: a scalar or (B,), in [0, 1]."""
        device, dtype = self.device, self.module.patch_embedding.weight.dtype
        timestep = (sigma.to(device, torch.float32) * 1000).expand(len(latents))
        with contextlib.nullcontext() if self._tap is None else tapped(self.module, self._tap):
            (velocity,) = self.module(
                hidden_states=latents.to(device, dtype),
                timestep=timestep,
                encoder_hidden_states=prompt_embeds.to(device, dtype),
                return_dict=False,
            )
        if self._tap is not None and self._tap.stop_after is not None:
            return latents.new_tensor(float("nan")).expand_as(latents)
        return velocity.to(latents)  # type: ignore[no-any-return]

    @contextlib.contextmanager
    def tap(
        self,
        *,
        cross: Collection[int] = (),
        temporal: Collection[int] = (),
        stop_after: int | None = None,
        read: Read | None = None,
    ) -> Iterator[Taps]:
        """Look into the attention of these blocks: see `toolkit.models.interfaces.Denoiser.tap`."""
        if self._tap is not None:
            raise CastmixError(
                "attention of this network is already captured: ask for all blocks in one capture"
            )
        self._tap = new_tap(self.module, cross, temporal, stop_after, read)
        try:
            yield self._tap.taps
        finally:
            self._tap = None


@contextlib.contextmanager
def _without_bars() -> Iterator[None]:
    """transformers draws a bar even where weights load in a blink: keep the terminal for castmix's own."""
    from transformers.utils import logging

    bars: Any = logging
    drawn = bars.is_progress_bar_enabled()
    bars.disable_progress_bar()
    try:
        yield
    finally:
        if drawn:
            bars.enable_progress_bar()


def attend_plainly(transformer: Any) -> None:
    """Let a transformer attend by plain matrix products, which compile well on a CPU; and no other model.

    diffusers makes what one model is told the default of the whole process: a video generated after a
    training would differ from the same one generated alone.
    """
    from diffusers.models.attention_dispatch import _AttentionBackendRegistry

    registry: Any = _AttentionBackendRegistry
    before, _ = registry.get_active_backend()
    transformer.set_attention_backend("_native_math")
    registry.set_active_backend(before)


def default_dtype(device: torch.device) -> torch.dtype:
    """float32 where bfloat16 is slow or inexact for no gain (a CPU), bfloat16 elsewhere."""
    return torch.float32 if device.type == "cpu" else torch.bfloat16


def clean_prompt(prompt: str) -> str:
    """What WanPipeline does to a prompt: mend its encoding, unescape HTML twice, join whitespace."""
    import ftfy

    return " ".join(html.unescape(html.unescape(ftfy.fix_text(prompt))).split())
