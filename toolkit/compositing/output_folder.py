"""The output folder of `castmix composite`: settings, plan, rejections, and composites struck out by hand."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
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
    """Prepare an output folder for these settings. A folder with other content is not changed.

    Raises:
        CastmixError: It holds files that composite did not write, or was planned with other settings.
    """
    if other := _unrelated_content(out):
        raise CastmixError(
            f"{out} holds {other}, which composite did not make: give composites a folder of their own "
            "with another --out"
        )
    wanted = json.loads(json.dumps(settings))
    path = out / SETTINGS
    before = json.loads(path.read_text("utf-8")) if path.exists() and (out / PLAN).exists() else wanted
    if changed := [name for name in wanted if wanted[name] != before.get(name)]:
        what = ", ".join(f"{name} {_change(before.get(name), wanted[name])}" for name in changed)
        raise CastmixError(
            f"{out} was planned with {what}: choose another --out, use the same settings, "
            f"or delete {out / PLAN}"
        )
    write_atomic(path, json.dumps(wanted, indent=1) + "\n")


def _unrelated_content(out: Path) -> str | None:
    """The first file or clip in a folder that composite did not write and would overwrite or mix up."""
    if not (out / SETTINGS).exists() and not (out / PLAN).exists():
        if present := [name for name in (REJECTED, RUN, INDEX) if (out / name).exists()]:
            return present[0]
    elif (out / REJECTED).exists():
        rows = (out / REJECTED).read_text("utf-8").splitlines()
        if not all(_has_key(row, "as") for row in rows):
            return f"a {REJECTED}"
    planned = {row["id"] for row in read_rows(out / PLAN)}
    clips = (path for path in sorted((out / "clips").glob("[!.]*.json")) if path.stem not in planned)
    other = next((path for path in clips if not _has_key(path.read_text("utf-8"), "composite")), None)
    return f"the clip {other.stem}" if other else None


def _has_key(text: str, key: str) -> bool:
    """Whether a text is a JSON object with this key."""
    try:
        row = json.loads(text)
    except ValueError:
        return False
    return isinstance(row, dict) and key in row


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Read the rows of a .jsonl file; [] if the file does not exist.

    Raises:
        CastmixError: A line is not a JSON object with an `id`.
    """
    if not path.exists():
        return []
    rows = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            row = json.loads(line)
            row["id"]
        except (ValueError, TypeError, KeyError) as error:
            raise CastmixError(
                f"{path}, line {number}: expected a JSON object with an id ({error}): delete the file, the "
                "next run writes it again"
            ) from error
        rows.append(row)
    return rows


def output_path(out: Path, row: Mapping[str, Any]) -> Path:
    """The video or picture of a row. Its json has the same name and is written last."""
    if row["kind"] == "references":
        return out / REFERENCES / f"{row['id']}.png"
    return out / "clips" / f"{row['id']}.mp4"


def is_made(out: Path, row: Mapping[str, Any]) -> bool:
    """Whether the composite of a row is complete."""
    path = output_path(out, row)
    return path.exists() and path.with_suffix(".json").exists()


def strike_out(out: Path, rows: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Move the composites listed in struck.txt to ``struck/`` and return the other rows."""
    path = out / STRUCK
    if not path.exists():
        return list(rows)
    struck = {line.strip() for line in path.read_text("utf-8-sig").splitlines() if line.strip()}
    known = {row["id"]: row for row in rows}
    for name in sorted(struck & known.keys()):
        for file in sorted(output_path(out, known[name]).parent.glob(f"{name}.*")):
            (out / "struck").mkdir(exist_ok=True)
            file.replace(out / "struck" / file.name)
    if unknown := sorted(struck - known.keys()):
        say(f"{path}: ignored {len(unknown)} ids that are not in plan.jsonl; the first is {unknown[0]}")
    return [row for row in rows if row["id"] not in struck]


def _change(before: Any, now: Any) -> str:
    """A setting before and now, as text; only the differing members of a group."""
    if isinstance(before, dict) and isinstance(now, dict):
        return " ".join(
            f"{key} {before.get(key)} (now {now[key]})" for key in now if before.get(key) != now[key]
        )
    if isinstance(before, list) and isinstance(now, list):
        return f"{', '.join(before) or 'none'} (now {', '.join(now) or 'none'})"
    return f"{before} (now {now})"
