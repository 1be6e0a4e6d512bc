"""Names that a person may choose from: the nearest ones to a misspelt name, and errors that list them."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from toolkit.core.errors import CastmixError

T = TypeVar("T")


def fold(name: str) -> str:
    """The name in lower case with single spaces, for comparing."""
    return " ".join(name.split()).casefold()


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Up to three of the `known` words that are most similar to `word`, in any case, best first.

    cutoff: Least similarity by difflib, 0 to 1.
    """
    by_key = {fold(name): name for name in known}
    return [by_key[hit] for hit in difflib.get_close_matches(fold(word), list(by_key), n=3, cutoff=cutoff)]


def did_you_mean(near: Iterable[str], known: Iterable[str]) -> str:
    """The end of an error: the near names, or all known names if none is near."""
    near = list(near)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """The entry of a table.

    Raises:
        CastmixError: No such entry; the message has the nearest names, or all. what: "captioner", "metric", …
    """
    if name in table:
        return table[name]
    raise CastmixError(f"no {what} {name!r}: choose {' or '.join(nearest(name, table) or table)}")
