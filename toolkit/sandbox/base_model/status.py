"""Reports how far a pretraining run without an end is: text, and a plot of its history."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.core.errors import CastmixError
from toolkit.core.files import partial_file
from toolkit.sandbox.base_model import history
from toolkit.sandbox.base_model.background import LOG, failure, running
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
    origin, process = history.read_start(folder), running(folder)
    lines = [f"base in training: {folder}"]
    lines.append(
        _row("process", "not running" if process is None else f"running, {process or 'just started'}")
    )
    if process is None and (why := failure(folder)):
        lines.append(_row("failed", f"{why} (more in {folder / LOG})"))
    lines.append(_row("started from", f"{origin['weights']}, {origin['steps']} steps"))
    lines += _vae(folder) + _loss(folder, origin) + _scores(folder)
    if (folder / "loss.jsonl").exists() or (folder / "scores.jsonl").exists():
        lines.append(_row("plot", draw_history(folder)))
    return "\n".join(lines)


def _row(name: str, text: str) -> str:
    return f"  {name:16}{text}"


def _sheet(folder: Path, name: str, file: str) -> list[str]:
    """Return the line about a contact sheet; none if it is on another machine, where the run came from."""
    path = folder / "sheets" / file
    return [_row(name, str(path))] if path.exists() else []


def _vae(folder: Path) -> list[str]:
    rows = history.read(folder / "vae.jsonl")
    if not rows:
        return []
    last = rows[-1]
    quality = f"first frame {last['first_frame_psnr']} dB, others {last['psnr']} dB on held-back clips"
    return [
        _row("VAE", f"step {last['step']}: {quality}"),
        *_sheet(folder, "reconstructions", f"vae-{last['step']:06d}.png"),
    ]


def _loss(folder: Path, origin: Mapping[str, Any]) -> list[str]:
    step = history.saved_step(folder / "dit.state") or origin["steps"]
    lines = [_row("samples", f"{step * origin['samples_a_step']:,} ({step:,} steps)")]
    if rows := history.read(folder / "loss.jsonl"):
        last, past = rows[-1], [row["loss"] for row in rows[-21:-1]]
        before = f", before {sum(past) / len(past):.4f} (mean of {len(past)} x 100 steps)" if past else ""
        minutes = (time.time() - last["time"]) / 60
        rate = f"{last['rate']} samples a second, {last['rate'] * 3600:,.0f} an hour"
        lines.append(_row("loss", f"{last['loss']:.4f} at step {last['step']:,}{before}"))
        lines.append(_row("rate", f"{rate}, measured {minutes:.0f} minutes ago"))
    return lines


def _scores(folder: Path) -> list[str]:
    rows = history.read(folder / "scores.jsonl")
    if not rows:
        return [_row("scores", "none yet")]
    last = rows[-1]
    lines = [
        *_sheet(folder, "contact sheet", f"dit-{last['step']:06d}.png"),
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
    samples = history.read_start(folder)["samples_a_step"]
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
    try:
        with partial_file(folder / PLOT) as path:
            figure.savefig(path, dpi=80, format="png")
    except OSError as error:
        return f"not drawn, {folder / PLOT} cannot be written: {error}"
    return str(folder / PLOT)


def _curve(panel: Axes, x: Sequence[float], y: Sequence[float], title: str, meaning: str) -> None:
    panel.plot([value / 1e6 for value in x], y, marker="." if len(x) < 60 else "")
    panel.set_title("\n".join([title, *textwrap.wrap(meaning, 34)]), fontsize=8)
    panel.set_xlabel("million samples", fontsize=8)
    panel.tick_params(labelsize=8)
    panel.grid(alpha=0.3)
