"""Composites of real footage with true masks: a filmed dancer, followed by a camera, in a drawn film."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.commands.composite import composite
from toolkit.compositing.eligible_clips import Choice
from toolkit.compositing.output_folder import read_rows
from toolkit.compositing.placement import Place
from toolkit.compositing.render import render
from toolkit.footage.clips import Clip, write_clip
from toolkit.footage.decoding import VideoReader
from toolkit.footage.masks import mask_path, write_mask
from toolkit.footage.video import read_video, write_video

SIZE = (240, 360)
CAST = """id: davis
name: Davis
style: realistic
characters:
  - name: Dora
    description: a dancer
---
"""
POPEYE = Path(__file__).parents[2] / "docs" / "popeye" / "cast" / "popeye.yaml"


def save(folder: Path, name: str, frames: np.ndarray, fps: float, text: str, masks: list[np.ndarray]) -> None:
    height, width = frames.shape[1:3]
    path = folder / "clips" / f"{name}.mp4"
    clip = Clip(path, text, name, 0.0, (len(frames) - 1) / fps, fps, len(frames), width, height, 0)
    write_video(path, frames, fps)
    if masks:
        write_mask(mask_path(clip, "Dora"), masks, fps)
        clip.extra["masks"] = {"Dora": {"file": mask_path(clip, "Dora").name, "accepted": True}}
    write_clip(folder, clip)


@pytest.fixture(scope="module")
def folders(footage: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Clips of the dancer and of Popeye, half as large as they are, and the cast."""
    import cv2

    made = tmp_path_factory.mktemp("footage")
    dance = footage / "masks" / "dance-twirl"
    popeye = footage / "cartoon" / "popeye_T02.mkv"
    if not dance.is_dir() or not popeye.is_file():
        pytest.skip(f"{dance} or {popeye} is missing")
    frames, fps = read_video(dance / "dance-twirl.mp4")
    small = np.stack([cv2.resize(frame, SIZE[::-1], interpolation=cv2.INTER_AREA) for frame in frames[:25]])
    pictures = [np.asarray(Image.open(path).convert("L")) for path in sorted((dance / "masks").glob("*.png"))]
    masks = [
        cv2.resize(np.where(p >= 128, 255, 0).astype(np.uint8), SIZE[::-1], interpolation=cv2.INTER_AREA)
        for p in pictures[:25]
    ]
    text = "[Character: Dora], twirls in front of an audience. [scene-style:realistic]"
    save(made / "live", "dance", small, fps, text, masks)
    valley = []
    with VideoReader(popeye) as reader:
        for frame in reader:
            if frame.index >= 24 and frame.index % 3 == 0:  # after the first shot, 8 frames a second
                valley.append(frame.rgb(*SIZE))
            if len(valley) == 17:
                break
    text = "[Character: Popeye], stands in a rocky valley. [scene-style:cartoon]"
    save(made / "drawn", "valley", np.stack(valley), 8.0, text, [])
    (made / "cast").mkdir()
    (made / "cast" / "davis.yaml").write_text(CAST.replace("---\n", ""))
    (made / "cast" / "popeye.yaml").write_text(POPEYE.read_text("utf-8"), "utf-8")
    return made / "live", made / "drawn", made / "cast"


def test_a_real_dancer_is_composited_into_a_drawn_background(
    folders: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    live, drawn, cast = folders
    choice = Choice(unmasked=True, three=0, fastest=1.0)
    composite([live, drawn], tmp_path / "out", count=2, cast=cast, choice=choice, place=Place(outside=0))
    back = read_video(drawn / "clips" / "valley.mp4")[0]
    for row in read_rows(tmp_path / "out" / "plan.jsonl"):
        one = row["pasted"][0]
        assert one["name"] == "Dora"
        assert one["camera"] is not None  # the camera goes after her; she must not slide
        assert "twirls. " in row["text"]  # the audience stays behind
        feet = []
        for number, frame in enumerate(render(row, masks=True)):
            alpha = frame.alphas["Dora"]
            np.testing.assert_array_equal(frame.picture[alpha == 0], back[number][alpha == 0])
            assert 0.002 < (alpha > 0).mean() < 0.4
            assert not alpha[:, [0, -1]].any()
            feet.append(np.flatnonzero(alpha.max(1) > 127)[-1])
        assert np.ptp(feet) < 0.2 * SIZE[0]
