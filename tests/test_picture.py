"""docs/packages.svg shows the imports as they are."""

from __future__ import annotations

import ast
from xml.etree import ElementTree

import pytest
from test_layers import sources

from docs.draw_packages import SVG, arrows, draw, is_implied

MODULES = {
    "core": '"""Files. More."""',
    "core.files": "import json",
    "footage": "",
    "footage.clips": "from toolkit.core.files import a, b\nimport toolkit.core.files",
    "footage.video": "def f():\n    from toolkit.core.files import a",
    "cli": "",
    "cli.app": 'COMMANDS = {"cut": "toolkit.footage.clips:cut"}\nfrom toolkit.core.files import a',
}


def test_the_picture_is_up_to_date() -> None:
    same = SVG.read_text("utf-8") == draw(sources())
    assert same, "docs/packages.svg is out of date: run `make picture` and commit the file"


def test_arrows_count_modules_and_see_commands_by_name() -> None:
    assert arrows(MODULES) == {("cli", "core"): 1, ("cli", "footage"): 1, ("footage", "core"): 2}


def test_an_arrow_is_implied_by_a_path() -> None:
    found = arrows(MODULES)
    assert [arrow for arrow in found if is_implied(arrow, found)] == [("cli", "core")]


def test_the_picture_has_a_box_per_package_and_every_arrow() -> None:
    texts = {element.text for element in ElementTree.fromstring(draw(MODULES)).iter()}
    assert {"core", "footage", "cli", "Files. More"} <= texts
    assert {"cli imports core", "cli imports footage", "footage imports core"} <= texts


@pytest.mark.parametrize("package", [name for name in sources() if "." not in name])
def test_the_first_line_of_a_package_fits_its_box(package: str) -> None:
    docstring = ast.get_docstring(ast.parse(sources()[package])) or ""
    assert 0 < len(docstring.partition("\n")[0]) <= 72, (
        f"toolkit/{package}/__init__.py: at most 72 characters"
    )


def test_the_picture_does_not_depend_on_the_length_of_files() -> None:
    longer = {module: source + "\nx = 1\n" * 100 for module, source in MODULES.items()}
    assert draw(longer) == draw(MODULES)
