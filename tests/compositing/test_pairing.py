"""Who meets whom: opposite styles in one picture, or one style and different shows."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from toolkit.compositing.pairing import Kind, PairingSampler, Styles
from toolkit.core.errors import CastmixError

CAST = {
    "Pixo": ("inkwell_bay", "cartoon"),
    "Mimi": ("inkwell_bay", "cartoon"),
    "Luma": ("paper_moon", "cartoon"),
    "Rufus": ("clay_street", "realistic"),
    "Olga": ("clay_street", "realistic"),
}


def sampler(
    kind: Kind, styles: Styles, who: Sequence[str], style: str, there: Sequence[str] = ()
) -> PairingSampler:
    fronts: list[Any] = [SimpleNamespace(name=one, show=CAST[one][0], style=CAST[one][1]) for one in who]
    shows = frozenset(CAST[one][0] for one in there)
    backs: list[Any] = [SimpleNamespace(names=tuple(there), shows=shows, style=style)]
    return PairingSampler(kind, styles, fronts, backs)


def drawn(made: PairingSampler, three: float = 0.5) -> set[tuple[str, ...]]:
    """Whom 200 draws paste, in order."""
    rng = np.random.default_rng(0)
    names = [made.names[int(rng.integers(len(made.names)))] for _ in range(200)]
    return {tuple(one.name for one in made.sample(name, rng, three)[0]) for name in names}


@pytest.mark.parametrize("kind", ["mix", "pairs"])
def test_same_style_on_an_empty_background_mixes_two_shows(kind: Kind) -> None:
    made = drawn(sampler(kind, "same", [*CAST], "cartoon"))
    shows = {"Pixo": "inkwell_bay", "Mimi": "inkwell_bay", "Luma": "paper_moon"}
    for who in made:
        assert len(who) == 2  # there is no third show
        assert len({CAST[one][1] for one in who}) == 1
        assert len({CAST[one][0] for one in who}) == 2
    assert {who for who in made if who[0] in shows} == {
        ("Pixo", "Luma"),
        ("Mimi", "Luma"),
        ("Luma", "Pixo"),
        ("Luma", "Mimi"),
    }
    with pytest.raises(CastmixError, match="no background or partner of the same style and another show"):
        sampler(kind, "same", ["Pixo", "Mimi"], "cartoon")


def test_same_style_beside_a_character_adds_another_show() -> None:
    made = sampler("mix", "same", ["Pixo", "Mimi", "Luma"], "cartoon", ["Pixo"])
    assert drawn(made, three=1) == {("Luma",)}  # Mimi is of Pixo's show


@pytest.mark.parametrize("kind", ["mix", "pairs"])
def test_opposite_styles_on_an_empty_background_has_both(kind: Kind) -> None:
    made = drawn(sampler(kind, "opposite", [*CAST], "realistic"))
    assert {len(who) for who in made} == ({2, 3} if kind == "mix" else {2})
    for who in made:
        assert {CAST[one][1] for one in who} == {"cartoon", "realistic"}
        assert kind == "pairs" or CAST[who[0]][1] == "cartoon"
    with pytest.raises(CastmixError, match="no background or partner of the opposite style"):
        sampler(kind, "opposite", ["Pixo", "Mimi", "Luma"], "realistic")


@pytest.mark.parametrize("kind", ["mix", "pairs"])
def test_any_style_allows_characters_of_one_show(kind: Kind) -> None:
    made = drawn(sampler(kind, "any", ["Pixo", "Mimi"], "cartoon"))
    assert made == {("Pixo", "Mimi"), ("Mimi", "Pixo")}
    beside = drawn(sampler("mix", "any", ["Pixo", "Mimi"], "cartoon", ["Pixo"]), three=0)
    assert beside == {("Mimi",)}
    with pytest.raises(CastmixError, match="no background or partner for any of them"):
        sampler(kind, "any", ["Pixo"], "cartoon")


def test_a_third_character_may_have_either_style() -> None:
    made = drawn(sampler("mix", "opposite", [*CAST], "realistic", ["Rufus"]))
    assert {who[0] for who in made} == {"Pixo", "Mimi", "Luma"}
    assert {("Pixo",), ("Pixo", "Mimi"), ("Pixo", "Luma"), ("Pixo", "Olga")} <= made
    alone = sampler("mix", "opposite", ["Pixo"], "realistic", ["Rufus"])
    assert drawn(alone, three=1) == {("Pixo",)}
