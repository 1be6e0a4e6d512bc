"""segment on drawn episodes: two who cross, and one who leaves and comes back; the truth is known."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray

from toolkit.captions.cast import Character, read_cast
from toolkit.cli.click_app import castmix
from toolkit.commands.prepare import prepare
from toolkit.commands.segment import DETECTORS, OVERLAYS, REJECTED, RUN, SEGMENTERS, segment
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip, read_clips, write_clip
from toolkit.footage.disk_arrays import DiskArrays
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask, write_mask
from toolkit.footage.video import probe
from toolkit.sandbox.true_masks import true_mask
from toolkit.sandbox.world import shows, world
from toolkit.segmentation.interfaces import Detect, Options, Prompt, Propagate, StoreMask
from toolkit.segmentation.manual_prompts import read_prompts
from toolkit.segmentation.mask_iou import box_of, region_iou
from toolkit.segmentation.overlay import paint
from toolkit.segmentation.quality_gates import Gates, measure_quality

CAST = read_cast()
CROSS = "[Character: Pixo], walks. [Character: Mimi], walks. [scene-style:cartoon]"
AWAY = "[Character: Pixo], walks. [scene-style:cartoon]"


def draw_walk(path: Path, ways: Mapping[str, NDArray[np.float64]]) -> None:
    """An episode in which everybody walks as told (in picture heights, eight places a second), with truth."""
    frames, masks = [], []
    for places in zip(*ways.values(), strict=True):
        actors = [
            world.Actor(
                world.look_of(CAST.find(name)[1].look), "stands still", "cartoon", float(x), name=name
            )
            for name, x in zip(ways, places, strict=True)
        ]
        picture, visible = world.draw(
            actors, "meadow", "cartoon", seconds=np.zeros(1), height=shows.HEIGHT, width=shows.WIDTH
        )
        frames += [np.pad(picture[0], ((0, shows.BAND), (0, 0), (0, 0)))] * 3
        masks += [visible[:, 0]] * 3
    packed = {
        f"00000 {name}": np.packbits(np.stack(masks)[:, number], axis=-1) for number, name in enumerate(ways)
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path.with_suffix(".masks.npz"), allow_pickle=False, **packed)
    shows.write_video(path, np.stack(frames), shows.FPS)


@pytest.fixture(scope="session")
def walks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips: in `a_cross` Pixo and Mimi cross, in `b_away` Pixo leaves and comes back."""
    root = tmp_path_factory.mktemp("walks")
    t = np.linspace(0, 1, 17)
    draw_walk(root / "footage" / "a_cross.mp4", {"Pixo": 0.3 + 0.9 * t, "Mimi": 1.2 - 0.9 * t})
    away = 0.9 + 1.4 * (1 - np.abs(2 * t - 1))
    draw_walk(root / "footage" / "b_away.mp4", {"Pixo": away})
    size = {"num_frames": world.NUM_FRAMES, "height": world.HEIGHT, "width": world.WIDTH}
    clips = prepare([root / "footage"], root / "data", fps=world.FPS, crop=shows.BAND_CROP, **size)
    assert [clip.source.rpartition("/")[2] for clip in clips] == ["a_cross.mp4", "b_away.mp4"]
    for clip, text in zip(clips, (CROSS, AWAY), strict=True):
        write_clip(root / "data", replace(clip, text=text))
    return root / "data"


@pytest.fixture
def folder(walks: Path, tmp_path: Path) -> Path:
    shutil.copytree(walks, tmp_path / "data")
    return tmp_path / "data"


def rejected(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / REJECTED).read_text("utf-8").splitlines()]


def test_true_masks_are_written_judged_and_shown(folder: Path) -> None:
    good = segment(folder, backend="truth")
    cross, away = read_clips(folder)
    assert [clip.id for clip in good] == [cross.id]
    assert accepted_mask_names(cross) == ["Pixo", "Mimi"]
    for name in ("Pixo", "Mimi"):
        record = cross.extra["masks"][name]
        np.testing.assert_array_equal(read_mask(mask_path(cross, name)), true_mask(cross, name))
        assert (record["file"], record["backend"]) == (mask_path(cross, name).name, "truth")
        assert record["prompt"]["box"]
        assert record["quality"]["lost"] == record["quality"]["shared"] == 0
    overlay = probe(folder / OVERLAYS / f"{cross.id}.mp4")
    assert (overlay.num_frames, overlay.width, overlay.height) == (17, 96 * 4, 64 * 4)
    record = away.extra["masks"]["Pixo"]
    assert record["accepted"] is False
    assert (record["quality"]["reentries"], record["quality"]["vanished"]) == (1, 0)
    assert read_mask(mask_path(away, "Pixo")).shape == (17, 64, 96)
    rows = rejected(folder)
    assert [(row["file_name"], row["character"]) for row in rows] == [(f"clips/{away.path.name}", "Pixo")]
    assert rows[0]["reasons"] == record["reasons"]
    assert rows[0]["quality"] == record["quality"]
    assert any(reason.startswith("lost 0.") for reason in record["reasons"])
    assert (folder / RUN).exists()
    assert '"masks"' in (folder / "metadata.jsonl").read_text("utf-8")


def test_existing_masks_are_checked_again_without_a_model(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    segment(folder, backend="truth")
    assert "2 of 3 accepted" in capsys.readouterr().err
    before = {path.name: path.stat().st_mtime_ns for path in (folder / "clips").glob("*.mask.mkv")}
    open_gates = Gates(max_lost=0.9, max_border=1)
    assert len(segment(folder, checkpoint="no/such", gates=open_gates)) == 2
    assert "3 of 3 accepted" in capsys.readouterr().err
    assert before == {path.name: path.stat().st_mtime_ns for path in (folder / "clips").glob("*.mask.mkv")}
    assert segment(folder, checkpoint="no/such", gates=Gates(min_area=0.5), characters=["Mimi"]) == []
    assert len(rejected(folder)) == 3


def test_manually_rejected_masks_stay_rejected(folder: Path) -> None:
    cross = segment(folder, backend="truth")[0]
    masks = cross.extra["masks"]
    masks = {**masks, "Mimi": {**masks["Mimi"], "accepted": False}}
    write_clip(folder, replace(cross, extra={**cross.extra, "masks": masks}))
    assert accepted_mask_names(segment(folder, backend="truth")[0]) == ["Pixo"]
    assert ["struck out by hand"] in [row["reasons"] for row in rejected(folder)]
    assert accepted_mask_names(segment(folder, backend="truth", overwrite=True)[0]) == ["Pixo", "Mimi"]


def test_one_missing_mask_leaves_the_others_as_they_are(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are looked for, so that nobody is taken for another; masks that are there stay, struck or not."""
    asked: list[tuple[list[str], list[str]]] = []

    def detect(options: Options) -> Detect:
        def find(clip: Clip, characters: Sequence[Character]) -> dict[str, Prompt]:
            asked.append(([one.name for one in characters], []))
            return {one.name: Prompt(0, (10, 10, 30, 30)) for one in characters}

        return find

    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        asked[-1][1].extend(prompts)
        for frame in range(clip.num_frames):
            for name in prompts:
                store(frame, name, seen[frame])

    segment(folder, backend="truth")
    cross = read_clips(folder)[0]
    seen = true_mask(cross, "Mimi")
    masks = cross.extra["masks"]
    masks = {**masks, "Pixo": {**masks["Pixo"], "accepted": False}, "Mimi": {**masks["Mimi"], "by": "hand"}}
    write_clip(folder, replace(cross, extra={**cross.extra, "masks": masks}))
    before = {name: mask_path(cross, name).stat().st_mtime_ns for name in masks}
    monkeypatch.setitem(SEGMENTERS, "fake", lambda options: propagate)  # type: ignore[arg-type]
    monkeypatch.setitem(DETECTORS, "fake", detect)  # type: ignore[arg-type]
    third = CROSS.replace(" [scene", " [Character: Bruno], walks. [scene")
    write_clip(folder, replace(read_clips(folder)[0], text=third))
    segment(folder, backend="fake", detect="fake")
    assert asked == [(["Pixo", "Mimi", "Bruno"], ["Bruno"])]
    now = read_clips(folder)[0].extra["masks"]
    assert {name: now[name] for name in masks} == masks
    assert {name: mask_path(cross, name).stat().st_mtime_ns for name in masks} == before
    assert now["Bruno"]["quality"]["shared"] == 1  # with Mimi's, which was kept
    mask_path(cross, "Bruno").unlink()
    seen = true_mask(cross, "Pixo")
    segment(folder, backend="fake", detect="fake")
    now = read_clips(folder)[0].extra["masks"]
    assert now["Bruno"]["quality"]["shared"] == 0  # a mask that was struck out is nobody's
    write_mask(mask_path(cross, "Mimi"), seen[:9], 8.0)
    mask_path(cross, "Bruno").unlink()
    segment(folder, backend="fake", detect="fake")
    assert any("does not fit a_cross" in str(row["reasons"]) for row in rejected(folder))


def test_masks_without_numbers_are_left_as_they_are(folder: Path) -> None:
    """Composites know their masks and do not measure them."""
    cross = segment(folder, backend="truth")[0]
    bare = {
        name: {"file": one["file"], "accepted": True, "reasons": []}
        for name, one in cross.extra["masks"].items()
    }
    bare["Mimi"]["accepted"] = False
    write_clip(folder, replace(cross, extra={**cross.extra, "masks": bare}))
    assert accepted_mask_names(segment(folder, backend="truth")[0]) == ["Pixo"]
    assert read_clips(folder)[0].extra["masks"] == bare
    assert ["struck out by hand"] in [row["reasons"] for row in rejected(folder)]


def test_a_missing_character_is_reported_and_searched_again(folder: Path) -> None:
    cross, away = read_clips(folder)
    write_clip(folder, replace(cross, text=CROSS.replace("Mimi", "Bruno")))
    write_clip(folder, replace(away, source="no/such/episode.mp4"))
    (good,) = segment(folder, backend="truth")
    assert accepted_mask_names(good) == ["Pixo"]
    reasons = {str(row["character"]): row["reasons"] for row in rejected(folder)}
    assert reasons["Bruno"] == ["not found by truth"]
    assert "no/such/episode.masks.npz is missing" in str(reasons["Pixo"])
    write_clip(folder, replace(good, text=CROSS))
    assert accepted_mask_names(segment(folder, backend="truth")[0]) == ["Pixo", "Mimi"]


def test_clips_without_captions_need_names(folder: Path) -> None:
    for clip in read_clips(folder):
        write_clip(folder, replace(clip, text=""))
    with pytest.raises(CastmixError, match="none of 2 clips got a mask; the first: it has no caption"):
        segment(folder, backend="truth")
    assert [accepted_mask_names(clip) for clip in segment(folder, backend="truth", characters=["mimi"])] == [
        ["Mimi"]
    ]


def test_given_boxes_are_tracked_through_a_crossing(folder: Path) -> None:
    """Pixo and Mimi look nothing alike: each keeps its own mask, with the other in front or behind."""
    cross = read_clips(folder)[0]
    lines = []
    for name in ("Pixo", "Mimi"):
        row = Prompt(0, box_of(true_mask(cross, name)[0] >= 128)).as_row()
        lines.append(json.dumps({"file_name": f"clips/{cross.path.name}", "character": name, **row}))
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(lines))
    open_gates = Gates(max_border=1, max_lost=1, max_jump=9, max_vanished=9, max_reentries=9, min_iou=0)
    segment(folder, backend="carry", detect="given", prompts=prompts, gates=open_gates)
    cross = read_clips(folder)[0]
    for name in ("Pixo", "Mimi"):
        got, truth = read_mask(mask_path(cross, name)), true_mask(cross, name)
        ious = [region_iou(a, b) for a, b in zip(got, truth, strict=True)]
        assert np.mean(ious) > 0.5, ious
        assert cross.extra["masks"][name]["detector"] == "given"
    assert [row["reasons"] for row in rejected(folder)] == [["not found by given"]]


def fake_detect(options: Options) -> Detect:
    return lambda clip, characters: {one.name: Prompt(0, (10, 10, 30, 30)) for one in characters}


def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def fake(options: Options) -> Propagate:
        def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
            seen.append(clip.id)
            if len(seen) == 2:
                raise KeyboardInterrupt
            for frame in reversed(range(clip.num_frames)):
                for name in prompts:
                    store(frame, name, np.full((clip.height, clip.width), 255, np.uint8))

        return propagate

    monkeypatch.setitem(SEGMENTERS, "fake", fake)  # type: ignore[arg-type]
    monkeypatch.setitem(DETECTORS, "fake", fake_detect)  # type: ignore[arg-type]
    with pytest.raises(KeyboardInterrupt):
        segment(folder, backend="fake", detect="fake")
    cross, away = read_clips(folder)
    assert list(cross.extra["masks"]) == ["Pixo", "Mimi"]
    assert "masks" not in away.extra
    assert any("shared 1" in str(row["reasons"]) for row in rejected(folder))
    segment(folder, backend="fake", detect="fake")
    assert seen == [cross.id, away.id, away.id]
    assert not list((folder / "clips").glob(".*"))


@pytest.mark.parametrize(
    ("frames", "shape", "problem"),
    [
        (range(9), (64, 96), "no mask of Pixo for 8 of 17 frames, the first is 9"),
        (range(17), (32, 96), r"mask of Pixo is uint8 \(32, 96\), expected uint8 \(64, 96\)"),
        (range(18), (64, 96), "a mask of Pixo in frame 17; expected Pixo, Mimi in frames 0 to 16"),
    ],
)
def test_masks_of_a_wrong_shape_are_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch, frames: range, shape: tuple[int, int], problem: str
) -> None:
    def propagate(clip: Clip, prompts: Mapping[str, Prompt], store: StoreMask) -> None:
        for frame in frames:
            for name in prompts:
                store(frame, name, np.zeros(shape, np.uint8))

    monkeypatch.setitem(SEGMENTERS, "fake", lambda options: propagate)  # type: ignore[arg-type]
    monkeypatch.setitem(DETECTORS, "fake", fake_detect)  # type: ignore[arg-type]
    with pytest.raises(CastmixError, match=problem):
        segment(folder, backend="fake", detect="fake")
    assert not list((folder / "clips").glob("*.mask.mkv"))


def test_wrong_names_and_sizes_are_errors(folder: Path) -> None:
    with pytest.raises(CastmixError, match="no backend 'trut': choose truth"):
        segment(folder, backend="trut")
    with pytest.raises(CastmixError, match="no detector 'referense': choose reference"):
        segment(folder, detect="referense")
    with pytest.raises(CastmixError, match="name it with --prompts"):
        segment(folder, backend="carry", detect="given")
    segment(folder, backend="truth")
    with pytest.raises(CastmixError, match="name it with --prompts"):  # though no mask is missing
        segment(folder, backend="carry", detect="given")
    with pytest.raises(CastmixError, match="no character 'Pixxo' in the cast: did you mean Pixo"):
        segment(folder, backend="truth", characters=["Pixxo"])
    with pytest.raises(
        CastmixError, match="96x60: the ground-truth masks of 192x128 need clips of that size"
    ):
        true_mask(replace(read_clips(folder)[0], height=60), "Pixo")


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        ("nonsense", "line 1 is not valid JSON"),
        ('{"file_name": "a.mp4"}', "expected file_name, character, frame"),
        ('{"file_name": "a.mp4", "character": "Pixo", "frame": 0}', "give a box, points, or both"),
        ('{"file_name": "a.mp4", "character": "Pixo", "frame": 0, "bbox": [1]}', "unknown key 'bbox'"),
        ('{"file_name": "a.mp4", "character": "Pixo", "frame": 0.5, "box": [1, 2, 3, 4]}', "whole number"),
        ('{"file_name": "a.mp4", "character": "Pixo", "frame": 0, "box": [1, 2, 3]}', "four numbers"),
        ('{"file_name": "a.mp4", "character": "Pixo", "frame": 0, "points": [1, 2]}', "a point must be"),
        (
            '{"file_name": "a.mp4", "character": "Pixxo", "frame": 0, "box": [1, 2, 3, 4]}',
            "did you mean Pixo",
        ),
    ],
)
def test_malformed_prompts_are_errors(tmp_path: Path, row: str, problem: str) -> None:
    (tmp_path / "p.jsonl").write_text(row)
    with pytest.raises(CastmixError, match=problem):
        read_prompts(tmp_path / "p.jsonl", CAST)


def test_prompts_are_read_from_their_rows(folder: Path) -> None:
    cross = read_clips(folder)[0]
    name, pixo = f"clips/{cross.path.name}", CAST.find("Pixo")[1]
    prompt = Prompt(3, (1.0, 2.0, 30.0, 40.0), ((5.0, 6.0, True), (50.0, 60.0, False)), 0.5)
    rows = [prompt.as_row(), {"frame": 17, "box": [1, 2, 3, 4]}, {"frame": 0, "box": [90, 2, 95, 4]}]
    rows += [{"frame": 0, "box": [96, 2, 99, 4]}, {"frame": 0, "points": [[5, 6, False]]}]

    def found(row: Mapping[str, object], who: Character = pixo) -> dict[str, Prompt]:
        path = folder / "p.jsonl"
        path.write_text(json.dumps({"file_name": name, "character": "pixo", **row}))
        return DETECTORS["given"](Options("", None, None, CAST, path))(cross, [who])

    assert found(rows[0]) == {"Pixo": prompt}
    assert found(rows[0], CAST.find("Mimi")[1]) == {}
    with pytest.raises(CastmixError, match="frame is 17, expected 0 to 16"):
        found(rows[1])
    assert found(rows[2])["Pixo"].box == (90, 2, 95, 4)
    with pytest.raises(CastmixError, match=r"is empty or outside the picture, the clip is 96x64"):
        found(rows[3])
    with pytest.raises(CastmixError, match="at least one point must be on the character"):
        found(rows[4])


def test_swapped_look_alikes_are_rejected(walks: Path) -> None:
    """What a tracker does wrong where two look alike: from the crossing on it follows the other one."""
    cross = read_clips(walks)[0]
    pixo, mimi = true_mask(cross, "Pixo"), true_mask(cross, "Mimi")
    swapped = np.concatenate([pixo[:9], mimi[9:]])
    quality = measure_quality({"Pixo": a, "Mimi": b} for a, b in zip(swapped, mimi, strict=True))
    assert quality["Pixo"]["shared"] > Gates().max_shared
    assert (
        measure_quality({"Pixo": a, "Mimi": b} for a, b in zip(pixo, mimi, strict=True))["Pixo"]["shared"]
        == 0
    )


def test_disk_arrays_return_what_was_stored() -> None:
    arrays = np.random.default_rng(0).integers(0, 256, (3, 5, 7)).astype(np.uint8)
    with DiskArrays() as stored:
        for number in (2, 0, 1):
            stored.put(number, arrays[number])
        stored.put(0, arrays[2])
        assert 1 in stored
        assert 3 not in stored
        np.testing.assert_array_equal(stored.get(1), arrays[1])
        np.testing.assert_array_equal(stored.get(0), arrays[2])
    picture = np.full((60, 80, 3), 100, np.uint8)
    mask = np.zeros((60, 80), np.uint8)
    mask[30:50, 20:60] = 255
    painted = paint(picture, {"Pixo": mask}, times=2)
    assert painted.shape == (120, 160, 3)
    assert (painted[102:, :] == 100).all()
    assert (painted[80, 80] != 100).any()
    np.testing.assert_array_equal(paint(picture, {}), picture)


def test_the_command(folder: Path) -> None:
    runner = CliRunner()
    words = [
        "segment",
        str(folder),
        "--backend",
        "truth",
        "--gates.max-lost",
        "0.9",
        "--gates.max-border",
        "1",
    ]
    result = runner.invoke(castmix(), words)
    assert result.exit_code == 0, result.output
    assert len(list((folder / OVERLAYS).iterdir())) == 2
    assert rejected(folder) == []
