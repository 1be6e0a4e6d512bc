"""The interface of a base model: its settings, and protocols of its encoders and its denoiser."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch
    from torch import Tensor


Geometry = tuple[int, tuple[int, int, int], tuple[int, int, int]]
"""Latent channels, VAE strides (t, h, w), and the numbers that must divide (frames - 1, height, width)."""


@dataclass(frozen=True)
class ModelSpec:
    """A base model and its default settings."""

    name: str
    path: str
    """A folder on disk, or an id on the Hugging Face Hub."""
    text_length: int = 512
    """Number of prompt tokens, padded with zeros. Wan attends to the padding too: train and sample with one
    length."""
    shift: float = 3.0
    """Shift of the noise levels. Wan uses 3 at 480p and 5 at 720p."""
    guidance_scale: float = 5.0
    steps: int = 50
    fps: float = 16.0
    num_frames: int = 81
    height: int = 480
    width: int = 832
    download: str = "all files of the repository"
    """Description of the files to download, with sizes, for messages."""

    @property
    def slug(self) -> str:
        """The name in a form that is valid as a folder name."""
        return self.name.replace("/", "--")


class Encoders(Protocol):
    """The VAE and the text encoder of a base model. All inputs and outputs are float32."""

    def encode_video(self, video: Tensor) -> Tensor:
        """Encode videos (B, 3, F, H, W) in [-1, 1] to normalised latents (B, C, f, h, w) (posterior mode)."""
        ...

    def decode_video(self, latents: Tensor) -> Tensor:
        """Decode normalised latents (B, C, f, h, w) to videos (B, 3, F, H, W) in [-1, 1]."""
        ...

    def encode_text(self, prompts: Sequence[str]) -> Tensor:
        """Encode prompts to embeddings (B, text_length, D), zero after each prompt's real tokens."""
        ...

    def count_tokens(self, prompt: str) -> int:
        """Return the number of tokens of a prompt before truncation to text_length."""
        ...

    def token_positions(self, prompt: str, ranges: Sequence[tuple[int, int]]) -> list[tuple[int, ...]]:
        """Return the positions, in the output of `encode_text`, of the tokens of each character range.

        A token belongs to a range (start, end) if it shares a character with it. Tokens beyond text_length
        are left out.

        prompt: The prompt as WanPipeline cleans it, with joined whitespace. Ranges refer to this text.
        """
        ...

    def token_embeddings(self, text: str) -> Tensor:
        """Return the input embeddings of a text's tokens, (n, D_in), without the end-of-sequence token."""
        ...

    def encode_text_with_deltas(
        self, prompts: Sequence[str], deltas: Sequence[Mapping[int, Tensor]]
    ) -> Tensor:
        """Encode prompts like `encode_text`, with vectors added to their input embeddings.

        The result is differentiable with respect to the vectors. Without any, it equals `encode_text`.

        deltas: For each prompt, the added vectors (D_in,) by token position.
        """
        ...

    def prompt_length(self, prompt: str) -> int:
        """Return the number of a prompt's tokens in `encode_text`, end token included, without padding."""
        ...

    def token_spans(self, prompt: str, phrases: Sequence[str]) -> list[tuple[int, ...]]:
        """Return for each phrase the positions, in `encode_text`, of the tokens of all its occurrences.

        Phrases match as whole words, and case matters: "Mimi" is in "[Character: Mimi]", "cat" is not in
            "cats".
        Longer phrases match first: if "red ball" is given too, its "ball" is not an occurrence of "ball".

        Raises:
            CastmixError: A phrase is not in the prompt, or only in the truncated part.
        """
        ...

    def release_text_encoder(self) -> None:
        """Free the text encoder's memory. It is loaded again on its next use."""
        ...


Reduce = Callable[[str, int, "Tensor", "Tensor"], "Tensor"]
"""(kind, layer, q, k) -> the result to keep instead of q and k. kind is "cross" or "temporal"."""


@dataclass(eq=False)
class CapturedAttention:
    """Queries and keys of the last forward pass, by layer.

    q and k are taken after their norms, per head: (B, heads, N, d) for the N video tokens, frame by frame and
    row by row. The k of cross-attention is (B, heads, L, d) for the L prompt positions, padding included. q
    and k of self-attention include the rotary position embedding.

    Attributes:
        cross: (q, k) of cross-attention.
        temporal: (q, k) of self-attention.
        maps: Results by (kind, layer), if a `reduce` function was given. `cross` and `temporal` are empty
            then.
    """

    cross: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    temporal: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    maps: dict[tuple[str, int], Tensor] = field(default_factory=dict)


class Denoiser(Protocol):
    """The diffusion transformer, as a function (latents, sigma, prompt embeddings) -> velocity."""

    @property
    def module(self) -> torch.nn.Module:
        """The network, for attaching adapters."""
        ...

    @property
    def device(self) -> torch.device:
        """The device of the network. Inputs may be on any device."""
        ...

    def __call__(self, latents: Tensor, sigma: Tensor, prompt_embeds: Tensor) -> Tensor:
        """Predict the velocity of latents (B, C, f, h, w) at noise level sigma, a scalar or (B,), in [0, 1].

        The result has the shape of the latents.
        """
        ...

    def capture_attention(
        self,
        *,
        cross: Collection[int] = (),
        temporal: Collection[int] = (),
        stop_after: int | None = None,
        reduce: Reduce | None = None,
    ) -> AbstractContextManager[CapturedAttention]:
        """Capture queries and keys of these blocks at every call within the context. The output is unchanged.

        The captured tensors are differentiable, also under gradient checkpointing and after the context has
        ended. With `reduce`, q and k are reduced within the block and need no memory outside of it. The
        captured blocks of a compiled network run uncompiled.

        Args:
            cross: Blocks whose cross-attention to the prompt is captured.
            temporal: Blocks whose self-attention is captured.
            stop_after: Last block that runs. The returned velocity is NaN then. Default: all blocks run.
            reduce: Function that reduces q and k to a smaller result.

        Raises:
            CastmixError: A block does not exist, does not run, or has fused projections, or a capture is
                already active.
        """
        ...
