"""Looks up names in tables. Errors suggest the names that are most similar to a misspelt one."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from typing import TypeVar

from toolkit.core.errors import CastmixError

T = TypeVar("T")


def fold(name: str) -> str:
    """Return a name in lower case with single spaces, for comparison."""
    return " ".join(name.split()).casefold()


def nearest(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """Return up to three of the `known` words that are most similar to `word`, best first. Case is ignored.

    cutoff: Smallest similarity by difflib, 0 to 1.
    """
    by_key = {fold(name): name for name in known}
    return [by_key[hit] for hit in difflib.get_close_matches(fold(word), list(by_key), n=3, cutoff=cutoff)]


def did_you_mean(near: Iterable[str], known: Iterable[str]) -> str:
    """Return the end of an error message: the similar names, or all known names if none is similar."""
    near = list(near)
    return f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(known)}"


def choose(table: Mapping[str, T], name: str, what: str) -> T:
    """Return the entry of a table.

    Args:
        table: The entries by name.
        name: The name given by the user.
        what: What the entries are, for the message: "captioner", "metric", …

    Raises:
        CastmixError: There is no such entry. The message has the similar names, or all names.
    """
    if name in table:
        return table[name]
    raise CastmixError(f"no {what} {name!r}: choose {' or '.join(nearest(name, table) or table)}")
