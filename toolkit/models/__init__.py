"""Base models by name: what they are called, where their files lie, and how to load the parts.

A base model is a folder in the layout of diffusers' ``WanPipeline``. To add one of that layout, add a line to
MODELS; for another architecture, add a file beside wan.py with the two protocols below.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from toolkit.errors import CastmixError

if TYPE_CHECKING:
    import torch
    from torch import Tensor


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


MODELS: dict[str, ModelSpec] = {
    "sandbox": ModelSpec(
        name="sandbox",
        path=str(Path(__file__).resolve().parent.parent / "sandbox" / "base"),
        text_length=64,
        shift=2.0,
        guidance_scale=2.5,
        steps=12,
        fps=8.0,
        num_frames=17,
        height=64,
        width=96,
        download="nothing, it is part of castmix and made anew by `castmix sandbox pretrain`",
    ),
    "wan2.1-t2v-1.3b": ModelSpec(
        name="wan2.1-t2v-1.3b",
        path="Wan-AI/Wan2.1-T2V-1.3B-Diffusers",
        download="about 29 GB: text encoder 22.7 GB, transformer 5.7 GB, VAE 0.5 GB",
    ),
    "wan2.1-t2v-14b": ModelSpec(
        name="wan2.1-t2v-14b",
        path="Wan-AI/Wan2.1-T2V-14B-Diffusers",
        download="about 80 GB: transformer 57 GB, text encoder 22.7 GB, VAE 0.5 GB",
    ),
}


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


def find_model(name: str | ModelSpec) -> ModelSpec:
    """The model of that name: of the registry, else a local folder, else an id on the Hugging Face hub.

    Raises:
        CastmixError: nothing has that name; the message offers the nearest registry name.
    """
    if isinstance(name, ModelSpec):
        return name
    if name in MODELS:
        return _with_own_settings(MODELS[name])
    if Path(name).is_dir():
        return _folder_spec(Path(name))
    if name.count("/") == 1 and not name.startswith(("/", ".", "~")) and not name.endswith("/"):
        return ModelSpec(name=name, path=name)
    nearest = difflib.get_close_matches(name, MODELS, n=1, cutoff=0.4)
    hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
    raise CastmixError(
        f"no model {name!r}.{hint} --model takes one of {', '.join(MODELS)}, "
        "a local folder with a WanPipeline, or a hub id such as Wan-AI/Wan2.1-T2V-1.3B-Diffusers"
    )


def _folder_spec(folder: Path) -> ModelSpec:
    """Settings of a local pipeline: Wan's, then the shift of its scheduler, then its castmix.json."""
    if not (folder / "model_index.json").is_file():
        found = sorted(path.name for path in folder.iterdir())[:6]
        raise CastmixError(
            f"{folder} is no pipeline folder: model_index.json is missing "
            f"(it has {', '.join(found) or 'no files'}). "
            "Expected what WanPipeline.save_pretrained writes: model_index.json, scheduler/, text_encoder/, "
            "tokenizer/, transformer/, vae/"
        )
    spec = ModelSpec(name=folder.resolve().name, path=str(folder))
    scheduler = folder / "scheduler" / "scheduler_config.json"
    if scheduler.is_file():
        config = json.loads(scheduler.read_text())
        spec = replace(spec, shift=float(config.get("flow_shift") or config.get("shift") or spec.shift))
    return _with_own_settings(spec)


def _with_own_settings(spec: ModelSpec) -> ModelSpec:
    own = Path(spec.path) / "castmix.json"
    if not own.is_file():
        return spec
    values: dict[str, Any] = json.loads(own.read_text())
    known = {field.name for field in fields(ModelSpec)} - {"name", "path"}
    unknown = sorted(set(values) - known)
    if unknown:
        raise CastmixError(f"{own}: unknown {', '.join(unknown)}; it may hold {', '.join(sorted(known))}")
    return replace(spec, **values)


def default_device() -> str:
    """Where models run: a GPU if torch sees one (CUDA_VISIBLE_DEVICES chooses), else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def load_encoders(
    model: str | ModelSpec, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Encoders:
    """VAE (always float32) and text encoder of a model, each loaded when first used; never the transformer.

    dtype: of the text encoder; float32 on a CPU and bfloat16 elsewhere if left out.
    """
    from toolkit.models.wan import WanEncoders

    return WanEncoders.load(find_model(model), device, dtype)


def load_denoiser(
    model: str | ModelSpec, device: str | torch.device = "cpu", dtype: torch.dtype | None = None
) -> Denoiser:
    """The transformer of a model, in eval mode and frozen; dtype: float32 on a CPU, else bfloat16."""
    from toolkit.models.wan import WanDenoiser

    return WanDenoiser.load(find_model(model), device, dtype)


def latent_shape(
    model: str | ModelSpec, num_frames: int, height: int, width: int
) -> tuple[int, int, int, int]:
    """(C, f, h, w) of a video of that size, read from the model's configuration files.

    Raises:
        CastmixError: num_frames is not 4k + 1 or a side is no multiple of VAE stride times patch; the message
            has the nearest values that are.
    """
    from toolkit.models.files import latent_geometry

    channels, strides, multiples = latent_geometry(find_model(model))
    if num_frames < 1 or (num_frames - 1) % multiples[0]:
        lower = max(0, (num_frames - 1) // multiples[0]) * multiples[0] + 1
        raise CastmixError(
            f"num_frames must be {multiples[0]}k+1, got {num_frames}: use {lower} or {lower + multiples[0]}"
        )
    for side, size, multiple in (("height", height, multiples[1]), ("width", width, multiples[2])):
        if size < multiple or size % multiple:
            lower = max(1, size // multiple) * multiple
            raise CastmixError(
                f"{side} must be a multiple of {multiple}, got {size}: use {lower} or {lower + multiple}"
            )
    return channels, 1 + (num_frames - 1) // strides[0], height // strides[1], width // strides[2]


def fingerprint(model: str | ModelSpec, part: str = "transformer") -> str:
    """16 hex digits that change when the weights or configuration of a part change.

    part: "transformer" (what a LoRA belongs to) or "encoders" (what a cache belongs to: VAE, text encoder,
    tokenizer and text_length). Files over 64 MB are sampled, not read in full.
    """
    from toolkit.models.files import fingerprint_parts

    return fingerprint_parts(find_model(model), part)
