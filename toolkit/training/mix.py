"""Which clips are held out, and which clips every step trains on.

The clips are a function of the seed and the step. A run therefore needs no sampler state: row k of step n is
the same clip whether the run was interrupted or not, on one process or on several.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_text
from toolkit.training.cached_clips import CachedClip
from toolkit.training.settings import Batches


@dataclass(frozen=True)
class Mix:
    """The clips to draw from, and their shares. Shares are exact over the steps, in whole rows per step.

    Attributes:
        learned: Clips to learn from, without those of `composites`.
        composites: Composites drawn at a share of their own. Empty if all clips are drawn alike.
        preserved: Clips of the base model's own world, which preserve what it knows.
        batch_size: Rows per step, over all processes.
        composites_share: Share of composites among the rows that are not preserved ones, 0 to 1.
        preserve_share: Share of preserved clips among all rows, 0 to below 1.
        caption_dropout: Share of rows with an empty prompt, 0 to 1.
        seed: Seed of all draws.
    """

    learned: Sequence[CachedClip]
    composites: Sequence[CachedClip]
    preserved: Sequence[CachedClip]
    batch_size: int
    composites_share: Fraction
    preserve_share: Fraction
    caption_dropout: float
    seed: int

    def preserved_before(self, step: int) -> int:
        """Number of preserved rows in all steps before this one."""
        return int(step * self.batch_size * self.preserve_share)

    def preserved_rows(self, step: int) -> int:
        """Number of preserved rows in this step. They are its last rows."""
        return self.preserved_before(step + 1) - self.preserved_before(step)


def new_mix(
    learned: Sequence[CachedClip], preserved: Sequence[CachedClip], batches: Batches, seed: int
) -> Mix:
    """The mix of these clips.

    Raises:
        CastmixError: a share or the batch size is out of range, or a ratio of composites is set and there are
            no composites or no originals.
    """
    for name in ("preserve_share", "caption_dropout"):
        value = getattr(batches, name)
        if not 0 <= value <= 1:
            raise CastmixError(f"{name} must be between 0 and 1, got {value:g}")
    if batches.batch_size < 1:
        raise CastmixError(f"batch_size must be at least 1, got {batches.batch_size}")
    if preserved and batches.preserve_share == 1:
        raise CastmixError("preserve_share 1 leaves no room for your clips: use a smaller share")
    originals, composites = _apart(learned, batches.composites)
    # fractions, so that a share of 1/11 is exactly one row in eleven
    ratio = Fraction(str(batches.composites or 0))
    return Mix(
        learned=originals,
        composites=composites,
        preserved=preserved,
        batch_size=batches.batch_size,
        composites_share=ratio / (1 + ratio),
        preserve_share=Fraction(str(batches.preserve_share)) if preserved else Fraction(0),
        caption_dropout=batches.caption_dropout,
        seed=seed,
    )


def _apart(
    clips: Sequence[CachedClip], ratio: float | None
) -> tuple[Sequence[CachedClip], Sequence[CachedClip]]:
    """Originals and composites; all clips count as originals if there is no ratio."""
    if ratio is None:
        return clips, ()
    if not 0 <= ratio < math.inf:
        raise CastmixError(f"composites must be 0 or more (0.1 is one for ten originals), got {ratio:g}")
    originals, composites = ([clip for clip in clips if clip.composite is side] for side in (False, True))
    if not originals or (ratio and not composites):
        raise CastmixError(
            f"composites {ratio:g} is a ratio of composites to originals, but {len(composites)} of the "
            f"{len(clips)} clips are composites: give folders of both (`castmix composite` makes composites)"
        )
    return originals, composites


def step_clips(mix: Mix, step: int) -> list[CachedClip]:
    """The clips of a step, one per row: learned ones, then composites, then preserved ones."""
    preserved = [mix.preserved_before(n) for n in (step, step + 1)]
    rest = [n * mix.batch_size - count for n, count in zip((step, step + 1), preserved, strict=True)]
    composites = [int(count * mix.composites_share) for count in rest]
    learned = [count - part for count, part in zip(rest, composites, strict=True)]
    drawn = (
        (mix.learned, range(*learned), "data"),
        (mix.composites, range(*composites), "composites"),
        (mix.preserved, range(*preserved), "preserve"),
    )
    return [
        clips[k]
        for clips, places, what in drawn
        for k in shuffled(len(clips), places, seed=mix.seed, what=what)
    ]


def shuffled(count: int, places: range, *, seed: int, what: str) -> list[int]:
    """The entries at these places of an endless sequence of 0 … count - 1, shuffled anew for every epoch.

    A function of its arguments alone: place k is in epoch k // count, which has its own permutation.
    """
    import torch

    from toolkit.core.seeds import generator_for

    orders = {
        epoch: torch.randperm(count, generator=generator_for(seed, epoch, f"order/{what}")).tolist()
        for epoch in {place // count for place in places}
    }
    return [orders[place // count][place % count] for place in places]


def hold_out(clips: Sequence[CachedClip], holdout: float) -> tuple[list[CachedClip], list[CachedClip]]:
    """Split clips into those to train on and those held out for validation. The split is always the same.

    Whole shots are held out: a clip that continues a trained one would have too low a loss.

    Args:
        clips: Clips of one folder.
        holdout: A share below 1, or a number of clips, rounded up to whole shots. 0 holds none out.

    Raises:
        CastmixError: a negative holdout, or nothing is left to train on.
    """
    if holdout < 0:
        raise CastmixError(f"holdout must be a share below 1, or a number of clips, got {holdout}")
    wanted = round(holdout * len(clips)) if holdout < 1 else int(holdout)
    shots = sorted({clip.shot for clip in clips}, key=lambda shot: (fingerprint_text(shot), shot))
    held: list[CachedClip] = []
    for shot in shots:
        if len(held) >= wanted:
            break
        held += [clip for clip in clips if clip.shot == shot]
    learned = [clip for clip in clips if clip not in held]
    if not learned:
        raise CastmixError(
            f"holdout {holdout:g} leaves nothing to train on: {len(clips)} clips of {len(shots)} shots. "
            "Use a smaller holdout; 0 holds none out"
        )
    return learned, held
