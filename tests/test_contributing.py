"""CONTRIBUTING.md names files, functions and packages that exist."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from docs.draw_packages import ORDER

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "CONTRIBUTING.md").read_text("utf-8")


def named(text: str) -> Iterator[tuple[str, str]]:
    """Each path that a page names, and the function or table behind it: `a/b.py::f`; "" without one.

    Paths stand in the file map (a folder at the margin, its files indented below it), in backticks, and in
    links. Backticks without a slash or a known ending hold something else.
    """
    folder = ""
    for block in re.findall(r"^```\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        for line in filter(None, block.splitlines()):
            path = line.split()[0]
            folder = folder if line.startswith(" ") else path
            yield (f"{folder}{path}" if line.startswith(" ") else path), ""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for code in re.findall(r"`([^`\s<>*]+)`", prose):
        path, _, name = code.partition("::")
        if "/" in path or path.endswith((".md", ".toml")):
            yield path, name
    yield from ((path, "") for path in re.findall(r"\]\(([^)#:]+)\)", prose))


def problems(text: str) -> list[str]:
    """What a page names that does not exist."""
    found = []
    for path, name in named(text):
        if not (ROOT / path).exists():
            found.append(f"{path} does not exist")
        elif name and name not in _names(ROOT / path):
            found.append(f"{path} has no {name}")
    return found


def _names(path: Path) -> set[str]:
    """Functions, classes and variables at the top of a module."""
    names = set()
    for node in ast.parse(path.read_text("utf-8")).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            names.add(node.name)
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return names


def test_all_paths_of_contributing_exist() -> None:
    assert problems(TEXT) == []
    assert len(list(named(TEXT))) > 80


def test_the_file_map_has_all_packages_in_order() -> None:
    listed = [path.split("/")[1] for path, _ in named(TEXT) if re.fullmatch(r"toolkit/\w+/", path)]
    there = [package for package in ORDER if (ROOT / "toolkit" / package).is_dir()]
    assert listed[: len(there)] == there


def test_answers_are_short() -> None:
    """A prompt's way takes at most six files, a training step five, the other answers three."""
    answers = re.findall(r"^\*\*(.+?)\*\*\n\n(.*?)(?=\n\n\*\*|\n\n## )", TEXT, re.DOTALL | re.MULTILINE)
    files = {question: len(re.findall(r"^\d\. ", answer, re.MULTILINE)) for question, answer in answers}
    most = {"How does a prompt become a video?": 6, "What is one training step?": 5}
    assert len(files) == 4
    assert all(1 <= count <= most.get(question, 3) for question, count in files.items()), files


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("see `toolkit/core/file.py`", "toolkit/core/file.py does not exist"),
        ("see `toolkit/core/files.py::reed`", "toolkit/core/files.py has no reed"),
        ("![x](docs/no.svg)", "docs/no.svg does not exist"),
        ("```\ntoolkit/core/  all\n    no.py  what\n```\n", "toolkit/core/no.py does not exist"),
    ],
)
def test_a_wrong_name_is_found(text: str, problem: str) -> None:
    assert problems(text) == [problem]
