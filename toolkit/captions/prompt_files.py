"""Reads prompt files: JSON lines with one prompt each.

Each line is an object with the key `prompt` and these optional keys: `id`, `kind` (single or multi),
`relation` (of the characters' styles and shows: inter-style or intra-style, inter-show or intra-show) and
`characters`. `toolkit.captions.benchmark_prompts` generates the files in ``presets/prompts/``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from toolkit.core.errors import CastmixError
from toolkit.core.package_data import presets_folder

BENCHMARKS = ("sandbox", "paper")


@dataclass(frozen=True)
class Prompt:
    """A prompt and its metadata. `kind`, `relation` and `characters` may be empty."""

    id: str
    prompt: str
    kind: str = ""
    relation: tuple[str, ...] = ()
    characters: tuple[str, ...] = ()


def prompts_folder() -> Path:
    """The folder ``presets/prompts/``."""
    return presets_folder() / "prompts"


def read_prompts(name: str | Path) -> list[Prompt]:
    """Read a prompt file: a built-in one by its name ("sandbox", "paper"), any other by its path.

    Raises:
        CastmixError: The file does not exist, has no prompts, or has a line that is not a JSON object with
            the key `prompt`.
    """
    path = Path(name)
    if path.suffix != ".jsonl":
        path = prompts_folder() / f"{name}.jsonl"
    if not path.is_file():
        raise CastmixError(
            f"no prompt file {str(name)!r}: give {' or '.join(BENCHMARKS)}, or the path of a .jsonl file"
        )
    lines = enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
    prompts = [_read_row(line, number, path) for number, line in lines if line.strip()]
    if not prompts:
        raise CastmixError(f"{path} has no prompts: expected one JSON object with the key `prompt` per line")
    return prompts


def expand_prompt_files(prompts: Sequence[str]) -> list[str]:
    """Replace each "@name" or "@file.jsonl" in a list of prompts by the prompts of that file."""
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
        raise CastmixError(
            f"{path}, line {number}: expected a JSON object whose `prompt` is text, got {line:.80}"
        )
    relation, characters = (tuple(map(str, row.get(key, ()))) for key in ("relation", "characters"))
    return Prompt(str(row.get("id", number)), row["prompt"], str(row.get("kind", "")), relation, characters)
