"""Finds phrases (names, nouns) in a text as whole words."""

from __future__ import annotations

import re
from collections.abc import Iterable


def find_phrases(text: str, phrases: Iterable[str]) -> dict[str, list[tuple[int, int]]]:
    """Return the character ranges (start, end) of all occurrences of each phrase. Case matters.

    Phrases match whole words only. Longer phrases are matched first, and matches do not overlap: if both
    "ball" and "red ball" are searched in "a ball chases a red ball", "ball" matches the first word only.
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


def find_phrase(text: str, phrase: str) -> int:
    """Return the start of a phrase's first occurrence as whole words; -1 if there is none. Case matters."""
    return min((start for start, _ in find_phrases(text, [phrase])[phrase]), default=-1)
