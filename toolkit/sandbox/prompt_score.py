"""Scores sandbox videos against their prompts.

`parse_prompt` extracts the creatures, actions, scene and styles that a prompt asks for. A prompt is a caption
in the grammar, with named characters, or prose in the form of the base model's pretraining captions ("a red
star with a hat jumps in the meadow, cartoon style"), with described creatures. `score_verdict` compares the
recognisers' predictions with it. What a prompt does not mention does not affect the scores.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.captions.cast import Cast
from toolkit.captions.grammar import SCENE_TAG, TAG, parse, validate
from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, fingerprint_text
from toolkit.sandbox.world import actions, paint, scenery, world

if TYPE_CHECKING:
    from toolkit.sandbox.recogniser.verdict import Creature, Verdict

COLUMNS = {
    "identity": "share of the asked characters that are seen",
    "motion": "share of the asked characters that are seen and do what was asked",
    "style": "share of the asked characters that are seen in their own show's style (in prose, the scene's)",
    "scene_style": "whether the scene has the asked style",
    "interaction": "whether the asked interaction is seen, each role played by the right character",
    "binding": "whether the creatures seen are exactly those asked for, one to one",
    "prompt": "share of all asked facts that hold: who, action, scene, scene style, interaction",
}
"""The meaning of each score of `score_verdict`. All scores are in [0, 1]."""

JUDGE_VERSION = 1
"""Version of the code that computes scores from pixels. Raise it by hand if a change of the recognisers'
code, of `actions.py` or of this file can change a score. Cached scores of other versions are then computed
anew.
"""


@dataclass(frozen=True)
class AskedCreature:
    """One creature that a prompt asks for. Empty values are not asked for.

    Attributes:
        who: Name of a character.
        look: Values of body, colour, pattern and accessory that the prompt mentions.
        action: One of `actions.ACTIONS`.
        style: Rendering style of this creature.
    """

    who: str = ""
    look: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    style: str = ""

    def matches(self, creature: Creature) -> bool:
        """Return whether a recognised creature has this name or look, whatever its action and style."""
        if self.who:
            return creature.who == self.who
        return all(getattr(creature, name) == value for name, value in self.look.items())


@dataclass(frozen=True)
class AskedContent:
    """The content that a prompt asks for: creatures in the order of the prompt, and the scene ("" = none)."""

    creatures: tuple[AskedCreature, ...]
    scene: str = ""
    scene_style: str = ""

    @property
    def interaction(self) -> str:
        """The interaction that the asked actions form, or ""."""
        return actions.find_interaction(tuple(part.action for part in self.creatures))


def _alternatives(words: Mapping[str, object] | Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_ACTION = re.compile(rf"(?:{_alternatives(actions.ACTIONS)})\b")
_SCENE = re.compile(rf"\b(?:in|on|at) the ({_alternatives(scenery.SCENES)})\b")
_STYLE = re.compile(rf"\b({_alternatives(world.STYLES)}) style\b")
_LOOK = (
    rf"[Aa]n? (?:(?P<pattern>{_alternatives(paint.PATTERNS)}) )?"
    rf"(?:(?P<colour>{_alternatives(paint.COLOURS)}) )?(?P<body>{_alternatives(paint.BODIES)})"
    rf"(?: with (?:an? )?(?P<accessory>{_alternatives(paint.ACCESSORIES)}))?"
)
_IGNORED = re.compile(
    rf"\bby the (?:{_alternatives(scenery.PROPS)})\b|\b(?:panning|zooming in)\b|\band\b|[\s,.;]"
)


def parse_prompt(
    prompt: str, cast: Cast, generic_names: Mapping[str, world.Look] | None = None
) -> AskedContent:
    """Parse the content that a prompt asks for.

    In a caption, an action counts if it begins with an action of the sandbox ("waddles to the door"). Its
    other words are ignored. Prose must be understood completely.

    Args:
        prompt: A caption, or prose.
        cast: The cast registry, for character names.
        generic_names: Looks of the generic creatures that have a name in pretraining, by name.

    Raises:
        CastmixError: The prompt names a character that is not one of the sandbox's, or cannot be parsed.
    """
    try:
        for name in TAG.findall(prompt):
            cast.find(name)
    except CastmixError as error:  # more helpful than a message about words that cannot be parsed
        raise CastmixError(f"prompt {prompt!r}: {error}") from error
    found = (
        _parse_prose(prompt, cast, generic_names or {})
        if validate(prompt, cast)
        else _parse_caption(prompt, cast)
    )
    for part in found.creatures:
        if part.who and cast.find(part.who)[0].source != "sandbox":
            raise CastmixError(
                f"prompt {prompt!r}: {part.who} is not a character of the sandbox's shows, and only "
                "these can be scored"
            )
    return found


def _parse_caption(prompt: str, cast: Cast) -> AskedContent:
    caption = parse(prompt, cast)
    does = {clause.name: clause.action for clause in caption.clauses}
    for clause in caption.clauses:
        does |= {name: "" for name in TAG.findall(clause.action) if name not in does}
    creatures = [
        AskedCreature(
            who=name,
            action=begins[0] if (begins := _ACTION.match(text)) else "",
            style=cast.find(name)[0].style,
        )
        for name, text in does.items()
    ]
    return AskedContent(tuple(creatures), _first_match(_SCENE, prompt), caption.style)


def _parse_prose(prompt: str, cast: Cast, generic_names: Mapping[str, world.Look]) -> AskedContent:
    text = SCENE_TAG.sub(r", \1 style", TAG.sub(r"\1", prompt))
    scene, style = _first_match(_SCENE, text), _first_match(_STYLE, text)
    names = _alternatives([*cast.names, *generic_names])
    clause = re.compile(rf"\b(?:{_LOOK}|(?P<name>{names})),? (?P<action>{_ACTION.pattern})")
    creatures = []
    for found in clause.finditer(text):
        look = {name: value for name in ("body", "colour", "pattern", "accessory") if (value := found[name])}
        name, action = found["name"] or "", found["action"]
        if name in cast.names:
            creatures.append(AskedCreature(who=name, action=action, style=cast.find(name)[0].style))
        else:
            creatures.append(
                AskedCreature(look=look or dict(vars(generic_names[name])), action=action, style=style)
            )
    left = text
    for read in (clause, _SCENE, _STYLE, _IGNORED):
        left = read.sub(" ", left)
    if left.strip() or not creatures:
        problem = f"not understood: {left.strip()!r}" if left.strip() else "it asks for no creature"
        raise CastmixError(
            f"prompt {prompt!r} cannot be scored ({problem}): expected a caption, or prose such as "
            "'a red star with a hat jumps in the meadow, cartoon style'"
        )
    return AskedContent(tuple(creatures), scene, style)


def _first_match(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def assign_creatures(seen: Sequence[Creature], asked: Sequence[AskedCreature]) -> tuple[Creature | None, ...]:
    """Assign the creatures seen in a video one-to-one to the creatures that the prompt asks for.

    As many as possible are assigned. Ties (two red stars) are resolved in favour of matching actions, then of
    matching styles.

    Returns:
        For each asked creature, the seen creature assigned to it, or None.
    """
    best: tuple[Creature | None, ...] = (None,) * len(asked)
    most = (0, 0, 0)
    for chosen in itertools.permutations([*seen, *best], len(asked)):
        pairs = [(part, one) for part, one in zip(asked, chosen, strict=True) if one is not None]
        if all(part.matches(one) for part, one in pairs):
            right = sum(one.action == part.action for part, one in pairs)
            worth = (len(pairs), right, sum(one.style == part.style for part, one in pairs))
            if worth > most:
                best, most = chosen, worth
    return best


def score_verdict(verdict: Verdict, asked: AskedContent) -> dict[str, float | None]:
    """Return the scores of one video (see `COLUMNS`), 0 to 1; None if the prompt does not ask for it."""
    cast = list(zip(asked.creatures, assign_creatures(verdict.creatures, asked.creatures), strict=True))
    seen = [float(one is not None) for _, one in cast]
    does = [float(one is not None and one.action == part.action) for part, one in cast if part.action]
    styles = [float(one is not None and one.style == part.style) for part, one in cast if part.style]
    scene = [float(verdict.scene == asked.scene)] if asked.scene else []
    scene_style = [float(verdict.scene_style == asked.scene_style)] if asked.scene_style else []
    roles = actions.INTERACTIONS.get(asked.interaction, ())
    played = [one is not None and one.action == part.action for part, one in cast if part.action in roles]
    interaction = [float(verdict.interaction == asked.interaction and all(played))] if roles else []
    return {
        "identity": _mean(seen),
        "motion": _mean(does),
        "style": _mean(styles),
        "scene_style": _mean(scene_style),
        "interaction": _mean(interaction),
        "binding": float(len(verdict.creatures) == len(seen) and all(seen)),
        "prompt": _mean(seen + does + scene + scene_style + interaction),
    }


def judge_fingerprint(weights: Path) -> str:
    """Return a fingerprint of the judge: the recognisers' weights and `JUDGE_VERSION`.

    Cached scores are valid for one fingerprint. Edits of comments and docstrings do not change it.
    """
    return fingerprint_text(f"{JUDGE_VERSION},{fingerprint_file(weights)}")


def _mean(facts: Sequence[float]) -> float | None:
    return sum(facts) / len(facts) if facts else None
