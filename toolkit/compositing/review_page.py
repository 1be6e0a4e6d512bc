"""The page of all composites: a person looks through them and strikes out the bad ones."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.compositing.output_folder import result
from toolkit.core.files import write_atomic

TEMPLATE = Path(__file__).parent / "review_page.html"


def write_page(
    out: Path,
    made: Sequence[Mapping[str, Any]],
    struck: Sequence[Mapping[str, Any]],
    rejected: Sequence[Mapping[str, Any]],
) -> Path:
    """Write `out/index.html` with the rows of composites that are there, and those that were struck out."""
    from jinja2 import Environment

    cards = [_card(row, result(out, row).relative_to(out).as_posix(), False) for row in made]
    cards += [_card(row, f"struck/{result(out, row).name}", True) for row in struck]
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
    back = row["background"]
    facts = [f"background {back['clip'] or Path(back['path']).name} ({row['style']}, {back['form']})"]
    for one in row["pasted"]:
        moved = ", camera held still" if one["camera"] is not None else ""
        mirrored = ", mirrored" if one["flip"] else ""
        facts.append(f"{one['name']} from {one['clip']}, {one['scale']:.2f} times as large{mirrored}{moved}")
    if back["camera"] is not None:
        facts.append("goes along with the background's camera")
    facts.append(f"back to front: {', '.join(row['order'])}")
    edge = ", ".join(f"{name} {value:g}" for name, value in row["edge"].items())
    facts.append(f"edge: {edge}; seed {row['seed']}")
    shape = {"ratio": row["width"] / row["height"], "struck": struck}
    return {"id": row["id"], "file": file, "text": row["text"], "facts": facts} | shape
