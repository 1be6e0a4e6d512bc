"""The caption of a composite, by grammar: what each character does, from both parents' captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from toolkit.captions import TAG, Caption, Clause, format
from toolkit.cast import Style

_WHERE = r"""in\ front\ of|in\ the\ (?:middle|centre|center|corner)\ of|at\ the\ (?:end|edge|foot|side)\ of
    |on\ top\ of|next\ to|close\ to|in|on|at|by|near|beside|inside|outside|behind|under|underneath|beneath
    |below|above|against|along|across|among|between"""
_PLACE = re.compile(
    rf"\s*,?\s*\b(?:{_WHERE})\s+(?:the|a|an)\s+[^,]*?(?=,|\s+(?:and|while|as|when|but|then|with)\b|$)",
    re.IGNORECASE | re.VERBOSE,
)


def names_in(caption: Caption) -> list[str]:
    """Everybody whom a caption names: those with a clause, left to right, then those who are mentioned."""
    mentioned = [name for clause in caption.clauses for name in TAG.findall(clause.action)]
    return list(dict.fromkeys([*(clause.name for clause in caption.clauses), *mentioned]))


def without_place(action: str) -> str:
    """The action without the words that say where: "waves in the snow by the fence" → "waves".

    The place stays behind when a character is cut out of it, and so do the things that stand there.
    """
    rest = " ".join(_PLACE.sub("", action).split()).strip(" ,;")
    rest = re.sub(r",\s+(?=and\b)", " ", rest)
    if rest in ("", "is"):
        return "is there" if rest else action
    return re.sub(r"\bis$", "is there", rest)


def compose(style: Style, background: Caption | None, pasted: Mapping[str, str], order: Sequence[str]) -> str:
    """A caption with a clause for each character, left to right.

    Args:
        style: Of the background.
        background: The background's caption: its clauses keep what they say of the place and of each other.
        pasted: The actions of those who are pasted, without places.
        order: Everybody, left to right.
    """
    actions = {clause.name: clause.action for clause in background.clauses} if background else {}
    actions |= pasted
    return format(Caption(tuple(Clause(name, actions[name]) for name in order), style))
