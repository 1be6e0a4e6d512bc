"""Finds the setting that a short name stands for. Flags, presets and keyword arguments share these rules.

A name is tried in this order, with ``-`` and ``_`` equal:

1. as a full name: ``objective.sigma.shift``;
2. as the end of a full name after a dot: ``sigma.shift`` or ``shift``. Of several, the one in the fewest
   groups; two in equally many groups are an error.

A group's name stands for its first field if that field is called ``name``: ``objective`` is
``objective.name``.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable

from toolkit.core.errors import CastmixError


class SettingNameError(CastmixError):
    """A name that stands for no setting, or for several.

    Attributes:
        reason: What is wrong, with ``{}`` where `names` go.
        names: Full names of the settings that may have been meant.
    """

    def __init__(self, reason: str, names: Iterable[str]) -> None:
        self.reason, self.names = reason, tuple(names)
        super().__init__(self.message(str))

    def message(self, spell: Callable[[str], str]) -> str:
        """The error in words, each name written by `spell`."""
        return self.reason.format(", ".join(map(spell, self.names)))


def resolve(given: str, known: Collection[str]) -> str:
    """The full name of the setting that `given` stands for.

    Args:
        given: A full or short name.
        known: Full names of all settings, in the order of the signature.

    Raises:
        SettingNameError: No setting has this name, or several have.
    """
    full = with_group_names(known)
    wanted = given.replace("-", "_")
    if wanted in full:
        return full[wanted]
    candidates = [name for name in full if name.endswith(f".{wanted}")]
    fewest = min((name.count(".") for name in candidates), default=0)
    nearest = [name for name in candidates if name.count(".") == fewest]
    if len(nearest) == 1:
        return full[nearest[0]]
    if candidates:
        raise SettingNameError("stands for several settings, write one of {}", candidates)
    inside = [name for name in full.values() if f".{wanted}." in f".{name}"]
    if inside:
        raise SettingNameError("is a group of settings: {}", dict.fromkeys(inside))
    short = spellings(known)
    closest = difflib.get_close_matches(wanted, short, n=1, cutoff=0.0)
    raise SettingNameError("no such setting, did you mean {}?", [short[name] for name in closest])


def spellings(known: Collection[str]) -> dict[str, str]:
    """Every name that stands for one setting, full and short, with the full name."""
    found: dict[str, str] = {}
    for name in with_group_names(known):
        parts = name.split(".")
        for start in range(len(parts)):
            short = ".".join(parts[start:])
            try:
                found[short] = resolve(short, known)
            except SettingNameError:
                continue
    return found


def with_group_names(known: Collection[str]) -> dict[str, str]:
    """All full names and, for ``group.name`` that opens its group, the name ``group``; with the full name."""
    found: dict[str, str] = {}
    opened: set[str] = set()
    for name in known:
        group, _, field = name.rpartition(".")
        if field == "name" and group and group not in opened:
            found[group] = name
        found[name] = name
        parts = name.split(".")
        opened |= {".".join(parts[:end]) for end in range(1, len(parts))}
    return found
