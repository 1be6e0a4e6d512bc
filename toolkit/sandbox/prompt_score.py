"""What a prompt asks the sandbox for, and how much of it a video shows.

A prompt is a caption in the grammar, whose characters are known by name, or prose as the base model knows it
("a red star with a hat jumps in the meadow, cartoon style"), whose creatures are known by what is said of
them. What a prompt does not say is not asked: it counts neither for nor against a video.
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
"""What each score of `score` is; all of them 0 to 1."""


@dataclass(frozen=True)
class Part:
    """One creature that a prompt asks for. What is empty is not asked.

    Attributes:
        who: A named character.
        look: body, colour, pattern, accessory, as far as they are said.
        action: One of `actions.ACTIONS`.
        style: How this creature is to be drawn.
    """

    who: str = ""
    look: Mapping[str, str] = field(default_factory=dict)
    action: str = ""
    style: str = ""

    def fits(self, creature: Creature) -> bool:
        """Whether this creature can be the one asked for, whatever it does and however it is drawn."""
        if self.who:
            return creature.who == self.who
        return all(getattr(creature, name) == value for name, value in self.look.items())


@dataclass(frozen=True)
class Asked:
    """All that a prompt asks for: creatures in the order of the prompt, and the scene. "" is not asked."""

    parts: tuple[Part, ...]
    scene: str = ""
    scene_style: str = ""

    @property
    def interaction(self) -> str:
        """The interaction that the asked actions make up, "" if none."""
        return actions.find_interaction(tuple(part.action for part in self.parts))


def _one_of(words: Mapping[str, object] | Sequence[str]) -> str:
    return "|".join(map(re.escape, sorted(words, key=len, reverse=True)))


_ACTION = re.compile(rf"(?:{_one_of(actions.ACTIONS)})\b")
_SCENE = re.compile(rf"\b(?:in|on|at) the ({_one_of(scenery.SCENES)})\b")
_STYLE = re.compile(rf"\b({_one_of(world.STYLES)}) style\b")
_LOOK = (
    rf"[Aa]n? (?:(?P<pattern>{_one_of(paint.PATTERNS)}) )?(?:(?P<colour>{_one_of(paint.COLOURS)}) )?"
    rf"(?P<body>{_one_of(paint.BODIES)})(?: with (?:an? )?(?P<accessory>{_one_of(paint.ACCESSORIES)}))?"
)
_ASIDE = re.compile(rf"\bby the (?:{_one_of(scenery.PROPS)})\b|\b(?:panning|zooming in)\b|\band\b|[\s,.;]")


def asked(prompt: str, cast: Cast, members: Mapping[str, world.Look] | None = None) -> Asked:
    """What a prompt asks for.

    Of a caption's action its beginning counts, if that is an action of the world ("waddles to the door");
    other words are for models that know more. Prose is read to its last word.

    Args:
        prompt: A caption, or prose.
        cast: Whose names may stand in it.
        members: Looks of creatures that the base model knows by name.

    Raises:
        CastmixError: It names a character whom the sandbox cannot draw, or cannot be read.
    """
    try:
        for name in TAG.findall(prompt):
            cast.find(name)
    except CastmixError as error:  # better told as a name than as words that cannot be read
        raise CastmixError(f"prompt {prompt!r}: {error}") from error
    found = _of_prose(prompt, cast, members or {}) if validate(prompt, cast) else _of_caption(prompt, cast)
    for part in found.parts:
        if part.who and cast.find(part.who)[0].source != "sandbox":
            raise CastmixError(f"prompt {prompt!r}: {part.who} is no character of the sandbox's shows")
    return found


def _of_caption(prompt: str, cast: Cast) -> Asked:
    caption = parse(prompt, cast)
    does = {clause.name: clause.action for clause in caption.clauses}
    for clause in caption.clauses:
        does |= {name: "" for name in TAG.findall(clause.action) if name not in does}
    parts = [
        Part(
            who=name,
            action=begins[0] if (begins := _ACTION.match(text)) else "",
            style=cast.find(name)[0].style,
        )
        for name, text in does.items()
    ]
    return Asked(tuple(parts), _first(_SCENE, prompt), caption.style)


def _of_prose(prompt: str, cast: Cast, members: Mapping[str, world.Look]) -> Asked:
    text = SCENE_TAG.sub(r", \1 style", TAG.sub(r"\1", prompt))
    scene, style = _first(_SCENE, text), _first(_STYLE, text)
    names = _one_of([*cast.names, *members])
    clause = re.compile(rf"\b(?:{_LOOK}|(?P<name>{names})),? (?P<action>{_ACTION.pattern})")
    parts = []
    for found in clause.finditer(text):
        look = {name: value for name in ("body", "colour", "pattern", "accessory") if (value := found[name])}
        name, action = found["name"] or "", found["action"]
        if name in cast.names:
            parts.append(Part(who=name, action=action, style=cast.find(name)[0].style))
        else:
            parts.append(Part(look=look or dict(vars(members[name])), action=action, style=style))
    left = text
    for read in (clause, _SCENE, _STYLE, _ASIDE):
        left = read.sub(" ", left)
    if left.strip() or not parts:
        raise CastmixError(
            f"prompt {prompt!r}: {left.strip() or 'nobody is asked for'!r}: expected a caption, or prose as "
            "'a red star with a hat jumps in the meadow, cartoon style'"
        )
    return Asked(tuple(parts), scene, style)


def _first(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[1] if found else ""


def match(creatures: Sequence[Creature], parts: Sequence[Part]) -> tuple[Creature | None, ...]:
    """Who plays which part, one creature at most a part and one part at most a creature; None is nobody.

    As many parts as possible are filled; where there is a choice (two red stars), so that actions, then
    styles come out right.
    """
    best: tuple[Creature | None, ...] = (None,) * len(parts)
    most = (0, 0, 0)
    for chosen in itertools.permutations([*creatures, *best], len(parts)):
        pairs = [(part, one) for part, one in zip(parts, chosen, strict=True) if one is not None]
        if all(part.fits(one) for part, one in pairs):
            right = sum(one.action == part.action for part, one in pairs)
            worth = (len(pairs), right, sum(one.style == part.style for part, one in pairs))
            if worth > most:
                best, most = chosen, worth
    return best


def score(verdict: Verdict, asked: Asked) -> dict[str, float | None]:
    """The scores of one video (see `COLUMNS`), 0 to 1; None where the prompt does not ask for it."""
    cast = list(zip(asked.parts, match(verdict.creatures, asked.parts), strict=True))
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
    """Of all that makes scores of pixels: the recognisers' weights, their code, and this file."""
    here = Path(__file__).parent
    names = ("recognise", "networks", "tracking", "interactions", "verdict")
    code = [*(here / "recogniser" / f"{name}.py" for name in names), here / "world" / "actions.py"]
    code.append(Path(__file__))
    return fingerprint_text(",".join(fingerprint_file(file) for file in [weights, *code]))


def _mean(facts: Sequence[float]) -> float | None:
    return sum(facts) / len(facts) if facts else None
