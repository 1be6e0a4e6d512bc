"""Reports how far a pretraining run without an end is: text, and a plot of its history."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from toolkit.core.errors import CastmixError
from toolkit.core.files import partial_file
from toolkit.sandbox.base_model import history
from toolkit.sandbox.base_model.background import running
from toolkit.sandbox.base_model.quick_score import SCORES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PLOT = "history.png"


def report(folder: Path) -> str:
    """Return the report of a run, and save its plot as `history.png` in its folder.

    Raises:
        CastmixError: The folder has no run.
    """
    folder = folder.expanduser()
    if not (folder / "start.json").exists():
        if running(folder):
            return f"base in training: {folder}\n  starting"
        raise CastmixError(
            f"{folder} has no training of the base: start one with "
            f"`castmix sandbox pretrain --background --out {folder}`"
        )
    process = running(folder)
    lines = [
        f"base in training: {folder}",
        _row("process", f"{process}, running" if process else "not running"),
    ]
    origin = json.loads((folder / "start.json").read_text())
    lines.append(_row("started from", f"{origin['weights']}, {origin['steps']} steps"))
    lines += _vae(folder) + _loss(folder, origin["samples_a_step"]) + _scores(folder)
    if (folder / "loss.jsonl").exists() or (folder / "scores.jsonl").exists():
        lines.append(_row("plot", draw_history(folder)))
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    return f"  {name:14} {text}"


def _vae(folder: Path) -> list[str]:
    rows = history.read(folder / "vae.jsonl")
    if not rows:
        return []
    last = rows[-1]
    return [
        _row(
            "VAE", f"step {last['step']}: first frame {last['first_frame_psnr']} dB, others {last['psnr']} dB"
        ),
        _row("", f"pictures and reconstructions: {folder / 'sheets'}/vae-{last['step']:06d}.png"),
    ]


def _loss(folder: Path, samples: int) -> list[str]:
    rows = history.read(folder / "loss.jsonl")
    if not rows:
        return [_row("samples", "0")]
    last = rows[-1]
    before = rows[max(0, len(rows) - 21) : -1] or rows
    mean = sum(row["loss"] for row in before) / len(before)
    minutes = (time.time() - last["time"]) / 60
    return [
        _row("samples", f"{last['step'] * samples:,} ({last['step']:,} steps), {minutes:.0f} minutes ago"),
        _row("loss", f"{last['loss']:.4f} (mean of the {len(before)} rows before: {mean:.4f})"),
        _row("rate", f"{last['rate']} samples a second, {last['rate'] * 3600:,.0f} an hour"),
    ]


def _scores(folder: Path) -> list[str]:
    rows = history.read(folder / "scores.jsonl")
    if not rows:
        return [_row("scores", "none yet")]
    last = rows[-1]
    lines = [
        _row("contact sheet", f"{folder / 'sheets'}/dit-{last['step']:06d}.png"),
        _row("scores", f"at step {last['step']:,}, {last['prompts']} prompts of each kind"),
        f"    {'':21} first   best   now",
    ]
    for name, meaning in SCORES.items():
        if values := [row[name] for row in rows if name in row]:
            first, best, now = values[0], max(values), values[-1]
            lines.append(f"    {name:21} {first:5.2f}  {best:5.2f}  {now:5.2f}  {meaning}")
    return lines


def draw_history(folder: Path) -> str:
    """Plot the loss and every score over the samples. Returns the path, or what is missing for a plot."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        return "not drawn, it needs matplotlib: pip install 'castmix[ui]'"
    samples = json.loads((folder / "start.json").read_text())["samples_a_step"]
    losses, scores = history.read(folder / "loss.jsonl"), history.read(folder / "scores.jsonl")
    figure = Figure(figsize=(15, 9), layout="constrained")
    panels = figure.subplots(3, 5).flatten()
    _curve(panels[0], [samples * row["step"] for row in losses], [row["loss"] for row in losses], "loss", "")
    for panel in panels[len(SCORES) + 1 :]:
        panel.set_axis_off()
    for panel, (name, meaning) in zip(panels[1:], SCORES.items(), strict=False):
        rows = [row for row in scores if name in row]
        _curve(panel, [samples * row["step"] for row in rows], [row[name] for row in rows], name, meaning)
        panel.set_ylim(0, 1.05 if name != "first_frame_psnr" else None)
    with partial_file(folder / PLOT) as path:
        figure.savefig(path, dpi=80, format="png")
    return str(folder / PLOT)


def _curve(panel: Axes, x: Sequence[float], y: Sequence[float], title: str, meaning: str) -> None:
    panel.plot([value / 1e6 for value in x], y, marker="." if len(x) < 60 else "")
    panel.set_title(f"{title}\n{meaning}" if meaning else title, fontsize=9)
    panel.set_xlabel("million samples", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
