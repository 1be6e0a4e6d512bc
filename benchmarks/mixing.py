"""What goes wrong when characters are mixed: one changes style, or two become one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from toolkit.sandbox.prompt_score import AskedContent, assign_creatures
from toolkit.sandbox.world.world import Look

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Creature, Verdict

TRAITS = ("body", "colour", "pattern", "accessory")


def confusions(verdict: Verdict, asked: AskedContent, looks: Mapping[str, Look]) -> dict[str, float | None]:
    """Faults of a video with named characters, and how those fare who are not at home; None where not asked.

    delusion: of the asked characters that are seen, the share drawn in the other style ("style delusion",
    Character Mixing). blending: of all creatures seen, the share that is none of those asked for and has what
    only one of them has beside what only another has ("identity blending"). native, foreign: of the asked
    characters whose own style the scene has, or has not, the share that is seen in its own style.
    """
    named = {part.who: looks[part.who] for part in asked.creatures if part.who}
    cast = list(zip(assign_creatures(verdict.creatures, asked.creatures), asked.creatures, strict=True))
    styled = [(one, part) for one, part in cast if part.style]
    wrong = [one.style != part.style for one, part in styled if one]
    right: dict[bool, list[bool]] = {True: [], False: []}
    for one, part in styled if asked.scene_style else ():
        right[part.style == asked.scene_style].append(one is not None and one.style == part.style)
    chosen = [one for one, _ in cast if one is not None]
    blends = [
        all(one is not each for each in chosen) and _owners(one, list(named.values())) > 1
        for one in verdict.creatures
    ]
    return {
        "delusion": _share(wrong),
        "blending": _share(blends) if len(named) > 1 else None,
        "native": _share(right[True]) if named else None,
        "foreign": _share(right[False]) if named else None,
    }


def _owners(creature: Creature, looks: Sequence[Look]) -> int:
    """Of how many looks this creature has a trait that no other of them has."""
    values = {trait: [getattr(look, trait) for look in looks] for trait in TRAITS}
    return sum(
        any(
            getattr(creature, trait) == getattr(look, trait)
            and values[trait].count(getattr(look, trait)) == 1
            for trait in TRAITS
        )
        for look in looks
    )


def _share(facts: Sequence[bool]) -> float | None:
    return sum(facts) / len(facts) if facts else None
