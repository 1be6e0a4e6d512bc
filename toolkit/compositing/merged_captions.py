"""The caption of a composite, by grammar: what each character does, from both parents' captions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from toolkit.captions.cast import Style
from toolkit.captions.grammar import TAG, Caption, Clause, format

_CLEAR = r"""through|into|onto|past|towards?|around|across|along|behind|beside|beneath|near|under|underneath
    |between|among|inside|outside|below|above|against"""
_WHERE = rf"""in\ front\ of|in\ the\ (?:middle|centre|center|corner)\ of|at\ the\ (?:end|edge|foot|side)\ of
    |on\ top\ of|next\ to|close\ to|in\ and\ out\ of|out\ of|up\ and\ down|up\ to|(?:all\ )?over|all\ around
    |in|on|at|by|from|off|up|down|{_CLEAR}"""
_BARE = r"""(?:in|on|at|from|through|into|onto|over|across|under|between|among|past)\s+(?:[a-z-]+\s+)?
    (?:snow|rain|fog|mud|sand|grass|water|sunlight|moonlight|darkness|stage|home|bed|school|work|church|town
    |space|traffic|prison|jail|woods|trees|fields|puddles|buildings|rooftops|stairs|clouds|ruins)"""
_STOP = r"(?:and|while|as|when|but|then|with)\b"
_PLACE = re.compile(
    rf"""\s*,?\s*\b(?:
    (?P<where>(?:{_WHERE})\s+(?:the|a|an)|(?:{_CLEAR})\s+(?:two|three|some|several|many))\s+
    (?!(?:same\ time|time|moment|air|hurry|circle|row|phone)\b)[^,]*?(?=,|\s+{_STOP}|$)
    |(?P<bare>{_BARE})\b|(?:in|out)doors\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_AIMED = re.compile(
    rf"""\b(?:look|star|gaz|glanc|glar|peer|peek|squint|point|aim|smil|grinn?|laugh|wav|nodd?|wink|blink|frown
    |shout|yell|scream|bark|growl|hiss|throw|shoot|swip)(?:s|e|es|ing|ed)?(?:\s+(?!{_STOP})[\w'-]+){{0,3}}\s+at\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Verbs that have an aim: "looks straight at the camera", "points a finger at a sign"."""
_PARTED = re.compile(
    r"""\b(?:(?:(?:hand|pick|knock|lift|hold|throw|pull|bring)(?:s|ing)?|puts?|putting|takes?|taking|tips|tipping
    |tries|trying)\s+(?:up|down|over|off|on)
    |(?:(?:turn|switch)(?:s|es|ing)?|flips|flipping)\s+(?:on|off|over|into)
    |(?:chang|transform|morph|burst)(?:s|es|ing)?\s+into)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Verbs of two words: "hands over a gift", "puts on a hat", "turns into a frog"."""


def names_in(caption: Caption) -> list[str]:
    """Everybody whom a caption names: those with a clause, left to right, then those who are mentioned."""
    mentioned = [name for clause in caption.clauses for name in TAG.findall(clause.action)]
    return list(dict.fromkeys([*(clause.name for clause in caption.clauses), *mentioned]))


def without_place(action: str) -> str:
    """The action without the words that say where: "waves in the snow by the fence" → "waves".

    The place stays behind when a character is cut out of it, and so do the things that stand there. What an
    action aims at stays: "looks at the camera in the snow" → "looks at the camera". A rule of prepositions
    and not of meaning: places with a name or an owner ("in Paris", "in his room"), or after "to", stay.
    """
    rest, at = action, 0
    while match := _PLACE.search(rest, at):
        kind = match.lastgroup
        if kind and _is_of_verb(rest, match.start(kind)):
            at = match.end(kind)
        else:
            rest, at = rest[: match.start()] + rest[match.end() :], match.start()
    rest = " ".join(rest.split()).strip(" ,;")
    rest = re.sub(r",\s+(?=and\b)", " ", rest)
    rest = re.sub(r"\s+(?:and|or|but|then|while|as)$", "", rest)
    if rest in ("", "is"):
        return "is there" if rest else action
    return re.sub(r"\bis$", "is there", rest)


def _is_of_verb(text: str, start: int) -> bool:
    """Whether the preposition that starts there belongs to the verb before it, and not to a place."""
    end = text.find(" ", start)
    return any(verb.end() == end for rule in (_AIMED, _PARTED) for verb in rule.finditer(text, 0, end))


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
