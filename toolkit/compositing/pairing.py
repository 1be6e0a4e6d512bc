"""Who meets whom: characters and backgrounds drawn for a row of the plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from toolkit.compositing.eligible_clips import Back, Front
from toolkit.core.errors import CastmixError

T = TypeVar("T")

Kind = Literal["mix", "pairs", "references"]
Styles = Literal["opposite", "same", "any"]
TOTALS: dict[Kind, tuple[int, ...]] = {"mix": (2, 3), "pairs": (2,), "references": (1,)}
"""How many characters a composite of each kind has in all."""


class Meetings:
    """Draws characters to be pasted, and a background.

    `names` are those who can be the first of a row, whom the plan takes equally often.

    mix: into scenes of the opposite style, or of the same style and another show. pairs: on any background
    without people. references: one, on such a background of a style as for mix. Where styles are opposite,
    both are in every picture with two or more; where they are the same, whoever is pasted is of another show
    than everybody else. Any styles: everybody meets everybody, those of one show, too.
    """

    def __init__(self, kind: Kind, styles: Styles, fronts: Sequence[Front], backs: Sequence[Back]) -> None:
        self.kind, self.styles, self.backs = kind, styles, backs
        self.fronts: dict[str, list[Front]] = {}
        for front in fronts:
            self.fronts.setdefault(front.name, []).append(front)
        self._fitting: dict[tuple[str, int], list[Back]] = {}
        self.names = [name for name in sorted(self.fronts) if self._can_meet(self.fronts[name][0])]
        if not self.names:
            what = {
                "opposite": "of the opposite style",
                "same": "of the same style and another show",
                "any": "for any of them",
            }[styles]
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
            fronts.append(_pick(self.fronts[_pick(self._joining(fronts, back), rng)], rng))
        return fronts, back

    def fitting(self, front: Front, total: int) -> list[Back]:
        """The backgrounds into which this one may be pasted, first of so many that make up the total."""
        key = (front.name, total)
        if key not in self._fitting:
            self._fitting[key] = [back for back in self.backs if self._fits(front, back, total)]
        return self._fitting[key]

    def _fits(self, front: Front, back: Back, total: int) -> bool:
        newcomers = total - len(back.names)
        if newcomers < 1 or front.name in back.names or not self._has_company(front, back, newcomers):
            return False
        if self.kind == "pairs" or self.styles == "any":
            return True
        if self.styles == "opposite":
            return front.style != back.style
        return front.style == back.style and front.show not in back.shows

    def _has_company(self, first: Front, back: Back, newcomers: int) -> bool:
        """Whether so many can be pasted, this one first. Who joins, of those who may, makes no difference."""
        fronts = [first]
        while len(fronts) < newcomers and (joining := self._joining(fronts, back)):
            fronts.append(self.fronts[joining[0]][0])
        return len(fronts) == newcomers

    def _joining(self, fronts: Sequence[Front], back: Back) -> list[str]:
        """Who may be pasted beside those on this background."""
        taken = {*back.names, *(one.name for one in fronts)}
        left = [ones[0] for name, ones in self.fronts.items() if name not in taken]
        if self.styles == "any":
            return [one.name for one in left]
        if self.styles == "same":
            shows = {*back.shows, *(one.show for one in fronts)}
            return [one.name for one in left if one.style == fronts[0].style and one.show not in shows]
        # once both styles have met, who joins is of any
        met = bool(back.names) or len({one.style for one in fronts}) > 1
        return [one.name for one in left if met or one.style != fronts[0].style]

    def _can_meet(self, front: Front) -> bool:
        return any(self.fitting(front, total) for total in TOTALS[self.kind])


def _pick(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]
