"""Settings of masked fusion and collaborative sampling."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Collaboration:
    """How the subject and the motion branch sample together (sampler scs or scs-lite).

    Attributes:
        eta: How far a guided step moves each branch, relative to its latents' own size.
        alpha: A constant step on the mean squared difference of the maps instead, whatever the resolution
            makes of it. The paper's 1e4 belongs to its own resolution and model.
        freeze: Keep the alpha that eta gave at the first guided step: later pulls shrink as maps agree.
        sigma_window: Noise levels that are guided: above the first, up to the second.
        every: Guide only every k-th step in there.
        beta_subject: Share of the subject branch in each step at noise level 1 and at 0, linear between.
        beta_motion: Share of the motion branch likewise; only the ratio of both counts.
        spatial: The motion branch follows where the subject branch sees the subjects (scs only).
        temporal: The subject branch follows when things move in the motion branch.
        window: Sites around each site in whose frames it looks for what moves; 0 is the site alone.
        inversion: Share of the motion clip's inverted noise in the initial noise.
        iterations: Forwards a level while inverting: 1 next point, 2 or 3 fixed point, more exact.
        checkpointing: Compute blocks again in the backward pass instead of keeping activations; none does
            so on a GPU only.
        keep_maps: Write the spatial maps of guided steps beside the video.
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
    """How a masked fusion is sampled.

    Attributes:
        layout: sum: the plain sum is sampled first, to see from its attention who is where, and then all
            begins anew. base: the base alone samples first, from the prompt in plain words, and the LoRAs go
            on from there; it needs a noun for each subject, and --sampler euler.
        sigma: Noise level down to which that is sampled; left out, 0.8 for sum, and 0.7 for base, above which
            nobody is anywhere yet.
        layers: Blocks whose maps are read; none takes the model's own.
        threshold: Tokens where no subject reaches this share of its own largest value belong to nobody.
        nobody: Weight of every LoRA where nobody is; none shares it evenly.
        voting: Tokens to either side, in time and in space, that vote on whose a token is: 0 asks nobody.
    """

    layout: Literal["sum", "base"] = "sum"
    sigma: float | None = None
    layers: tuple[int, ...] = ()
    threshold: float = 0.3
    nobody: float | None = None
    voting: int = 1

    @property
    def level(self) -> float:
        """`sigma`, or what it is where it is left out."""
        return {"sum": 0.8, "base": 0.7}[self.layout] if self.sigma is None else self.sigma
