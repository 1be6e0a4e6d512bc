"""Who meets whom: characters and backgrounds drawn for a row of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from toolkit.compositing.sources import Back, Front
from toolkit.errors import CastmixError

T = TypeVar("T")

Kind = Literal["mix", "pairs", "references"]
Styles = Literal["opposite", "same"]
TOTALS: dict[Kind, tuple[int, ...]] = {"mix": (2, 3), "pairs": (2,), "references": (1,)}
"""How many characters a composite of each kind has in all."""


class Meetings:
    """Draws characters to be pasted, and a background.

    `names` are those who can be the first of a row, whom the plan takes equally often.

    mix: into scenes of the opposite style, or of the same style and another show. pairs: two whose styles are
    opposite, or the same and their shows not, on any background without people. references: one, on such a
    background of a style as for mix.
    """

    def __init__(self, kind: Kind, styles: Styles, fronts: Sequence[Front], backs: Sequence[Back]) -> None:
        self.kind, self.styles, self.backs = kind, styles, backs
        self.fronts: dict[str, list[Front]] = {}
        for front in fronts:
            self.fronts.setdefault(front.name, []).append(front)
        self._fitting: dict[tuple[str, int], list[Back]] = {}
        self.names = [name for name in sorted(self.fronts) if self._can_meet(self.fronts[name][0])]
        if not self.names:
            what = "of the opposite style" if styles == "opposite" else "of the same style and another show"
            raise CastmixError(
                f"{', '.join(sorted(self.fronts))} can be cut out, but there is no background or partner "
                f"{what} among {len(backs)} backgrounds: give clips of another show, "
                "--backgrounds, or another --styles"
            )

    def draw(self, name: str, rng: np.random.Generator, three: float) -> tuple[list[Front], Back]:
        """Who is pasted, this one first, and on what; with three in all in this share of the mixes."""
        first = _pick(self.fronts[name], rng)
        total = TOTALS[self.kind][0]
        if self.kind == "mix":
            larger = rng.random() < three
            total = next(n for n in ((3, 2) if larger else (2, 3)) if self.fitting(first, n))
        back = _pick(self.fitting(first, total), rng)
        fronts = [first]
        while len(fronts) + len(back.names) < total:
            taken = {*back.names, *(one.name for one in fronts)}
            left = [n for n in self.fronts if n not in taken and self._joins(self.fronts[n][0], first, back)]
            if not left:
                break
            fronts.append(_pick(self.fronts[_pick(left, rng)], rng))
        return fronts, back

    def fitting(self, front: Front, total: int) -> list[Back]:
        """The backgrounds into which this one may be pasted, first of so many that make up the total."""
        key = (front.name, total)
        if key not in self._fitting:
            self._fitting[key] = [back for back in self.backs if self._fits(front, back, total)]
        return self._fitting[key]

    def _fits(self, front: Front, back: Back, total: int) -> bool:
        newcomers = total - len(back.names)
        if front.name in back.names or not 1 <= newcomers <= len(self.fronts):
            return False
        if self.kind == "pairs":
            return True
        if self.styles == "opposite":
            return front.style != back.style
        return front.style == back.style and front.show not in back.shows

    def _joins(self, other: Front, first: Front, back: Back) -> bool:
        """Whether another may be pasted beside the first."""
        if self.kind == "mix":  # who joins is of any show, in a picture of both styles
            return self.styles == "opposite" or other.style == back.style
        if self.styles == "opposite":
            return other.style != first.style
        return other.style == first.style and other.show != first.show

    def _can_meet(self, front: Front) -> bool:
        if not any(self.fitting(front, total) for total in TOTALS[self.kind]):
            return False
        others = [ones[0] for name, ones in self.fronts.items() if name != front.name]
        return self.kind != "pairs" or any(self._joins(other, front, self.backs[0]) for other in others)


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]
