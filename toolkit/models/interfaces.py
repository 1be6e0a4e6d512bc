"""What a base model must provide: its settings, encoders and denoiser as protocols."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Geometry = tuple[int, tuple[int, int, int], tuple[int, int, int]]
"""Latent channels, VAE strides (t, h, w), and what (frames - 1, height, width) must be multiples of."""


@dataclass(frozen=True)
class ModelSpec:
    """A base model and the settings at which it is at its best."""

    name: str
    path: str
    """A folder on disk, or an id on the Hugging Face hub."""
    text_length: int = 512
    """Prompt tokens, zero-padded. Pads take part in Wan's attention: train and sample with one length."""
    shift: float = 3.0
    """Of the noise levels: Wan's own are 3 at 480p, 5 at 720p."""
    guidance_scale: float = 5.0
    steps: int = 50
    fps: float = 16.0
    num_frames: int = 81
    height: int = 480
    width: int = 832
    download: str = "all files of the repository"
    """What has to be fetched, in words: files and sizes."""

    @property
    def slug(self) -> str:
        """The name as one folder name."""
        return self.name.replace("/", "--")


class Encoders(Protocol):
    """What turns videos and prompts into what the denoiser works on, and back. Everything float32 outside."""

    def encode_video(self, video: Tensor) -> Tensor:
        """(B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, f, h, w): the mode of the posterior."""
        ...

    def decode_video(self, latents: Tensor) -> Tensor:
        """Normalised latents (B, C, f, h, w) to (B, 3, F, H, W) in [-1, 1]."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to (B, text_length, D), zero after each prompt's real tokens."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """How many tokens a prompt has before it is cut to text_length."""
        ...

    def positions(self, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Where the tokens of each range of characters (start, end) stand in what `encode_text` returns.

        prompt: as WanPipeline cleans it, whitespace joined; ranges count its characters. A token belongs to
        a range that it shares a character with; one behind text_length is left out.
        """
        ...

    def word_rows(self, text: str) -> Tensor:
        """What a text's tokens are in the text encoder's embedding table, (n, D_in), without the end mark."""
        ...

    def encode_with(self, prompts: Sequence[str], added: Sequence[Mapping[int, Tensor]]) -> Tensor:
        """`encode_text` with vectors added to what goes into the text encoder, differentiable in them.

        added: for each prompt, vectors (D_in,) by position. Without any, it equals `encode_text`.
        """
        ...

    def prompt_length(self, prompt: str) -> int:
        """How many of encode_text's positions are a prompt's own, end mark included; the rest are pads."""
        ...

    def spans(self, prompt: str, phrases: Sequence[str]) -> list[tuple[int, ...]]:
        """For each phrase, the positions in encode_text's output of all tokens of all its occurrences.

        A phrase is found as written, as whole words: "Mimi" is in "[Character: Mimi]", "cat" not in "cats".
        Longer phrases go first: beside "red ball", "ball" is not the end of that.

        Raises:
            CastmixError: a phrase is not in the prompt, or only in a part that is cut off.
        """
        ...

    def release_text(self) -> None:
        """Free the text encoder's memory. It is loaded again when next needed."""
        ...


Read = Callable[[str, int, "Tensor", "Tensor"], "Tensor"]
"""(kind, layer, q, k) -> what is kept of them; kind is "cross" or "temporal"."""


@dataclass(eq=False)
class Taps:
    """What the last forward pass of a tapped denoiser showed, by layer.

    q, k are heads after their norms: (B, heads, N, d) over the N video tokens, frame by frame, row by row; a
    cross-attention's k is (B, heads, L, d) over the prompt's L positions, pads included. Those of temporal
    layers (self-attention) carry their rotary positions. Where a `read` was given its results are in `maps`
    instead, by (kind, layer).
    """

    cross: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    temporal: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    maps: dict[tuple[str, int], Tensor] = field(default_factory=dict)


class Denoiser(Protocol):
    """The network, as a velocity function that also takes a prompt."""

    @property
    def module(self) -> torch.nn.Module:
        """The network itself, for adapters."""
        ...

    @property
    def device(self) -> torch.device:
        """Where it computes. Inputs may lie anywhere."""
        ...

    def __call__(self, latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Velocity, (B, C, f, h, w) like the latents, at noise level sigma: a scalar or (B,), in [0, 1]."""
        ...

    def tap(
        self,
        *,
        cross: Collection[int] = (),
        temporal: Collection[int] = (),
        stop_after: int | None = None,
        read: Read | None = None,
    ) -> AbstractContextManager[Taps]:
        """Look into the attention of these blocks at every call inside; the output stays what it is.

        Gradients flow through what is seen, also under gradient checkpointing and after the context has
        ended. There `read`, which makes something small of q and k inside the block, saves their memory. The
        watched blocks of a compiled network run uncompiled.

        cross: blocks whose attention to the prompt is watched. temporal: whose self-attention. stop_after:
        the last block that runs; there is no velocity then, and what stands for it is NaN.

        Raises:
            CastmixError: no such block, one that does not run, fused projections, or a tap inside a tap.
        """
        ...
