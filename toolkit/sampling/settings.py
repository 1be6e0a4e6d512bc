"""Settings of sampling. Light: the command line reads them without torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Sampler = Literal["euler", "scs", "scs-lite"]


@dataclass(frozen=True)
class Sampling:
    """How a video is sampled.

    Attributes:
        sampler: euler sums all LoRAs. scs and scs-lite sample subjects and motion together (collaborative
            sampling).
        steps: Denoising steps. Default: the model's setting.
        guidance_scale: Strength of the prompt; 1 is no guidance. Default: the model's setting.
        shift: Shift of the noise levels towards noise. Default: the model's setting.
        negative_prompt: Prompt that guidance leads away from.
        num_frames: Frames, 4k+1. Default: the model's setting.
        height: Pixels. Default: the model's setting.
        width: Pixels. Default: the model's setting.
        motion_prompt: The motion branch's prompt, one for all videos or one for each. Default: the prompt in
            plain words, without special tokens and character names.
        motion_clip: The clip that the motion was learned from. Its inverted noise is mixed into the initial
            noise (see collaboration.inversion).
    """

    sampler: Sampler = "euler"
    steps: int | None = None
    guidance_scale: float | None = None
    shift: float | None = None
    negative_prompt: str = ""
    num_frames: int | None = None
    height: int | None = None
    width: int | None = None
    motion_prompt: Sequence[str] = ()
    motion_clip: Path | None = None


@dataclass(frozen=True)
class Collaboration:
    """Collaborative sampling of a subject and a motion branch (sampler scs or scs-lite).

    Attributes:
        eta: Length of a guided step, relative to the latents' root mean square.
        alpha: Constant step size on the mean squared difference of the attention maps, instead of eta. The
            paper's 1e4 holds for its own resolution and model only.
        freeze: Keep the alpha that eta gives at the first guided step. Later steps then get shorter as the
            maps agree.
        sigma_window: Noise levels with guidance: above the first, up to the second.
        every: Guide every k-th step of the window.
        beta_subject: Weight of the subject branch at noise level 1 and at 0, linear between.
        beta_motion: Weight of the motion branch at noise level 1 and at 0. Only the ratio of both counts.
        spatial: Pull the motion branch towards the places where the subject branch sees the subjects (scs
            only).
        temporal: Pull the subject branch towards the timing of the motion branch.
        window: Radius of the neighbourhood in which the temporal maps look for motion; 0 is the same place
            only.
        inversion: Share of the motion clip's inverted noise in the initial noise.
        iterations: Forward passes per noise level of the inversion: 1 is the next-point rule, 2 or 3 the more
            exact fixed point.
        checkpointing: Recompute blocks in the backward pass instead of keeping activations. Default: on a GPU
            only.
        keep_maps: Save the spatial maps of guided steps beside the video.
    """

    eta: float = 0.02
    alpha: float | None = None
    freeze: bool = False
    sigma_window: tuple[float, float] = (0.77, 1.0)
    every: int = 1
    beta_subject: tuple[float, float] = (0.5, 0.5)
    beta_motion: tuple[float, float] = (0.5, 0.5)
    spatial: bool = True
    temporal: bool = True
    window: int = 0
    inversion: float = 0.3
    iterations: int = 1
    checkpointing: bool | None = None
    keep_maps: bool = False


@dataclass(frozen=True)
class Masked:
    """Sampling of a masked fusion: each LoRA acts only where its subjects are.

    Attributes:
        layout: Where the masks come from. sum: the plain sum of all LoRAs samples the first steps; its
            attention shows who is where; then sampling restarts. base: the base model samples the first steps
            from the prompt in plain words, and the LoRAs continue from there. base needs a noun for each
            subject, and sampler euler.
        sigma: Noise level at which the masks are read. Default: 0.8 for sum and 0.7 for base.
        layers: Blocks whose attention maps are read. Default: the model's setting.
        threshold: A place belongs to nobody where no subject's map reaches this share of its maximum.
        nobody: Weight of every LoRA in such places. Default: all LoRAs share them evenly.
        voting: Radius in tokens, in time and space, of the majority vote on each place; 0 is no vote.
    """

    layout: Literal["sum", "base"] = "sum"
    sigma: float | None = None
    layers: tuple[int, ...] = ()
    threshold: float = 0.3
    nobody: float | None = None
    voting: int = 1

    @property
    def level(self) -> float:
        """`sigma`, or its default."""
        return {"sum": 0.8, "base": 0.7}[self.layout] if self.sigma is None else self.sigma
