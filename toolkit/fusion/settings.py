"""The knobs of fusion, by subject. Light: the command line reads them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MethodName = Literal["weighted", "ties", "dare", "svd", "least-squares", "gradient", "masked"]


@dataclass(frozen=True)
class Sparse:
    """What ties and dare keep of each LoRA.

    Attributes:
        density: Share of each change's numbers that is kept, above 0 and up to 1: the largest (ties) or drawn
            at random and scaled up (dare).
        sign: ties: whose sign wins where LoRAs disagree: of the larger sum (total), or of more LoRAs
            (frequency).
    """

    density: float = 0.5
    sign: Literal["total", "frequency"] = "total"


@dataclass(frozen=True)
class Squares:
    """How least-squares measures what each LoRA does.

    Attributes:
        draws: Noise levels at which each clip is run.
        clips: At most this many clips of each LoRA, evenly spread; 0 takes all.
        ridge: Pull towards the plain average, in units of the inputs' mean square: where no clip says
            anything, the average stays.
        memory: GiB for the sums over inputs; layers that do not fit together take passes of their own.
    """

    draws: int = 4
    clips: int = 32
    ridge: float = 1e-3
    memory: float = 4.0


@dataclass(frozen=True)
class Distil:
    """How gradient fusion learns.

    Attributes:
        steps: Optimiser steps; VideoMage takes 250 to 450.
        batch_size: Single-subject clips a step, all of one LoRA; LoRAs take turns.
        pairs_size: Clips of several subjects a step, for the maps.
        attention: Weight of the maps' loss (VideoMage: 0.6).
        start: Weight of each LoRA in the sum that it begins from; none is the average.
        sigma: Noise levels at which maps are compared, low,high: above they are not formed, below they no
            longer matter.
        layers: Blocks whose maps count; none takes the model's own.
        save_every: Steps between checkpoints (also at the end and on Ctrl-C).
        checkpointing: Compute each block again in the backward pass instead of keeping its activations.
    """

    steps: int = 350
    batch_size: int = 2
    pairs_size: int = 1
    attention: float = 0.6
    start: float | None = None
    sigma: tuple[float, float] = (0.4, 0.95)
    layers: tuple[int, ...] = ()
    save_every: int = 50
    checkpointing: bool = False
