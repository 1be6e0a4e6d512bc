"""Merges the captions of a composite's clips: one clause per character, by the caption grammar."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from toolkit.captions.cast import Style
from toolkit.captions.grammar import TAG, Caption, Clause, format

_ALWAYS_PLACE = r"""through|into|onto|past|towards?|around|across|along|behind|beside|beneath|near|under
    |underneath|between|among|inside|outside|below|above|against"""
_PREPOSITION = rf"""in\ front\ of|in\ the\ (?:middle|centre|center|corner)\ of
    |at\ the\ (?:end|edge|foot|side)\ of|on\ top\ of|next\ to|close\ to|in\ and\ out\ of|out\ of
    |up\ and\ down|up\ to|(?:all\ )?over|all\ around|in|on|at|by|from|off|up|down|{_ALWAYS_PLACE}"""
_PLACE_WITHOUT_ARTICLE = r"""(?:in|on|at|from|through|into|onto|over|across|under|between|among|past)\s+
    (?:[a-z-]+\s+)?(?:snow|rain|fog|mud|sand|grass|water|sunlight|moonlight|darkness|stage|home|bed|school|work|church|town
    |space|traffic|prison|jail|woods|trees|fields|puddles|buildings|rooftops|stairs|clouds|ruins)"""
_NEXT_PART = r"(?:and|while|as|when|but|then|with)\b"
_PLACE = re.compile(
    rf"""\s*,?\s*\b(?:
    (?P<where>(?:{_PREPOSITION})\s+(?:the|a|an)|(?:{_ALWAYS_PLACE})\s+(?:two|three|some|several|many))\s+
    (?!(?:same\ time|time|moment|air|hurry|circle|row|phone)\b)[^,]*?(?=,|\s+{_NEXT_PART}|$)
    |(?P<bare>{_PLACE_WITHOUT_ARTICLE})\b|(?:in|out)doors\b)""",
    re.IGNORECASE | re.VERBOSE,
)
_AT_VERB = re.compile(
    rf"""\b(?:look|star|gaz|glanc|glar|peer|peek|squint|point|aim|smil|grinn?|laugh|wav|nodd?|wink|blink|frown
    |shout|yell|scream|bark|growl|hiss|throw|shoot|swip)(?:s|e|es|ing|ed)?
    (?:\s+(?!{_NEXT_PART})[\w'-]+){{0,3}}\s+at\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Verbs with an object after "at": "looks straight at the camera", "points a finger at a sign"."""
_PHRASAL_VERB = re.compile(
    r"""\b(?:(?:(?:hand|pick|knock|lift|hold|throw|pull|bring)(?:s|ing)?|puts?|putting|takes?|taking|tips|tipping
    |tries|trying)\s+(?:up|down|over|off|on)
    |(?:(?:turn|switch)(?:s|es|ing)?|flips|flipping)\s+(?:on|off|over|into)
    |(?:chang|transform|morph|burst)(?:s|es|ing)?\s+into)\b""",
    re.IGNORECASE | re.VERBOSE,
)
"""Phrasal verbs: "hands over a gift", "puts on a hat", "turns into a frog"."""


def names_in(caption: Caption) -> list[str]:
    """All characters named in a caption: first those with a clause, then those mentioned in an action."""
    mentioned = [name for clause in caption.clauses for name in TAG.findall(clause.action)]
    return list(dict.fromkeys([*(clause.name for clause in caption.clauses), *mentioned]))


def without_place(action: str) -> str:
    """Remove the place from an action: "waves in the snow by the fence" → "waves".

    The place and its objects are not cut out with the character. The object of a verb is kept: "looks at the
    camera in the snow" → "looks at the camera". The rule looks at prepositions, not at meaning: places with a
    name or an owner ("in Paris", "in his room") and places after "to" are kept.
    """
    rest, at = action, 0
    while match := _PLACE.search(rest, at):
        kind = match.lastgroup
        if kind and _belongs_to_verb(rest, match.start(kind)):
            at = match.end(kind)
        else:
            rest, at = rest[: match.start()] + rest[match.end() :], match.start()
    rest = " ".join(rest.split()).strip(" ,;")
    rest = re.sub(r",\s+(?=and\b)", " ", rest)
    rest = re.sub(r"\s+(?:and|or|but|then|while|as)$", "", rest)
    if rest in ("", "is"):
        return "is there" if rest else action
    return re.sub(r"\bis$", "is there", rest)


def _belongs_to_verb(text: str, start: int) -> bool:
    """Whether the preposition at `start` belongs to the verb before it, and not to a place."""
    end = text.find(" ", start)
    return any(
        verb.end() == end for rule in (_AT_VERB, _PHRASAL_VERB) for verb in rule.finditer(text, 0, end)
    )


def merge_captions(
    style: Style, background: Caption | None, pasted: Mapping[str, str], order: Sequence[str]
) -> str:
    """The caption of a composite.

    Args:
        style: Style of the background.
        background: Caption of the background, None if nobody is in it. Its clauses are kept, places included.
        pasted: Action of each pasted character, without the place.
        order: Names of all characters, left to right.
    """
    actions = {clause.name: clause.action for clause in background.clauses} if background else {}
    actions |= pasted
    return format(Caption(tuple(Clause(name, actions[name]) for name in order), style))
