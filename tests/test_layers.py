"""Imports run strictly downward, and each heavy library has the importers that it is given here."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import toolkit

PACKAGE = Path(toolkit.__file__).parent

STAGES = 3
LAYERS: dict[str, int] = {
    # Plain tensors and files.
    "errors": 0, "progress": 0, "interrupt": 0, "settings": 0, "run": 0,
    "data": 0, "cast": 0, "captions": 0, "prompts": 0, "sidecars": 0, "sources": 0,
    "decode": 0, "video": 0, "shots": 0, "generated": 0, "page": 0, "masks": 0, "phrases": 0,
    "flow": 0, "lora": 0, "checkpoint": 0, "metrics": 0, "intervals": 0,
    "sandbox.shapes": 0, "sandbox.paint": 0, "sandbox.scenery": 0, "sandbox.actions": 0, "sandbox.world": 0,
    "sandbox.population": 0, "sandbox.recognise": 0, "sandbox.codec": 0,
    "sandbox.recognise_nets": 0, "sandbox.recognise_follow": 0, "sandbox.recognise_together": 0,
    # Models: those that draw, those that watch; and what needs no more than plain things.
    "models": 1, "vlm": 1, "watch": 1, "sandbox.shows": 1, "sandbox.score": 1,
    # Building blocks.
    "tokens": 2, "heads": 2, "appearance": 2, "card": 2, "textual": 2, "crop": 2, "invert": STAGES,
    "adapters": 2, "objectives": 2, "sampling": 2, "dataset": 2, "batches": 2, "preview": 2, "trainer": 2,
    "sandbox.pretrain_data": 2, "sandbox.pretrain_vae": 2, "sandbox.pretrain_dit": 2,
    "sandbox.recogniser_data": 1, "sandbox.recognise_report": 1,
    "sandbox.recogniser_examples": 2, "sandbox.pretrain_recogniser": 2, "sandbox.redraw": 2, "scoring": 2,
    "compositing": 2,
    "collaborate": 2, "guides": 2, "inversion": 2, "branches": 2, "roles": 2,
    "drawing": 2, "rendering": 2,
    "segmentation": 2,
    "fusion": 2,
    "attention": 2, "heat": 0, "looking": 2, "map_probe": 2, "look_attention": STAGES,
    "sandbox.sam2_examples": 1, "sandbox.sam2_net": 2, "sandbox.sam2_follow": 2, "sandbox.sam2_batches": 2,
    "sandbox.sam2_training": 2, "sandbox.sam2_report": 2,
    # Stages: a verb each.
    "prepare": STAGES, "caption": STAGES, "cache": STAGES, "train": STAGES, "generate": STAGES,
    "evaluate": STAGES, "segment": STAGES, "composite": STAGES,
    "fuse": STAGES,
    "sandbox.pretrain": STAGES, "sandbox.report": STAGES, "sandbox.pretrain_sam2": STAGES,
    # Chains of stages.
    "recipes": 4, "motion": 4,
    # Front doors.
    "signatures": 5, "presets": 5, "cli": 5, "__main__": 5,
}  # fmt: skip
"""By module name below `toolkit`; a package stands for all that it holds."""

ONLY_IMPORTERS = {"diffusers": "models", "peft": "adapters"}


def layered(module: str) -> str | None:
    """The entry of LAYERS that a dotted name below `toolkit` belongs to: itself or the nearest package."""
    while module:
        if module in LAYERS:
            return module
        module = module.rpartition(".")[0]
    return None


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Line and dotted name of every import, those inside functions included; `from a import b` as `a.b`."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def violations(sources: dict[str, str]) -> list[str]:
    """What is wrong in a package of modules, given by dotted name below `toolkit` and source text."""
    found = []
    for module, source in sources.items():
        own = layered(module)
        if own is None:
            found.append(f"{module}: has no layer, add it to LAYERS")
            continue
        for line, name in imports(ast.parse(source)):
            top, _, inner = name.partition(".")
            if not top:
                found.append(f"{module}:{line}: relative import, write it out from toolkit")
                continue
            if ONLY_IMPORTERS.get(top, own) != own:
                found.append(f"{module}:{line}: only {ONLY_IMPORTERS[top]} may import {top}")
            other = layered(inner) if top == "toolkit" else None
            if top != "toolkit" or other == own or inner == "__version__":
                continue
            if other is None:
                found.append(f"{module}:{line}: imports {name}, which has no layer")
            elif LAYERS[other] > LAYERS[own]:
                found.append(f"{module}:{line}: imports {other}, which lies above it")
            elif LAYERS[other] == LAYERS[own] == STAGES:
                found.append(f"{module}:{line}: imports {other}, a stage like itself")
    return found


def test_imports_run_downward() -> None:
    sources = {
        ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path.read_text(
            "utf-8"
        )
        for path in PACKAGE.rglob("*.py")
        if path.parent != PACKAGE or path.name != "__init__.py"  # `toolkit` itself shows all layers
    }
    sources.pop("sandbox", None)
    assert violations(sources) == []


@pytest.mark.parametrize(
    ("module", "source", "message"),
    [
        (
            "data",
            "def f():\n    from toolkit.models import MODELS",
            "data:2: imports models, which lies above it",
        ),
        ("data", "from toolkit import models", "data:1: imports models, which lies above it"),
        ("train", "import toolkit.cache", "train:1: imports cache, a stage like itself"),
        (
            "train",
            "if TYPE_CHECKING:\n    from toolkit.presets import x",
            "train:2: imports presets, which lies above it",
        ),
        ("train", "from peft import LoraConfig", "train:1: only adapters may import peft"),
        ("sampling", "import diffusers.utils", "sampling:1: only models may import diffusers"),
        ("train", "import toolkit.extra", "train:1: imports toolkit.extra, which has no layer"),
        ("lora", "from .train import train", "lora:1: relative import, write it out from toolkit"),
        ("extra", "", "extra: has no layer, add it to LAYERS"),
    ],
)
def test_a_planted_violation_is_found(module: str, source: str, message: str) -> None:
    assert violations({module: source}) == [message]


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("captions", "from toolkit.cast import Cast"),
        ("models.wan", "from diffusers import WanTransformer3DModel\nfrom toolkit.models.files import find"),
        ("adapters", "import peft\nfrom toolkit.lora import Lora"),
        ("run", "from toolkit import __version__"),
        ("cli", "from toolkit.presets import read_preset"),
    ],
)
def test_what_is_allowed(module: str, source: str) -> None:
    assert violations({module: source}) == []
