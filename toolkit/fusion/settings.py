"""Settings of fusion, grouped by subject. Light: the command line reads them without torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from toolkit.training.settings import Optim, Sigma

MethodName = Literal["weighted", "ties", "dare", "svd", "least-squares", "gradient", "masked"]


@dataclass(frozen=True)
class FusedFile:
    """The fused file.

    Attributes:
        rank: Rank of every layer; a larger rank is truncated. Default: the largest rank of the LoRAs for svd,
            the sum of their ranks for the other methods.
        save_dtype: Number format of the file; bfloat16 halves it.
    """

    rank: int | None = None
    save_dtype: Literal["float32", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Examples:
    """Cached clips that least-squares and gradient run the LoRAs on.

    Attributes:
        clips: Folders of cached clips. A clip belongs to the LoRA whose subjects its caption names. Clips
            that name subjects of several LoRAs are skipped.
        pairs: Folder of cached clips with several subjects and their masks, for the attention maps of
            gradient (see castmix composite --kind pairs).
        sigma: Distribution of the noise levels.
    """

    clips: tuple[Path, ...] = ()
    pairs: Path | None = None
    sigma: Sigma = Sigma()


@dataclass(frozen=True)
class Sparse:
    """What ties and dare keep of each LoRA.

    Attributes:
        density: Share of each weight change that is kept, above 0 and up to 1. ties keeps the largest
            numbers; dare keeps random ones and scales them up.
        sign: Which sign wins in ties where LoRAs disagree: the sign of the larger sum (total), or of more
            LoRAs (frequency).
    """

    density: float = 0.5
    sign: Literal["total", "frequency"] = "total"


@dataclass(frozen=True)
class Squares:
    """How least-squares measures the LoRAs.

    Attributes:
        draws: Noise levels for each clip.
        max_clips: Largest number of clips per LoRA, evenly spread. 0: all clips.
        ridge: Weight of the pull towards the plain average, in units of the inputs' mean square.
        memory: GiB for the sums over inputs. Layers that do not fit are processed in further passes.
    """

    draws: int = 4
    max_clips: int = 32
    ridge: float = 1e-3
    memory: float = 4.0


@dataclass(frozen=True)
class Distil:
    """How gradient trains the fused LoRA.

    Attributes:
        steps: Optimiser steps. VideoMage uses 250 to 450.
        batch_size: Single-subject clips per step, all of one LoRA. The LoRAs take turns.
        pairs_size: Clips of several subjects per step, for the attention maps.
        attention: Weight of the attention maps' loss (VideoMage: 0.6).
        start: Weight of each LoRA in the sum that training starts from. Default: their average.
        map_sigma: Lowest and highest noise level at which attention maps are compared, low,high. Above, the
            maps have not formed yet; below, they hardly matter.
        layers: Blocks whose attention maps are compared. Default: the model's setting.
        optim: The optimiser.
        save_every: Steps between checkpoints. One is also saved at the end and on Ctrl-C. 0: only those.
        checkpointing: Recompute each block's activations in the backward pass instead of keeping them.
    """

    steps: int = 350
    batch_size: int = 2
    pairs_size: int = 1
    attention: float = 0.6
    start: float | None = None
    map_sigma: tuple[float, float] = (0.4, 0.95)
    layers: tuple[int, ...] = ()
    optim: Optim = Optim(weight_decay=0.0)
    save_every: int = 50
    checkpointing: bool = False
