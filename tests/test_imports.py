"""Importing and helping is quick because nothing heavy is imported; names mean the same in every order."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import toolkit
from toolkit.cli.click_app import COMMANDS

REPOSITORY = Path(toolkit.__file__).parent.parent
HEAVY = [
    "torch",
    "diffusers",
    "transformers",
    "peft",
    "accelerate",
    "av",
    "scenedetect",
    "cv2",
    "openai",
    "rich",
]


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_help_imports_nothing_heavy() -> None:
    """One process asks for every help text in turn, and names the first command that took a heavy module."""
    code = f"""
import sys
from click.testing import CliRunner
from toolkit.cli.click_app import COMMANDS, castmix

def command_lines(table, before=()):
    yield [*before, "--help"]
    for name, target in table.items():
        if isinstance(target, str):
            yield [*before, name, "--help"]
        else:
            yield from command_lines(target, (*before, name))

asked, taken = [], {{}}
for words in command_lines(COMMANDS):
    result = CliRunner().invoke(castmix(), words)
    assert result.exit_code == 0, result
    asked.append(words)
    for name in {HEAVY}:
        if name in sys.modules:
            taken.setdefault(name, " ".join(words))
print(len(asked), taken)
"""
    count, _, taken = python(code).partition(" ")
    assert int(count) > len(COMMANDS)
    assert taken == "{}"


def test_all_names_resolve() -> None:
    missing = [name for name in toolkit.__all__ if not hasattr(toolkit, name)]
    assert missing == []
    with pytest.raises(AttributeError, match="no attribute 'trian'"):
        _ = toolkit.trian


@pytest.mark.parametrize(
    "first",
    [
        "import toolkit",
        "import toolkit.commands.train",
        "from toolkit.commands.train import train",
        "from toolkit import train",
        "import toolkit.cli.click_app",
    ],
)
def test_a_verb_is_a_function_whatever_was_imported_first(first: str) -> None:
    code = f"""
{first}
import inspect, toolkit, toolkit.commands.train
from toolkit.commands.train import train
from toolkit import train as same
assert toolkit.train is same
assert inspect.unwrap(toolkit.train) is train
assert inspect.signature(toolkit.train) == inspect.signature(train)
assert toolkit.train.__doc__ == train.__doc__
"""
    python(code)


def test_names_that_are_no_verb_resolve_to_their_object() -> None:
    from toolkit.training.settings import Optim

    assert toolkit.Optim is Optim


def test_importing_castmix_imports_nothing_heavy() -> None:
    names = [*HEAVY, "click", "yaml", "toolkit.cli"]
    assert python(f"import sys, toolkit; print([name for name in {names} if name in sys.modules])") == "[]"


def test_old_names_of_verbs_still_work() -> None:
    with pytest.warns(FutureWarning, match=r"toolkit\.invert is now toolkit\.learn_tokens"):
        assert toolkit.invert is toolkit.learn_tokens
    with pytest.warns(FutureWarning, match=r"toolkit\.look_attention is now toolkit\.attention_maps"):
        assert toolkit.look_attention is toolkit.attention_maps
    with pytest.warns(FutureWarning, match=r"toolkit\.motion is now toolkit\.learn_motion"):
        assert toolkit.motion is toolkit.learn_motion


OPTIONAL = {
    ("sam2", "sam2_package.py"),
    ("matplotlib", "status.py"),
}  # extras; the files say how to install them


def test_every_import_is_a_declared_dependency() -> None:
    declared = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["dependencies"]
    names = {re.match(r"[\w-]+", line)[0].lower() for line in declared}  # type: ignore[index]
    names |= {name.removesuffix("-headless") for name in names}  # the same package with windows is as good
    providers = importlib.metadata.packages_distributions()
    missing = {}
    for path in (REPOSITORY / "toolkit").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                tops = {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                tops = {str(node.module).partition(".")[0]}
            else:
                continue
            for top in tops - sys.stdlib_module_names - {"toolkit"}:
                if (top, path.name) in OPTIONAL:
                    continue
                if not names & {name.lower() for name in providers.get(top, [])}:
                    missing[top] = path.name
    assert missing == {}
