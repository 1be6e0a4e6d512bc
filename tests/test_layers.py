"""Packages import only packages before them, and heavy libraries only where they may."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

import toolkit

PACKAGE = Path(toolkit.__file__).parent

ORDER = (
    "core", "footage", "captions", "models", "lora", "segmentation", "compositing", "evaluation", "attention",
    "references", "sampling", "training", "sandbox", "fusion", "commands", "cli", "ui",
)  # fmt: skip
"""A package may import itself and the packages before it."""

CHAINS = ("commands.demo", "commands.learn_motion")
"""Commands that run other commands. No other command imports one."""

ONLY_IMPORTERS = {
    "diffusers": ("models", "sandbox.base_model"),
    "peft": ("lora.layers",),
}


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions included; `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def violations(sources: Mapping[str, str]) -> list[str]:
    """What is wrong in modules, given by dotted name below `toolkit` and source text."""
    found = []
    for module, source in sources.items():
        own = module.partition(".")[0]
        if own not in ORDER:
            found.append(f"{module}: {own} is no package of ORDER")
            continue
        for line, name in imports(ast.parse(source)):
            top, _, inner = name.partition(".")
            where = f"{module}:{line}"
            if not top:
                found.append(f"{where}: relative import, write it out from toolkit")
            elif not any(module.startswith(importer) for importer in ONLY_IMPORTERS.get(top, ("",))):
                found.append(f"{where}: only {' and '.join(ONLY_IMPORTERS[top])} may import {top}")
            if top != "toolkit":
                continue
            other = inner.partition(".")[0]
            if other not in ORDER:
                found.append(f"{where}: imports {name}, which is in no package of ORDER")
            elif ORDER.index(other) > ORDER.index(own):
                found.append(f"{where}: imports {inner}, which lies above {own}")
            elif own == other == "commands" and module not in CHAINS and not _is_own_page(module, inner):
                found.append(f"{where}: imports {inner}, a command like itself")
    return found


def _is_own_page(module: str, inner: str) -> bool:
    """Whether one of two modules is the page of the other: demo and demo_page."""
    return inner.startswith(f"{module}_")


def sources() -> dict[str, str]:
    """All modules in packages, by dotted name below `toolkit`."""
    return {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path.read_text(
            "utf-8"
        )
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE  # `toolkit` itself shows all packages
    }


def test_imports_follow_the_order_of_packages() -> None:
    assert violations(sources()) == []


def test_no_circle_between_modules() -> None:
    """Imports at the top of modules, `if TYPE_CHECKING` included, form no circle."""
    modules = sources()
    edges: dict[str, set[str]] = {}
    for module, source in modules.items():
        edges[module] = set()
        for name in _top_imports(ast.parse(source)):
            inner = name.removeprefix("toolkit.")
            target = inner if inner in modules else inner.rpartition(".")[0]
            if name.startswith("toolkit.") and target in modules and target != module:
                edges[module].add(target)
    waiting = dict(edges)
    while waiting:
        free = [module for module, needed in waiting.items() if not needed & waiting.keys()]
        assert free, f"a circle among {sorted(waiting)}"
        for module in free:
            del waiting[module]


def _top_imports(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.If):
            yield from (name for _, name in imports(node))
        elif isinstance(node, (ast.Import, ast.ImportFrom)):
            yield from (name for _, name in imports(ast.Module([node], [])))


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (
            "core.files",
            "def f():\n    from toolkit.models.registry import MODELS",
            "core.files:2: imports models.registry.MODELS, which lies above core",
        ),
        ("footage.clips", "import toolkit.cli", "footage.clips:1: imports cli, which lies above footage"),
        (
            "commands.train",
            "import toolkit.commands.cache",
            "commands.train:1: imports commands.cache, a command like itself",
        ),
        (
            "commands.train",
            "if TYPE_CHECKING:\n    from toolkit.cli.presets import x",
            "commands.train:2: imports cli.presets.x, which lies above commands",
        ),
        ("training.loop", "from peft import LoraConfig", "training.loop:1: only lora.layers may import peft"),
        (
            "sampling.denoise",
            "import diffusers.utils",
            "sampling.denoise:1: only models and sandbox.base_model may import diffusers",
        ),
        (
            "commands.train",
            "from toolkit import train",
            "commands.train:1: imports toolkit.train, which is in no package of ORDER",
        ),
        ("lora.file", "from .x import train", "lora.file:1: relative import, write it out from toolkit"),
        ("extra.x", "", "extra.x: extra is no package of ORDER"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, message: str) -> None:
    assert violations({module: source}) == [message]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("captions.grammar", "from toolkit.captions.cast import Cast"),
        (
            "models.wan",
            "from diffusers import WanTransformer3DModel\nfrom toolkit.models.weights import locate_weights",
        ),
        ("lora.layers", "import peft\nfrom toolkit.lora.file import Lora"),
        ("commands.demo", "from toolkit.commands.train import train"),
        ("cli.click_app", "from toolkit.cli.presets import read_preset"),
    ],
)
def test_allowed_imports_are_accepted(module: str, source: str) -> None:
    assert violations({module: source}) == []
