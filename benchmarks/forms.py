"""Ways to write one caption: with all tags, without some, or as the base model's own prose."""

from __future__ import annotations

import re
from collections.abc import Callable

from toolkit.captions import TAG, Caption, format

PLACE = re.compile(r" (?:in|on|at) the \w+(?: by the \w+)?$")
"""Where a clip plays, at the end of one of its clauses."""


def both(caption: Caption) -> str:
    """The grammar: "[Character: Mimi], jumps in the snow. [scene-style:cartoon]"."""
    return format(caption)


def no_scene_style(caption: Caption) -> str:
    """Without the scene's tag."""
    return format(caption).rpartition(" [scene-style:")[0]


def no_character(caption: Caption) -> str:
    """Names without their tags: "Mimi jumps in the snow. [scene-style:cartoon]"."""
    return f"{none(caption)} [scene-style:{caption.style}]"


def none(caption: Caption) -> str:
    """Without tags, and so without a word on the style: "Mimi jumps in the snow."."""
    return " ".join(f"{clause.name} {_bare(clause.action)}." for clause in caption.clauses)


def prose(caption: Caption) -> str:
    """All that the tags say, in the base's words: "Mimi jumps and Otto walks in the snow, cartoon style"."""
    places = [found[0] for clause in caption.clauses if (found := PLACE.search(clause.action))]
    doings = [f"{clause.name} {PLACE.sub('', _bare(clause.action))}" for clause in caption.clauses]
    return f"{' and '.join(doings)}{''.join(places[:1])}, {caption.style} style"


def _bare(action: str) -> str:
    """An action with the names in it untagged."""
    return TAG.sub(r"\1", action)


FORMS: dict[str, Callable[[Caption], str]] = {
    "both": both,
    "no scene-style": no_scene_style,
    "no character": no_character,
    "none": none,
    "prose": prose,
}
