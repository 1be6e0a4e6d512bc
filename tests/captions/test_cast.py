from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.captions.cast import STYLES, Cast, read_cast, read_shows
from toolkit.core.errors import CastmixError

OWN = """
id: space-cats
name: Space Cats
style: cartoon
characters:
  - name: Nova
    aliases: [Captain Nova]
    look: {body: cat}
  - name: George
"""


def write(folder: Path, text: str, name: str = "own.yaml") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(text, encoding="utf-8")
    return folder


def test_the_built_in_registry_has_the_sandbox_and_the_papers_shows() -> None:
    cast = read_cast()
    sandbox = [show for show in cast.shows if show.source == "sandbox"]
    assert {show.style for show in sandbox} == set(STYLES)
    for show in sandbox:
        for character in show.characters:
            assert set(character.look) == {"body", "colour", "pattern", "accessory"}
            assert character.signature
    assert {"Pixo", "Mimi", "Rufus", "Olga"} <= set(cast.names)
    paper = {show.id: [c.name for c in show.characters] for show in cast.shows if show.source == "paper"}
    assert paper == {
        "mr-bean": ["Mr. Bean"],
        "tom-and-jerry": ["Tom", "Jerry", "Spike"],
        "we-bare-bears": ["Ice Bear", "Grizzly", "Panda"],
        "young-sheldon": ["Sheldon", "Missy", "Mary Cooper", "George Cooper"],
    }
    assert all(c.description for show in cast.shows for c in show.characters)


@pytest.mark.parametrize(
    ("name", "canonical", "show"),
    [
        ("Tom", "Tom", "tom-and-jerry"),
        ("mary", "Mary Cooper", "young-sheldon"),
        ("mr  bean", "Mr. Bean", "mr-bean"),
    ],
)
def test_find_takes_names_and_aliases_in_any_case(name: str, canonical: str, show: str) -> None:
    found, character = read_cast().find(name)
    assert (character.name, found.id) == (canonical, show)


def test_an_unknown_name_or_show_suggests_the_nearest() -> None:
    cast = read_cast()
    with pytest.raises(CastmixError, match=r"'Jery'.*did you mean Jerry"):
        cast.find("Jery")
    with pytest.raises(CastmixError, match=r"there are .*Olga"):
        cast.find("Xyzzyq")
    assert cast.show("Tom and Jerry") == cast.show("TOM-AND-JERRY")
    with pytest.raises(CastmixError, match=r"did you mean mr-bean\?"):
        cast.show("Mister Bean")


def test_a_users_folder_adds_to_the_built_in_registry(tmp_path: Path) -> None:
    cast = read_cast(write(tmp_path, OWN))
    assert cast.find("captain nova")[1].name == "Nova"
    assert cast.find("Tom")[0].id == "tom-and-jerry"
    # "George" is only an alias in the built-in registry, so the user's own George wins.
    assert cast.find("George")[0].id == "space-cats"
    assert cast.find("George Cooper")[0].id == "young-sheldon"
    assert [show.id for show in read_shows(tmp_path)] == ["space-cats"]


def test_the_same_id_replaces_a_built_in_show(tmp_path: Path) -> None:
    text = "{id: tom-and-jerry, name: My Tom, style: cartoon, characters: [{name: Tom, description: mine}]}"
    cast = read_cast(write(tmp_path, text))
    assert cast.find("Tom")[1].description == "mine"
    assert "Jerry" not in cast.names


def test_a_name_that_means_two_characters_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match=r"'Tom' names Tom of Toms.*Tom of Tom and Jerry.*same id"):
        read_cast(write(tmp_path / "a", "{id: toms, name: Toms, style: cartoon, characters: [{name: Tom}]}"))
    two = write(tmp_path / "b", OWN)
    write(two, OWN.replace("space-cats", "more-cats").replace("Space", "More"), "z.yaml")
    with pytest.raises(CastmixError, match=r"z.yaml: 'Nova' names Nova of More Cats.*own.yaml"):
        read_shows(two)
    with pytest.raises(CastmixError, match="'Nova' names George"):
        read_shows(write(tmp_path / "c", OWN.replace("name: George", "{name: George, aliases: [Nova]}")))
    same_id = write(tmp_path / "d", OWN)
    write(same_id, "{id: space-cats, name: Other, style: cartoon, characters: [{name: Io}]}", "z.yaml")
    with pytest.raises(CastmixError, match=r"z.yaml: show: 'space-cats'.*own.yaml has it too"):
        read_shows(same_id)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("style: cartoon", "style: anime", "own.yaml: style: 'anime': expected 'cartoon' or 'realistic'"),
        ("style: cartoon", "stile: cartoon", "unknown key 'stile': did you mean style?"),
        ("aliases:", "alias:", r"characters\[0\]: unknown key 'alias': did you mean aliases"),
        ("name: George", "name: Yes", r"characters\[1\]: name: True: expected text .in quotes"),
        ("name: George", "description: a boy", r"characters\[1\]: name: None: expected text"),
        ("name: George", "name: Geo[rge]", "name: 'Geo.rge.': expected one or more words"),
        ("{body: cat}", "{body: 3}", r"\(Nova\): look: {'body': 3}: expected a mapping"),
        ("[Captain Nova]", "Captain Nova", "aliases: 'Captain Nova': expected a list"),
        ("id: space-cats", "id: Space Cats", "id: 'Space Cats': expected small letters"),
        ("id: space-cats", "id: space-cats\nid: b", "the entry at line 2 has the key 'id' twice"),
        ("look: {body: cat}", "look: {body: cat, body: dog}", "has the key 'body' twice"),
        ("  - name: Nova", "  - [name", "own.yaml: cannot be read as YAML"),
        (OWN[OWN.index("characters") :], "characters: []", "characters: .*at least one character"),
        (OWN, "- a list", "expected the keys id, name"),
    ],
)
def test_errors_name_file_key_value_and_what_was_expected(
    tmp_path: Path, old: str, new: str, message: str
) -> None:
    assert old in OWN
    with pytest.raises(CastmixError, match=message) as caught:
        read_cast(write(tmp_path, OWN.replace(old, new)))
    assert "\n" not in str(caught.value)


def test_a_missing_or_empty_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="no such folder"):
        read_cast(tmp_path / "none")
    with pytest.raises(CastmixError, match=r"has no .yaml file"):
        read_cast(tmp_path)


def test_spellings_map_to_canonical_names() -> None:
    cast = read_cast()
    assert isinstance(cast, Cast)
    assert cast.spellings["Mary"] == "Mary Cooper"
    assert set(cast.spellings.values()) == set(cast.names)
