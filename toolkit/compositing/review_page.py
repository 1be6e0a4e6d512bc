"""Writes index.html, the page on which a person reviews the composites and strikes out bad ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.compositing.output_folder import output_path
from toolkit.core.files import write_atomic

TEMPLATE = Path(__file__).parent / "review_page.html"


def write_page(
    out: Path,
    made: Sequence[Mapping[str, Any]],
    struck: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `out/index.html` and return its path.

    Args:
        out: The output folder.
        made: Rows of the composites that exist.
        struck: Rows of the composites struck out.
        rejected: Rows of rejected.jsonl.
    """
    from jinja2 import Environment

    cards = [_card(row, output_path(out, row).relative_to(out).as_posix(), False) for row in made]
    cards += [_card(row, f"struck/{output_path(out, row).name}", True) for row in struck]
    reasons = Counter((row["as"], row["reason"]) for row in rejected)
    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))
    html = page.render(
        cards=sorted(cards, key=lambda card: card["id"]),
        rejected=[{"use": use, "reason": why, "count": n} for (use, why), n in reasons.most_common(200)],
        total=len(rejected),
        folder=out.resolve().name,
    )
    write_atomic(out / "index.html", html)
    return out / "index.html"


def _card(row: Mapping[str, Any], file: str, struck: bool) -> dict[str, Any]:
    """What the page shows of one composite."""
    background = row["background"]
    name = background["clip"] or Path(background["path"]).name
    facts = [f"background {name} ({row['style']}, {background['form']})"]
    for one in row["pasted"]:
        moved = ", camera motion removed" if one["camera"] is not None else ""
        mirrored = ", mirrored" if one["flip"] else ""
        facts.append(f"{one['name']} from {one['clip']}, scale {one['scale']:.2f}{mirrored}{moved}")
    if background["camera"] is not None:
        facts.append("pasted characters follow the background's camera")
    facts.append(f"back to front: {', '.join(row['order'])}")
    edge = ", ".join(f"{name} {value:g}" for name, value in row["edge"].items())
    facts.append(f"edge: {edge}; seed {row['seed']}")
    shape = {"ratio": row["width"] / row["height"], "struck": struck}
    return {"id": row["id"], "file": file, "text": row["text"], "facts": facts} | shape
