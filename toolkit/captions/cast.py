"""Who is in which show: the registry in ``character_data/``, one YAML file a show.

Every caption names characters by the names written here, so a name belongs to one character only. A user's
own folder of such files is read on top of the built-in registry (`read_cast`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from toolkit.captions.yaml_fields import check_mapping, load_yaml, read_text, read_texts, wrong
from toolkit.core.choices import did_you_mean, fold, nearest
from toolkit.core.errors import CastmixError
from toolkit.core.package_data import character_data_folder

Style = Literal["cartoon", "realistic"]
STYLES: tuple[Style, ...] = get_args(Style)

SHOW_KEYS = ("id", "name", "style", "description", "source", "scenes", "props", "characters")
CHARACTER_KEYS = ("name", "aliases", "description", "look", "signature", "gait", "references")


@dataclass(frozen=True)
class Character:
    """One character.

    Attributes:
        name: The canonical name, spelt identically in every caption.
        aliases: Other spellings that people use; captions never contain them.
        description: Neutral visible facts that let a captioner recognise the character.
        look: Visible traits by name (``colour: teal``), all of them text.
        signature: What this character is known for doing, as an action ("bows deeply"); may be empty.
        gait: How this character alone gets about ("waddles"); may be empty.
        references: Pictures of the character, in several poses.
    """

    name: str
    aliases: tuple[str, ...] = ()
    description: str = ""
    look: Mapping[str, str] = field(default_factory=dict)
    signature: str = ""
    gait: str = ""
    references: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Show:
    """One show and its characters.

    `source` says where its facts come from; `scenes` are places, `props` things that stand there, in words.
    """

    id: str
    name: str
    style: Style
    characters: tuple[Character, ...]
    description: str = ""
    source: str = ""
    scenes: tuple[str, ...] = ()
    props: tuple[str, ...] = ()


@dataclass(frozen=True)
class Cast:
    """All shows that castmix knows in this run. No name or alias means two characters."""

    shows: tuple[Show, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical names, in the order of the shows."""
        return tuple(character.name for show in self.shows for character in show.characters)

    @property
    def spellings(self) -> dict[str, str]:
        """Every name and alias → the canonical name."""
        return {
            spelling: character.name
            for show in self.shows
            for character in show.characters
            for spelling in (character.name, *character.aliases)
        }

    def find(self, name: str) -> tuple[Show, Character]:
        """The character of this name or alias, in any case, with its show.

        Raises:
            CastmixError: No such character; the message has the nearest names.
        """
        for show in self.shows:
            for character in show.characters:
                if fold(name) in map(fold, (character.name, *character.aliases)):
                    return show, character
        near = nearest(name, self.spellings)
        raise CastmixError(
            f"no character {name!r} in the cast: {did_you_mean(near, self.names)}; "
            "a show of your own is one YAML file in a folder (--cast FOLDER)"
        )

    def show(self, name: str) -> Show:
        """The show of this id or name, in any case.

        Raises:
            CastmixError: No such show; the message has the nearest ids.
        """
        for show in self.shows:
            if fold(name) in (fold(show.id), fold(show.name)):
                return show
        ids = {show.name: show.id for show in self.shows} | {show.id: show.id for show in self.shows}
        near = list(dict.fromkeys(ids[hit] for hit in nearest(name, ids)))
        raise CastmixError(
            f"no show {name!r} in the cast: {did_you_mean(near, [show.id for show in self.shows])}; "
            "a show of your own is one YAML file in a folder (--cast FOLDER)"
        )


def read_cast(folder: Path | None = None) -> Cast:
    """Read the built-in registry and, on top of it, the shows in `folder`.

    The user's folder is the master: a show of the same id replaces the built-in one, and a name that is
    only an alias in the built-in registry becomes the user's. A canonical name in two shows stays an error.

    Args:
        folder: A folder of YAML files like those in ``character_data/``; the built-in registry alone
            when left out.

    Raises:
        CastmixError: A file breaks the format, or one name means two characters.
    """
    built_in = read_shows(character_data_folder())
    if folder is None:
        return Cast(built_in)
    own = read_shows(folder)
    replaced = {show.id for show in own}
    taken = {fold(spelling) for spelling in Cast(own).spellings}
    kept = tuple(_without_aliases(show, taken) for show in built_in if show.id not in replaced)
    _check_unique([*((f"built-in {show.id}", show) for show in kept), *((str(folder), show) for show in own)])
    return Cast(kept + own)


def read_shows(folder: Path) -> tuple[Show, ...]:
    """Read the shows of this one folder, in the order of their file names.

    Raises:
        CastmixError: No such folder, no YAML file in it, or a file that breaks the format (the message names
            file, key, value and what was expected), or a name used twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CastmixError(f"{folder}: no such folder; expected a folder with one YAML file a show")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if not files:
        raise CastmixError(f"{folder}: no .yaml file in it; expected one a show")
    shows = [(str(path), read_show(path)) for path in files]
    _check_unique(shows)
    return tuple(show for _, show in shows)


def read_show(path: Path) -> Show:
    """Read one show from its YAML file; see `read_shows` for what is checked."""
    fields = check_mapping(load_yaml(path), str(path), SHOW_KEYS)
    entries = fields.get("characters")
    if not isinstance(entries, list) or not entries:
        raise wrong(path, "characters", entries, "a list with at least one character")
    show_id = read_text(fields, "id", str(path), required=True)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", show_id):
        raise wrong(path, "id", show_id, "small letters, digits and hyphens, as 'clay-street'")
    style = fields.get("style")
    if style not in STYLES:
        raise wrong(path, "style", style, "'cartoon' or 'realistic'")
    return Show(
        id=show_id,
        name=read_text(fields, "name", str(path), required=True),
        style=style,
        characters=tuple(
            _character(entry, f"{path}: characters[{i}]", path.parent) for i, entry in enumerate(entries)
        ),
        description=read_text(fields, "description", str(path)),
        source=read_text(fields, "source", str(path)),
        scenes=read_texts(fields, "scenes", str(path)),
        props=read_texts(fields, "props", str(path)),
    )


def _character(entry: Any, where: str, folder: Path) -> Character:
    fields = check_mapping(entry, where, CHARACTER_KEYS)
    name = read_text(fields, "name", where, required=True)
    where = f"{where} ({name})"
    aliases = read_texts(fields, "aliases", where)
    for spelling in (name, *aliases):
        # A name stands in "[Character: <name>], <action>": these would make captions ambiguous.
        if re.search(r"^\W|[\[\],\"]", spelling):
            raise wrong(where, "name", spelling, "one or more words, without brackets, quotes or commas")
    look = fields.get("look") or {}
    if not isinstance(look, dict) or not all(isinstance(x, str) for pair in look.items() for x in pair):
        raise wrong(where, "look", look, "a mapping of words to words, as 'colour: teal'")
    references = tuple(folder / name for name in read_texts(fields, "references", where))
    for picture in references:
        if not picture.is_file():
            raise wrong(where, "references", str(picture), "pictures that are there, named from this folder")
    return Character(
        name,
        aliases,
        read_text(fields, "description", where),
        dict(look),
        read_text(fields, "signature", where),
        read_text(fields, "gait", where),
        references,
    )


def _check_unique(shows: list[tuple[str, Show]]) -> None:
    """`shows` are (where it was written, show)."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for where, show in shows:
        for key in {fold(show.id), fold(show.name)}:
            if key in ids:
                raise wrong(where, "show", show.id, f"an id and name of its own, but {ids[key]} has it too")
            ids[key] = where
        for character in show.characters:
            for spelling in (character.name, *character.aliases):
                owner = f"{character.name} of {show.name} ({where})"
                if (other := names.setdefault(fold(spelling), owner)) != owner or (
                    character.name != spelling and fold(character.name) == fold(spelling)
                ):
                    raise CastmixError(
                        f"{where}: {spelling!r} names {character.name} of {show.name}, but also {other}; "
                        "rename one, or give your show the same id to replace the other show"
                    )


def _without_aliases(show: Show, taken: set[str]) -> Show:
    def left(character: Character) -> Character:
        return replace(character, aliases=tuple(x for x in character.aliases if fold(x) not in taken))

    return replace(show, characters=tuple(map(left, show.characters)))
