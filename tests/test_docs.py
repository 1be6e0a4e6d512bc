"""The documentation names files, headings and modules that are there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parent.parent
PAGES = [
    *(REPOSITORY / name for name in ("README.md", "CONTRIBUTING.md")),
    *sorted((REPOSITORY / "docs").rglob("*.md")),
    *(REPOSITORY / name / "README.md" for name in ("presets", "character_data")),
]


def page_name(page: Path) -> str:
    return page.relative_to(REPOSITORY).as_posix()


def links(page: Path) -> list[str]:
    """The targets of a page's relative links and pictures."""
    targets = re.findall(r"!?\[[^\]]*\]\(([^)\s]+)\)", page.read_text("utf-8"))
    return [target for target in targets if not re.match(r"[a-z]+:", target)]


def anchors(page: Path) -> set[str]:
    """The names by which links reach the headings of a page, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def is_there(page: Path, target: str) -> bool:
    path, _, anchor = target.partition("#")
    file = page.parent / path if path else page
    return file.exists() and (not anchor or anchor in anchors(file))


def source_names(page: Path) -> set[str]:
    """The paths and dotted names of this repository's code that a page mentions, imports included."""
    text = page.read_text("utf-8")
    paths = re.findall(r"(?<![\w/.])(?:toolkit|benchmarks|tests|notebooks)(?:/[\w.]*\w)+", text)
    dotted = re.findall(r"\btoolkit(?:\.\w+)+", text)
    imports = re.findall(r"^from (toolkit[\w.]*) import (.+)$", text, flags=re.MULTILINE)
    return {*paths, *dotted, *(f"{module}.{name}" for module, names in imports for name in names.split(", "))}


def is_source(name: str) -> bool:
    """Whether a path exists, or a dotted name is a module or something in one."""
    if "/" in name:
        return (REPOSITORY / name).exists()
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = REPOSITORY.joinpath(*parts[:length])
        if path.is_dir() or path.with_suffix(".py").is_file():
            return length == len(parts) or hasattr(
                importlib.import_module(".".join(parts[:length])), parts[length]
            )
    return False


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_and_pictures_are_there(page: Path) -> None:
    assert [target for target in links(page) if not is_there(page, target)] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_code_that_is_named_is_there(page: Path) -> None:
    assert [name for name in sorted(source_names(page)) if not is_source(name)] == []


def test_what_is_not_there_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A page\n[a](gone.md) ![b](gone.png) [c](https://a.org) [d](#a-page) [e](#gone)\n"
        "`toolkit/gone.py`, `toolkit.core.gone`, `toolkit/core/files.py`, `toolkit.core.files.write_atomic`\n"
        "from toolkit.core.files import write_atomic, lost\n"
    )
    assert [target for target in links(page) if not is_there(page, target)] == [
        "gone.md",
        "gone.png",
        "#gone",
    ]
    lost = [name for name in sorted(source_names(page)) if not is_source(name)]
    assert lost == ["toolkit.core.files.lost", "toolkit.core.gone", "toolkit/gone.py"]
