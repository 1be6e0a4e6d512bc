"""Ways to write one caption: with all tags, without some, or as the base model's own prose."""

from __future__ import annotations

import re
from collections.abc import Callable, Container, Mapping

from toolkit.captions.grammar import TAG, Caption, format

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
    return _prose(caption, {})


def noun(caption: Caption, named: Container[str]) -> str:
    """Prose with nouns: "a Mimi bear jumps and a spotted blue box with glasses walks in the snow, ...".

    So VideoMage names a subject: a word of its own and a noun that the base knows. Who is not `named` is
    described.
    """
    from toolkit.sandbox.world.population import describe
    from toolkit.sandbox.world.shows import named_looks

    looks = named_looks().items()
    return _prose(
        caption, {name: f"a {name} {look.body}" if name in named else describe(look) for name, look in looks}
    )


def _prose(caption: Caption, words: Mapping[str, str]) -> str:
    def said(text: str) -> str:
        return TAG.sub(lambda found: words.get(found[1], found[1]), text)

    places = [found[0] for clause in caption.clauses if (found := PLACE.search(clause.action))]
    doings = [
        f"{words.get(clause.name, clause.name)} {PLACE.sub('', said(clause.action))}"
        for clause in caption.clauses
    ]
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
