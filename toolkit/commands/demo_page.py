"""The demo's page: videos before and after training side by side, captions, the loss curve, the scores."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from toolkit.core.files import write_atomic
from toolkit.footage.clips import Clip

TEMPLATE = Path(__file__).parent / "demo_page.html"


@dataclass(frozen=True)
class Pair:
    """A prompt's videos before and after training, and whom the recogniser saw in each (name → style)."""

    prompt: str
    before: Path
    after: Path
    seen_before: Mapping[str, str]
    seen_after: Mapping[str, str]
    alone: bool


@dataclass(frozen=True)
class Curve:
    """Losses by step, as points "x,y x,y" of a 600x200 picture whose top is `top` and right end `steps`."""

    train: str
    held_back: str
    top: float
    steps: int
    last: float


def curve(metrics: Path) -> Curve:
    """Read the loss curve from a training's metrics.jsonl.

    The training loss is averaged over a twentieth of the run.
    """
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    train = [(int(r["step"]), float(r["loss"])) for r in rows if "loss" in r]
    held = [(int(r["step"]), float(r["val_loss"])) for r in rows if "val_loss" in r]
    steps, window = max(s for s, _ in train), max(1, len(train) // 20)
    smooth = [
        (s, sum(v for _, v in train[max(0, i - window) : i + 1]) / len(train[max(0, i - window) : i + 1]))
        for i, (s, _) in enumerate(train)
    ]
    top = 1.05 * max(v for _, v in smooth + held)

    def points(values: Sequence[tuple[int, float]]) -> str:
        return " ".join(f"{600 * s / steps:.1f},{200 * (1 - v / top):.1f}" for s, v in values)

    return Curve(points(smooth), points(held), top, steps, held[-1][1] if held else smooth[-1][1])


def write_page(
    out: Path, scores: Mapping[str, Any], pairs: Sequence[Pair], clips: Sequence[Clip], losses: Curve
) -> Path:
    """Write `out/index.html`; videos are linked relative to it. Returns its path."""
    from jinja2 import Environment

    page = Environment(autoescape=True).from_string(TEMPLATE.read_text(encoding="utf-8"))

    def link(path: Path) -> str:
        return os.path.relpath(path, out).replace(os.sep, "/")

    html = page.render(
        scores=scores,
        total=sum(scores["seconds"].values()),
        both=[p for p in pairs if not p.alone],
        alone=[p for p in pairs if p.alone],
        clips=clips[:: max(1, len(clips) // 8)][:8],
        losses=losses,
        link=link,
    )
    write_atomic(out / "index.html", html)
    return out / "index.html"


def write_preview(path: Path, pairs: Sequence[Pair], scale: int = 2) -> None:
    """Save a picture: for each pair its prompt, three frames before training and three after."""
    import numpy as np
    from PIL import Image, ImageDraw, ImageFont

    from toolkit.footage.video import read_video

    def strip(video: Path) -> Image.Image:
        frames = read_video(video)[0]
        row = np.concatenate([frames[i] for i in (0, len(frames) // 2, len(frames) - 1)], 1)
        picture = Image.fromarray(row)
        return picture.resize((picture.width * scale, picture.height * scale), Image.Resampling.LANCZOS)

    gap, text = 16, 26
    rows = [(pair.prompt, strip(pair.before), strip(pair.after)) for pair in pairs]
    width, height = rows[0][1].size
    sheet = Image.new("RGB", (2 * width + gap, len(rows) * (height + text) + text), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(15)
    pen.text((4, 4), "before", fill="black", font=font)
    pen.text((width + gap + 4, 4), "after", fill="black", font=font)
    for i, (prompt, before, after) in enumerate(rows):
        top = text + i * (height + text)
        sheet.paste(before, (0, top))
        sheet.paste(after, (width + gap, top))
        pen.text((4, top + height + 4), prompt, fill="black", font=font)
    buffer = BytesIO()
    sheet.save(buffer, "PNG")
    write_atomic(path, buffer.getvalue())
