from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest

from toolkit.cli.signatures import REQUIRED, bind, convert, describe, groups, item_hint, settings, words


@dataclass(frozen=True)
class Paint:
    """How it is painted.

    Attributes:
        layers: How many, at least 1.
        colour: Its name.
    """

    layers: int = 2
    colour: str = "red"


def build(
    house: Path, *, floors: int, paint: Paint = Paint(layers=3), roof: bool = True
) -> tuple[Path, int, Paint]:
    """Build a house.

    It stands where it was built.

    Args:
        house: The place, a folder
            that exists.
        floors: Storeys, 1 to 9.
        roof: Put one on.

    Returns:
        What was asked for.
    """
    return house, floors, paint


def test_settings_follow_the_signature_and_spread_groups() -> None:
    known = settings(build)
    assert list(known) == ["house", "floors", "paint.layers", "paint.colour", "roof"]
    assert known["house"].default is REQUIRED
    assert known["house"].help == "The place, a folder that exists."
    assert known["paint.layers"].default == 3  # the verb's default, not the class's
    assert known["paint.layers"].help == "How many, at least 1."
    assert known["paint.colour"].hint is str


def test_describe_keeps_prose_and_drops_other_sections() -> None:
    prose, entries = describe(build)
    assert prose == "Build a house.\n\nIt stands where it was built."
    assert set(entries) == {"house", "floors", "roof"}
    assert "asked for" not in entries["roof"]


def test_bind_keeps_defaults_inside_a_group() -> None:
    arguments = bind(build, {"house": Path("a"), "floors": 2, "paint.colour": "blue"})
    assert build(**arguments) == (Path("a"), 2, Paint(layers=3, colour="blue"))


@dataclass(frozen=True)
class Walls:
    """What stands.

    Attributes:
        name: Their material.
        paint: How they are painted.
        height: In metres.
    """

    name: str = "brick"
    paint: Paint = Paint(layers=4)
    height: float = 2.5


def wall_in(*, walls: Walls = Walls(height=3.0), paint: Paint = Paint()) -> tuple[Walls, Paint]:
    """Wall it in."""
    return walls, paint


def test_groups_inside_groups_are_spread_with_the_outermost_default() -> None:
    known = settings(wall_in)
    inside = ["walls.name", "walls.paint.layers", "walls.paint.colour", "walls.height"]
    assert list(known) == [*inside, "paint.layers", "paint.colour"]
    assert known["walls.paint.layers"].default == 4
    assert known["walls.paint.layers"].help == "How many, at least 1."
    assert known["walls.height"].default == 3.0
    assert groups(wall_in) == {"walls": Walls, "walls.paint": Paint, "paint": Paint}


def test_bind_replaces_only_what_is_given_at_every_depth() -> None:
    assert wall_in(**bind(wall_in, {"walls.paint.colour": "blue", "paint.layers": 1})) == (
        Walls(height=3.0, paint=Paint(layers=4, colour="blue")),
        Paint(layers=1),
    )


def test_bind_puts_fields_on_top_of_a_group_given_whole_in_any_order() -> None:
    whole = Walls(name="mud", paint=Paint(layers=9))
    values = {"walls.paint.colour": "blue", "walls.height": 1.0, "walls": whole}
    expected = {"walls": Walls(name="mud", paint=Paint(layers=9, colour="blue"), height=1.0)}
    assert bind(wall_in, values) == expected
    assert bind(wall_in, dict(reversed(values.items()))) == expected
    assert bind(wall_in, {"walls.paint": Paint(colour="green")})["walls"].paint == Paint(colour="green")


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        ("1e-4", float, 1e-4),
        (3, float, 3.0),
        ("12", int, 12),
        ("1e3", int, 1000),
        ("a/b", Path, Path("a/b")),
        (None, float | None, None),
        ("none", int | None, None),
        ("7", int | None, 7),
        ("b", Literal["a", "b"], "b"),
        ("2", Literal[1, 2], 2),
        ("1,2,3,4", tuple[int, int, int, int], (1, 2, 3, 4)),
        ([1, 2], tuple[int, float], (1, 2.0)),
        (["a", "b"], list[Path], [Path("a"), Path("b")]),
        ("a", list[str], ["a"]),
        (("a",), tuple[str, ...], ("a",)),
        ("one", str | list[str], "one"),
        (["one", "two"], str | list[str], ["one", "two"]),
        (False, bool, False),
    ],
)
def test_convert(value: Any, hint: Any, expected: Any) -> None:
    made = convert(value, hint)
    assert made == expected
    assert type(made) is type(expected)


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("many", int, "expected a whole number, got 'many'"),
        (1.5, int, "expected a whole number, got 1.5"),
        (True, int, "expected a whole number, got True"),
        ("fast", float | None, "expected a number or none, got 'fast'"),
        ("c", Literal["a", "b"], "expected one of a, b, got 'c'"),
        ("1,2", tuple[int, int, int, int], "expected 4 values (each a whole number), got '1,2'"),
        (False, str, "expected text, got False"),
        ("yes", bool, "expected true or false, got 'yes'"),
        (["a", 3], list[str], r"expected a list (each text), got ['a', 3]"),
        ("", Path, "expected a path, got ''"),
    ],
)
def test_values_of_the_wrong_type_are_errors(value: Any, hint: Any, message: str) -> None:
    with pytest.raises(ValueError) as caught:  # noqa: PT011  the whole message is compared below
        convert(value, hint)
    assert str(caught.value) == message


def test_types_without_a_text_form_are_refused() -> None:
    with pytest.raises(TypeError, match="a verb cannot take"):
        convert("x", Callable[[int], int])


def test_item_hint() -> None:
    assert item_hint(list[Path]) is Path
    assert item_hint(str | list[str]) is str
    assert item_hint(tuple[int, int]) is None
    assert item_hint(float | None) is None
    assert words(list[Path] | None) == "a list (each a path) or none"
