"""A folder of composites: its settings, its plan, what was set aside and what a person struck out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import write_atomic
from toolkit.core.progress import say
from toolkit.footage.clips import INDEX

PLAN = "plan.jsonl"
REJECTED = "rejected.jsonl"
SETTINGS = "composite.json"
STRUCK = "struck.txt"
REFERENCES = "references"
RUN = "run.yaml"


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Take a folder for these settings; nothing is written into one that is not free.

    Raises:
        CastmixError: It holds what composite did not make, or was planned with other settings.
    """
    if other := _foreign(out):
        raise CastmixError(
            f"{out} holds {other}, which composite did not make: give composites a folder of their own with "
            "another --out"
        )
    wanted = json.loads(json.dumps(settings))
    path = out / SETTINGS
    before = json.loads(path.read_text("utf-8")) if path.exists() and (out / PLAN).exists() else wanted
    if changed := [name for name in wanted if wanted[name] != before.get(name)]:
        what = ", ".join(f"{name} {_short(before.get(name), wanted[name])}" for name in changed)
        raise CastmixError(
            f"{out} was planned with {what}: give another --out or the same settings, or delete {out / PLAN}"
        )
    write_atomic(path, json.dumps(wanted, indent=1) + "\n")


def _foreign(out: Path) -> str | None:
    """The first thing in a folder that composites would overwrite or mix up, and that is not theirs."""
    if not (out / SETTINGS).exists() and not (out / PLAN).exists():
        if there := [name for name in (REJECTED, RUN, INDEX) if (out / name).exists()]:
            return there[0]
    elif (out / REJECTED).exists():
        rows = (out / REJECTED).read_text("utf-8").splitlines()
        if not all(_has(row, "as") for row in rows):
            return f"a {REJECTED}"
    planned = {row["id"] for row in read_rows(out / PLAN)}
    clips = (path for path in sorted((out / "clips").glob("[!.]*.json")) if path.stem not in planned)
    other = next((path for path in clips if not _has(path.read_text("utf-8"), "composite")), None)
    return f"the clip {other.stem}" if other else None


def _has(text: str, key: str) -> bool:
    """Whether a text is a JSON object with this key."""
    try:
        row = json.loads(text)
    except ValueError:
        return False
    return isinstance(row, dict) and key in row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none where it is not there."""
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            row["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise CastmixError(
                f"{path}, line {number} is no row ({error}): delete the file to make it anew"
            ) from error
        rows.append(row)
    return rows


def write_rows(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a .jsonl file."""
    write_atomic(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def result(out: Path, row: Mapping[str, Any]) -> Path:
    """The video or picture of a row; its json, written last, lies beside it."""
    if row["kind"] == "references":
        return out / REFERENCES / f"{row['id']}.png"
    return out / "clips" / f"{row['id']}.mp4"


def is_made(out: Path, row: Mapping[str, Any]) -> bool:
    """Whether the composite of a row is there."""
    path = result(out, row)
    return path.exists() and path.with_suffix(".json").exists()


def strike_out(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Move what struck.txt names to ``struck/``, and return the rows that are left."""
    path = out / STRUCK
    if not path.exists():
        return list(rows)
    struck = {line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()}
    known = {row["id"]: row for row in rows}
    for name in sorted(struck & known.keys()):
        for file in sorted(result(out, known[name]).parent.glob(f"{name}.*")):
            (out / "struck").mkdir(exist_ok=True)
            file.replace(out / "struck" / file.name)
    if strange := sorted(struck - known.keys()):
        say(f"{path}: {len(strange)} ids are not in this plan, {strange[0]} the first")
    return [row for row in rows if row["id"] not in struck]


def _short(before: Any, now: Any) -> str:
    """What a setting was and is; of a group only what differs."""
    if isinstance(before, dict) and isinstance(now, dict):
        return " ".join(
            f"{key} {before.get(key)} (now {now[key]})" for key in now if before.get(key) != now[key]
        )
    if isinstance(before, list) and isinstance(now, list):
        return f"{', '.join(before) or 'none'} (now {', '.join(now) or 'none'})"
    return f"{before} (now {now})"
