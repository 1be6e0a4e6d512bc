"""Where names and nouns stand in a text."""

from __future__ import annotations

import re
from collections.abc import Iterable


def find_phrases(text: str, phrases: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """The ranges of characters (start, end) of each phrase, as whole words and as written.

    Longer phrases come first and no part of them is another's: in "a ball chases a red ball", "ball" is the
    first one if "red ball" is looked for, too.
    """
    found: dict[str, list[tuple[int, int]]] = {phrase: [] for phrase in phrases}
    taken: list[tuple[int, int]] = []
    for phrase in sorted(filter(None, found), key=len, reverse=True):
        for one in re.finditer(rf"(?<!\w){re.escape(phrase)}(?!\w)", text):
            start, end = one.span()
            if all(end <= first or start >= last for first, last in taken):
                found[phrase].append((start, end))
        taken += found[phrase]
    return found
