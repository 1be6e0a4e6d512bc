"""The demo's own parts; the whole of it with few steps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import validate
from toolkit.commands.demo import Prompt, base_clips, demo, demo_prompts, judge
from toolkit.commands.demo_page import curve
from toolkit.footage.video import write_video
from toolkit.sandbox.world import world
from toolkit.sandbox.world.shows import named_looks

SHOWS = [read_cast().show("inkwell-bay"), read_cast().show("clay-street")]


def test_prompts_are_valid_and_enough() -> None:
    prompts = demo_prompts(SHOWS)
    assert sum(p.alone for p in prompts) >= 16
    assert sum(not p.alone for p in prompts) >= 16
    assert len({p.text for p in prompts}) == len(prompts)
    assert all(validate(p.text, read_cast()) == [] for p in prompts)
    for p in (p for p in prompts if not p.alone):
        assert {style for _, style in p.asked} == {"cartoon", "realistic"}


def test_the_judge_scores_what_videos_show(tmp_path: Path) -> None:
    named = named_looks()

    def film(name: str, *actors: tuple[str, str]) -> Path:
        people = [world.Actor(named[n], "sways", s, 0.4 + 0.7 * i) for i, (n, s) in enumerate(actors)]
        write_video(tmp_path / name, world.draw(people, "room", "cartoon")[0], world.FPS)
        return tmp_path / name

    alone = (("Pixo", "cartoon"),)
    both = (("Pixo", "cartoon"), ("Rufus", "realistic"))
    prompts = [
        Prompt("", alone),
        Prompt("", alone),
        Prompt("", both),
        Prompt("", both),
        Prompt("", both),
        Prompt("", both),
    ]
    videos = [
        film("right.mp4", ("Pixo", "cartoon")),
        film("wrong.mp4", ("Mimi", "cartoon")),
        film("both.mp4", ("Pixo", "cartoon"), ("Rufus", "realistic")),
        film("deluded.mp4", ("Pixo", "cartoon"), ("Rufus", "cartoon")),
        film("one.mp4", ("Rufus", "realistic")),
        film("nobody.mp4"),
    ]
    scores = judge(videos, prompts)
    assert (scores["identity"], scores["both_present"], scores["style_kept"]) == (0.5, 0.5, 0.25)


def test_base_clips_are_written_once(tmp_path: Path) -> None:
    base_clips(tmp_path, 3, seed=0)
    first = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "clips").glob("*.mp4")}
    base_clips(tmp_path, 4, seed=0)
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "clips").glob("*.mp4")}
    assert len(again) == 4
    assert first.items() <= again.items()


def test_the_curve_fits_its_picture(tmp_path: Path) -> None:
    rows = [{"step": s, "loss": 1 / s} for s in range(1, 41)] + [{"step": 40, "val_loss": 0.5}]
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    losses = curve(path)
    points = [tuple(map(float, p.split(","))) for p in losses.train.split()]
    assert len(points) == 40
    assert all(0 <= x <= 600 and 0 <= y <= 200 for x, y in points)
    assert points[0][1] < points[-1][1]  # a falling loss goes down the picture
    assert losses.last == 0.5


@pytest.mark.slow
def test_the_demo_runs_through_and_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With few steps, and a judge that says of each side what cannot be mistaken for the other's."""
    told = {
        "before": {"identity": 0.11, "both_present": 0.12, "style_kept": 0.13},
        "after": {"identity": 0.91, "both_present": 0.92, "style_kept": 0.93},
    }

    def verdict(videos: Sequence[Path], prompts: Sequence[Prompt]) -> dict[str, Any]:
        assert all(video.is_file() for video in videos)
        (side,) = {video.parent.name for video in videos}
        return told[side] | {"seen": [{f"{side}-{k}": "cartoon"} for k, _ in enumerate(prompts)]}

    monkeypatch.setattr("toolkit.commands.demo.judge", verdict)
    small = {"steps": 2, "batch_size": 2, "shots": 2, "strangers": 4, "composites": 8}
    small |= {"each": 1, "sample_steps": 1}
    out = tmp_path / "demo"
    page = demo(out, **small)
    scores = json.loads((out / "scores.json").read_text())
    assert scores.pop("seconds").keys() >= {"draw", "composite", "train", "generate", "judge"}
    assert scores == {
        "identity_before": 0.11,
        "identity_after": 0.91,
        "both_present_before": 0.12,
        "both_present": 0.92,
        "style_kept": 0.93,
        "prompts_alone": 2,
        "prompts_both": 2,
        "seed": 0,
    }
    html = page.read_text()
    for side in ("before", "after"):
        videos = [video.relative_to(out).as_posix() for video in (out / side).glob("*.mp4")]
        assert len(videos) == 4
        assert all(video in html for video in videos)
        assert all(f"{side}-{k}" in html for k in range(4))
    lora = out / "lora" / "lora.safetensors"
    written = lora.stat().st_mtime_ns
    assert demo(out, **small) == page
    assert lora.stat().st_mtime_ns == written  # it is not trained again


def test_the_preview_shows_every_pair(tmp_path: Path) -> None:
    from PIL import Image

    from toolkit.commands.demo_page import Pair, write_preview

    black, white = (np.full((5, 64, 96, 3), level, np.uint8) for level in (0, 250))
    write_video(tmp_path / "before.mp4", black, 8)
    write_video(tmp_path / "after.mp4", white, 8)
    pair = Pair("a prompt", tmp_path / "before.mp4", tmp_path / "after.mp4", {}, {}, True)
    write_preview(tmp_path / "preview.png", [pair, pair])
    picture = np.asarray(Image.open(tmp_path / "preview.png"))
    half = picture.shape[1] // 2
    assert picture[30:150, 10 : half - 20].max() < 20
    assert picture[30:150, half + 20 : -10].min() > 235
