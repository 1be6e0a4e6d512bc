"""Where cells lie and how they came to be: base model, commit, cores."""

from __future__ import annotations

import json
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.store import Store
from benchmarks.study import Cell, Study

REPOSITORY = Path(__file__).resolve().parent.parent
SCORES = "scores.json"

BASES = {"sandbox-1": "e0ada931d41970cc-0f7722a51fc18bf8"}
"""Names of the sandbox's base models and their `base_fingerprint`; others are told as unnamed."""


@dataclass(frozen=True)
class Workplace:
    """Where cells lie, on which base model they run, and by which judge their videos are scored."""

    out: Path
    base: str
    judge: str = ""

    @property
    def store(self) -> Store:
        """What all studies share."""
        return Store(self.out / "store", self.base)

    def folder(self, study: Study, cell: Cell) -> Path:
        """The folder of a cell."""
        return cell.folder(self.out / study.name, self.base)

    def is_done(self, study: Study, cell: Cell) -> bool:
        """Whether a cell's scores are there, which are written last, and are this judge's.

        Else the cell is run, which finds its LoRA and its videos and only judges them.
        """
        path = self.folder(study, cell) / SCORES
        return path.exists() and json.loads(path.read_text()).get("judge", "") == self.judge


def commit() -> str:
    """The commit of the code, with a + where files of it have changed since."""

    def git(*words: str) -> str:
        run = subprocess.run(
            ["git", "-C", str(REPOSITORY), *words], capture_output=True, text=True, check=False
        )
        return run.stdout.strip()

    changed = git("status", "--porcelain", "--", "toolkit", "benchmarks", "character_data", "presets")
    return (git("rev-parse", "--short=10", "HEAD") or "unknown") + ("+" if changed else "")


def cores() -> int:
    """How many CPU cores a cell may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def base_fingerprint() -> str:
    """Of all weights of the sandbox's base model: those that LoRAs belong to, then those that caches do."""
    from toolkit.models.registry import fingerprint

    return f"{fingerprint('sandbox')}-{fingerprint('sandbox', 'encoders')}"


def judge_fingerprint() -> str:
    """Of the recognisers' weights and of all code that makes scores of what they see."""
    from toolkit.core.files import fingerprint_file, fingerprint_text
    from toolkit.sandbox import prompt_score as score
    from toolkit.sandbox.recogniser import recognise

    own = [fingerprint_file(REPOSITORY / "benchmarks" / name) for name in ("edges.py", "mixing.py")]
    return fingerprint_text(",".join([score.judge_fingerprint(recognise.WEIGHTS), *own]))


def base_name(fingerprint: str) -> str:
    """The name under which a base model's weights are known."""
    return next((name for name, known in BASES.items() if known == fingerprint), "unnamed")
