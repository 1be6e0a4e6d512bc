"""Prompt files, and the benchmark's own: fifty prompts about one character, fifty about two or three.

A prompt file has one JSON object a line: `prompt`, and where they are known `id`, `kind` (single or multi),
`relation` (how the characters' styles and shows relate: inter-style or intra-style, inter-show or
intra-show) and `characters`. Those in ``presets/prompts/`` are made here, from ``templates.yaml`` there.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.core.errors import CastmixError

BENCHMARKS = ("sandbox", "paper")


@dataclass(frozen=True)
class Prompt:
    """A prompt and what is known of it; `relation` and `characters` may be empty."""

    id: str
    prompt: str
    kind: str = ""
    relation: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()


def prompts_folder() -> Path:
    """``presets/prompts/`` beside the package in a checkout, inside it in an installed wheel."""
    package = Path(__file__).resolve().parents[1]
    installed = package / "_data" / "presets"
    return (installed if installed.is_dir() else package.parent / "presets") / "prompts"


def read_prompts(name: str | Path) -> list[Prompt]:
    """Read a prompt file: one of castmix's own by name ("sandbox", "paper"), any other by its path.

    Raises:
        CastmixError: No such file, a line that is no JSON object with a `prompt`, or no prompt at all.
    """
    path = Path(name)
    if path.suffix != ".jsonl":
        path = prompts_folder() / f"{name}.jsonl"
    if not path.is_file():
        raise CastmixError(f"no prompts {str(name)!r}: give {' or '.join(BENCHMARKS)}, or a .jsonl file")
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    prompts = [_read_row(line, number, path) for number, line in lines if line.strip()]
    if not prompts:
        raise CastmixError(f"{path} is empty: expected one JSON object with a `prompt` a line")
    return prompts


def expand(prompts: Sequence[str]) -> list[str]:
    """Replace each "@name" or "@file.jsonl" by the prompts of that file."""
    found: list[str] = []
    for prompt in prompts:
        found += [one.prompt for one in read_prompts(prompt[1:])] if prompt.startswith("@") else [prompt]
    return found


def _read_row(line: str, number: int, path: Path) -> Prompt:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise CastmixError(f"{path}, line {number} is not valid JSON: {error}") from error
    if not isinstance(row, dict) or not isinstance(row.get("prompt"), str) or not row["prompt"].strip():
        raise CastmixError(f"{path}, line {number}: expected an object with a text `prompt`, got {line:.80}")
    relation, characters = (tuple(map(str, row.get(key, ()))) for key in ("relation", "characters"))
    return Prompt(str(row.get("id", number)), row["prompt"], str(row.get("kind", "")), relation, characters)


# Making the benchmark
