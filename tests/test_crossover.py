"""Composites with true masks: who is pasted, where, and that nothing else changes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from toolkit.caption import caption
from toolkit.captions import validate
from toolkit.cast import read_cast
from toolkit.data import read_clips
from toolkit.prepare import prepare
from toolkit.sandbox import shows, world
from toolkit.sandbox.crossover import alpha, crossovers, paste


def test_pasting_changes_only_what_the_mask_covers() -> None:
    back = np.full((2, 8, 12, 3), 10, np.uint8)
    front = np.full((2, 8, 12, 3), 200, np.uint8)
    mask = np.zeros((2, 8, 12), np.float32)
    mask[:, 2:4, 1:3] = 1
    mask[:, 4, 1] = 0.5
    mixed = paste(back, front, mask, 4)
    assert (mixed[:, 2:4, 5:7] == 200).all()
    assert (mixed[:, 4, 5] == 105).all()
    assert (mixed == 10).sum() == mixed.size - 3 * 2 * (4 + 1)
    np.testing.assert_array_equal(paste(back, front, mask, -20), back)
    np.testing.assert_array_equal(paste(back, front, 0 * mask, 4), back)


def test_crossovers_of_two_shows(tmp_path: Path) -> None:
    episodes = shows.draw(tmp_path / "footage", episodes=1, shots=3)
    size = {"num_frames": world.NUM_FRAMES, "height": world.HEIGHT, "width": world.WIDTH}
    prepare(episodes, tmp_path / "data", fps=world.FPS, crop=shows.BAND_CROP, **size)
    clips = caption(tmp_path / "data", captioner="sidecar")
    cast = read_cast()
    out = crossovers(clips, cast, tmp_path / "out", 4, seed=0)
    made = read_clips(out)
    assert len(made) == 4
    for clip in made:
        assert validate(clip.text, cast) == []
        assert clip.text.count("[Character: ") == 2
        back, front = (next(c for c in clips if c.id == parent) for parent in clip.extra["composite"])
        assert back.text.rpartition("[scene-style:")[2] == clip.text.rpartition("[scene-style:")[2]
        assert back.text.rpartition("[scene-style:")[2] != front.text.rpartition("[scene-style:")[2]
        name = front.text.removeprefix("[Character: ").partition("]")[0]
        assert 0.03 < alpha(front, name).mean() < 0.5
    before = {p.name: p.read_bytes() for p in (out / "clips").iterdir()}
    crossovers(clips, cast, out, 4, seed=0)
    assert before == {p.name: p.read_bytes() for p in (out / "clips").iterdir()}
