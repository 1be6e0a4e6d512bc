"""Finds the setting that a short name stands for. Flags, presets and keyword arguments share these rules.

A name is tried in this order, with ``-`` and ``_`` equal:

1. as a full name: ``objective.sigma.shift``;
2. as the end of a full name after a dot: ``sigma.shift`` or ``shift``. Of several, the one in the fewest
   groups;
3. as a synonym: ``learning_rate`` is ``lr`` (see `synonyms`).

A name that stands for several settings and is no synonym is an error.

A group's name stands for its first field if that field is called ``name``: ``objective`` is
``objective.name``.
"""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Callable, Collection, Iterable, Mapping

from toolkit.cli.synonyms import missing, synonyms
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
        given: A full name, a short name or a synonym.
        known: Full names of all settings, in the order of the signature.

    Raises:
        SettingNameError: No setting has this name, or several have.
    """
    wanted = given.replace("-", "_")
    full, others = with_group_names(known), synonyms(known)
    if found := _find(wanted, full, others):
        return found
    if inside := dict.fromkeys(name for name in full.values() if f".{wanted}." in f".{name}"):
        raise SettingNameError("is a group of settings: {}", inside)
    if wanted in missing(known):
        reason, instead = missing(known)[wanted]
        raise SettingNameError(reason, [_find(instead, full, {}) or instead])
    short = spellings(known)
    closest = difflib.get_close_matches(wanted, short, n=1, cutoff=0.7)
    if not closest:
        raise SettingNameError("no such setting; the --help of the command lists all settings", ())
    raise SettingNameError("no such setting, did you mean {}?", [short[name] for name in closest])


def spellings(known: Collection[str]) -> dict[str, str]:
    """Every name that stands for one setting, with its full name: full and short names, and synonyms."""
    full, others = with_group_names(known), synonyms(known)
    parts = [name.split(".") for name in full]
    names = [".".join(words[start:]) for words in parts for start in range(len(words))]
    found: dict[str, str] = {}
    for name in dict.fromkeys([*names, *others]):
        with contextlib.suppress(SettingNameError):
            if setting := _find(name, full, others):
                found[name] = setting
    return found


def _find(wanted: str, full: Mapping[str, str], others: Mapping[str, str]) -> str | None:
    """The full name, or None. An error if there are several."""
    several: list[str] = []
    for name in (wanted, others.get(wanted, wanted)):
        if name in full:
            return full[name]
        candidates = [one for one in full if one.endswith(f".{name}")]
        fewest = min((one.count(".") for one in candidates), default=0)
        nearest = [one for one in candidates if one.count(".") == fewest]
        if len(nearest) == 1:
            return full[nearest[0]]
        several = several or candidates
    if several:
        raise SettingNameError("stands for several settings, write one of {}", several)
    return None


def with_group_names(known: Collection[str]) -> dict[str, str]:
    """Accepted name to full name: the full names, and a group whose first field is ``name``."""
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
