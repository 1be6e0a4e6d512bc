"""The cast registry: shows and their characters, read from ``character_data/``, one YAML file per show.

Captions refer to characters by these names. A name therefore belongs to one character only. `read_cast` reads
a user's folder of such files on top of the built-in registry.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from toolkit.captions.yaml_fields import check_mapping, field_error, load_yaml, read_text, read_texts
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
        aliases: Other spellings that people use. Captions never contain them.
        description: Neutral visible facts by which a captioner recognises the character.
        look: Visible traits by name (``colour: teal``), all of them text.
        signature: Characteristic action ("bows deeply"); may be empty.
        gait: Characteristic way of moving ("waddles"); may be empty.
        references: Images of the character in several poses.
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

    Attributes:
        id: Short name in lower case with hyphens.
        name: Title of the show.
        style: Rendering style of the show.
        characters: Its characters.
        description: Description of the show.
        source: Origin of the facts; "sandbox" for the sandbox's shows.
        scenes: Places, in words.
        props: Objects in the scenes, in words.
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
    """All known shows. Each name and alias belongs to one character."""

    shows: tuple[Show, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The canonical names, in the order of the shows."""
        return tuple(character.name for show in self.shows for character in show.characters)

    @property
    def spellings(self) -> dict[str, str]:
        """The canonical name for each name and alias."""
        return {
            spelling: character.name
            for show in self.shows
            for character in show.characters
            for spelling in (character.name, *character.aliases)
        }

    def find(self, name: str) -> tuple[Show, Character]:
        """Find a character by its name or alias, and return its show and the character. Case is ignored.

        Raises:
            CastmixError: There is no such character. The message has the nearest names.
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
        """Find a show by its id or name. Case is ignored.

        Raises:
            CastmixError: There is no such show. The message has the nearest ids.
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

    The user's folder takes precedence: a show with the id of a built-in one replaces it, and a name that is
    an alias in the built-in registry belongs to the user's character. A canonical name in two shows is an
    error.

    Args:
        folder: A folder of YAML files like those in ``character_data/``. Default: the built-in registry only.

    Raises:
        CastmixError: A file is malformed, or one name belongs to two characters.
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
    """Read the shows of one folder, in the order of their file names.

    Raises:
        CastmixError: The folder does not exist or has no YAML file, a file is malformed (the message names
            file, key, value and what was expected), or a name is used twice.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise CastmixError(f"{folder}: no such folder; expected a folder with one YAML file per show")
    files = sorted(path for path in folder.iterdir() if path.suffix in (".yaml", ".yml"))
    if not files:
        raise CastmixError(f"{folder} has no .yaml file; expected one per show")
    shows = [(str(path), read_show(path)) for path in files]
    _check_unique(shows)
    return tuple(show for _, show in shows)


def read_show(path: Path) -> Show:
    """Read one show from its YAML file. Raises the errors of `read_shows`."""
    fields = check_mapping(load_yaml(path), str(path), SHOW_KEYS)
    entries = fields.get("characters")
    if not isinstance(entries, list) or not entries:
        raise field_error(path, "characters", entries, "a list with at least one character")
    show_id = read_text(fields, "id", str(path), required=True)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", show_id):
        raise field_error(path, "id", show_id, "small letters, digits and hyphens, as 'clay-street'")
    style = fields.get("style")
    if style not in STYLES:
        raise field_error(path, "style", style, "'cartoon' or 'realistic'")
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
        # Captions contain names as "[Character: <name>], <action>". These characters would make them
        # ambiguous.
        if re.search(r"^\W|[\[\],\"]", spelling):
            raise field_error(
                where, "name", spelling, "one or more words, without brackets, quotes or commas"
            )
    look = fields.get("look") or {}
    if not isinstance(look, dict) or not all(isinstance(x, str) for pair in look.items() for x in pair):
        raise field_error(where, "look", look, "a mapping of words to words, as 'colour: teal'")
    references = tuple(folder / name for name in read_texts(fields, "references", where))
    for picture in references:
        if not picture.is_file():
            raise field_error(
                where, "references", str(picture), "paths of existing images, relative to the YAML file"
            )
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
    """Raise if an id, name or alias is used twice. `shows` are pairs (origin for messages, show)."""
    names: dict[str, str] = {}
    ids: dict[str, str] = {}
    for where, show in shows:
        for key in {fold(show.id), fold(show.name)}:
            if key in ids:
                raise field_error(where, "show", show.id, f"a unique id and name, but {ids[key]} has it too")
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
