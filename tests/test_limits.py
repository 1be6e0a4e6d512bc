"""Files, functions and parameter lists stay short."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping

import pytest
from test_layers import sources

FILE, FUNCTION, PARAMETERS = 300, 60, 12
"""Most lines of a file; most lines of a function, docstring included; most parameters of a function."""


def too_long(modules: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Name below `toolkit` and finding, for all modules, given by dotted name and source text."""
    for module, source in modules.items():
        if (lines := source.count("\n")) > FILE:
            yield module, f"{lines} lines, at most {FILE}"
        for node in ast.walk(ast.parse(source)):
            if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                continue
            lines = (node.end_lineno or 0) - node.lineno + 1
            if lines > FUNCTION:
                yield f"{module}.{node.name}", f"{lines} lines, at most {FUNCTION}"
            count = sum(isinstance(part, ast.arg) for part in ast.walk(node.args))
            if count > PARAMETERS:
                yield f"{module}.{node.name}", f"{count} parameters, at most {PARAMETERS}"


def test_files_functions_and_parameter_lists_are_short() -> None:
    assert [f"{name}: {finding}" for name, finding in too_long(sources())] == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("x = 1\n" * 300, []),
        ("x = 1\n" * 301, [("m", "301 lines, at most 300")]),
        ("def f():\n" + "    x = 1\n" * 59, []),
        ("class C:\n    def f():\n" + "        x = 1\n" * 60, [("m.f", "61 lines, at most 60")]),
        ("def f(a, b=1, /, c=2, *d, e, g, h, i, j, k, l, **m): pass", []),
        (
            "def f(a, b=1, /, c=2, *d, e, g, h, i, j, k, l, m, **n): pass",
            [("m.f", "13 parameters, at most 12")],
        ),
    ],
)
def test_long_files_and_functions_are_found(source: str, found: list[tuple[str, str]]) -> None:
    assert list(too_long({"m": source})) == found
