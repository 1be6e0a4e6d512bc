"""Samples which characters and which background make up a composite."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from toolkit.compositing.eligible_clips import Background, Foreground
from toolkit.core.errors import CastmixError

T = TypeVar("T")

Kind = Literal["mix", "pairs", "references"]
Styles = Literal["opposite", "same", "any"]
TOTALS: dict[Kind, tuple[int, ...]] = {"mix": (2, 3), "pairs": (2,), "references": (1,)}
"""Possible numbers of characters in a composite of each kind, those of the background included."""


class PairingSampler:
    """Samples the characters to paste, and a background.

    The kinds:

    - mix: paste into a clip that may have characters of its own, two or three characters in total.
    - pairs: paste two characters onto any background without people.
    - references: paste one character onto a background without people.

    The styles:

    - opposite: the background has the opposite style (not required for pairs). If there are two or more
      characters, both styles occur among them.
    - same: the background has the same style (not required for pairs). All characters have one style, and
      every pasted character is from another show than all others.
    - any: no condition; two characters may be from one show.

    Attributes:
        foregrounds: Foreground clips by character name.
        names: Characters that can be pasted first. The plan uses each equally often.
    """

    def __init__(
        self,
        kind: Kind,
        styles: Styles,
        foregrounds: Sequence[Foreground],
        backgrounds: Sequence[Background],
    ) -> None:
        self.kind, self.styles, self.backgrounds = kind, styles, backgrounds
        self.foregrounds: dict[str, list[Foreground]] = {}
        for foreground in foregrounds:
            self.foregrounds.setdefault(foreground.name, []).append(foreground)
        self._matching: dict[tuple[str, int], list[Background]] = {}
        self.names = [name for name in sorted(self.foregrounds) if self._can_be_first(name)]
        if not self.names:
            wanted = {
                "opposite": "of the opposite style",
                "same": "of the same style and another show",
                "any": "for any of them",
            }[styles]
            raise CastmixError(
                f"no background or partner {wanted} among {len(backgrounds)} backgrounds; characters that "
                f"can be cut out: {', '.join(sorted(self.foregrounds))}. Add clips of another show, give "
                "--backgrounds, or change --styles"
            )

    def sample(
        self, name: str, rng: np.random.Generator, three: float
    ) -> tuple[list[Foreground], Background]:
        """Sample the foregrounds to paste, `name` first, and the background.

        three: Probability of three characters in total, for kind "mix".
        """
        first = _choose(self.foregrounds[name], rng)
        total = TOTALS[self.kind][0]
        if self.kind == "mix":
            prefers_three = rng.random() < three
            total = next(n for n in ((3, 2) if prefers_three else (2, 3)) if self.backgrounds_for(first, n))
        background = _choose(self.backgrounds_for(first, total), rng)
        chosen = [first]
        while len(chosen) + len(background.names) < total:
            chosen.append(_choose(self.foregrounds[_choose(self._partners(chosen, background), rng)], rng))
        return chosen, background

    def backgrounds_for(self, first: Foreground, total: int) -> list[Background]:
        """Backgrounds into which `first` can be pasted so that the composite has `total` characters."""
        key = (first.name, total)
        if key not in self._matching:
            self._matching[key] = [b for b in self.backgrounds if self._matches(first, b, total)]
        return self._matching[key]

    def _matches(self, first: Foreground, background: Background, total: int) -> bool:
        to_paste = total - len(background.names)
        if to_paste < 1 or first.name in background.names:
            return False
        if not self._has_partners(first, background, to_paste):
            return False
        if self.kind == "pairs" or self.styles == "any":
            return True
        if self.styles == "opposite":
            return first.style != background.style
        return first.style == background.style and first.show not in background.shows

    def _has_partners(self, first: Foreground, background: Background, to_paste: int) -> bool:
        """Whether `to_paste` characters can be pasted, `first` included.

        Each step takes the first possible partner: another one would leave as many partners.
        """
        chosen = [first]
        while len(chosen) < to_paste and (partners := self._partners(chosen, background)):
            chosen.append(self.foregrounds[partners[0]][0])
        return len(chosen) == to_paste

    def _partners(self, chosen: Sequence[Foreground], background: Background) -> list[str]:
        """Names of the characters that can be pasted beside the chosen ones."""
        taken = {*background.names, *(one.name for one in chosen)}
        left = [clips[0] for name, clips in self.foregrounds.items() if name not in taken]
        if self.styles == "any":
            return [one.name for one in left]
        if self.styles == "same":
            shows = {*background.shows, *(one.show for one in chosen)}
            return [one.name for one in left if one.style == chosen[0].style and one.show not in shows]
        # once both styles occur, a further character may have either
        both_styles = bool(background.names) or len({one.style for one in chosen}) > 1
        return [one.name for one in left if both_styles or one.style != chosen[0].style]

    def _can_be_first(self, name: str) -> bool:
        first = self.foregrounds[name][0]
        return any(self.backgrounds_for(first, total) for total in TOTALS[self.kind])


def _choose(items: Sequence[T], rng: np.random.Generator) -> T:
    return items[int(rng.integers(len(items)))]
