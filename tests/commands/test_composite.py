"""castmix composite, from folders of masked clips to composites, and what can go wrong on the way."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from masked_clips import draw
from PIL import Image

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import parse, validate
from toolkit.cli.click_app import castmix
from toolkit.commands.composite import composite
from toolkit.compositing import blending, plan
from toolkit.compositing.clean_plates import clean_plate
from toolkit.compositing.eligible_clips import Choice
from toolkit.compositing.output_folder import read_rows
from toolkit.compositing.placement import Place
from toolkit.compositing.render import check_parents, render
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.masks import accepted_mask_names, mask_path, read_mask, write_mask
from toolkit.footage.video import read_video, write_video
from toolkit.sandbox.true_masks import true_ground

STYLES = {"Pixo": "cartoon", "Mimi": "cartoon", "Luma": "cartoon", "Rufus": "realistic", "Greta": "realistic"}


@pytest.fixture(scope="module")
def shows(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two folders: a cartoon's clips and a realistic show's."""
    made = tmp_path_factory.mktemp("shows")
    for who in (["Pixo"], ["Mimi"], ["Pixo", "Mimi"]):
        draw(made / "cartoon", who)
    for who in (["Rufus"], ["Greta"]):
        draw(made / "realistic", who)
    return [made / "cartoon", made / "realistic"]


@pytest.fixture(scope="module")
def mixed(shows: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve composites, by the command line."""
    out = tmp_path_factory.mktemp("mixed") / "out"
    words = ["composite", *map(str, shows), "--out", str(out), "--count", "12", "--choice.three", "0.5"]
    result = CliRunner().invoke(castmix(), words)
    assert result.exit_code == 0, result.output
    assert result.stdout.strip() == str(out / "index.html")
    return out


def rows_of(out: Path) -> list[dict]:
    return read_rows(out / "plan.jsonl")


def test_composites_mix_characters_of_both_styles(mixed: Path, shows: list[Path]) -> None:
    cast, clips = read_cast(), {clip.id: clip for folder in shows for clip in read_clips(folder)}
    made = read_clips(mixed)
    assert len(made) == 12
    seen = set()
    for clip in made:
        row = clip.extra["composite"]
        assert row["id"] == clip.id
        assert validate(clip.text, cast) == []
        caption, back = parse(clip.text, cast), clips[row["background"]["clip"]]
        assert caption.style == parse(back.text, cast).style
        names = [clause.name for clause in caption.clauses]
        pasted = [one["name"] for one in row["pasted"]]
        assert sorted(names) == sorted([*row["background"]["names"], *pasted])
        assert STYLES[pasted[0]] != caption.style
        assert set(row["order"]) == set(names)
        assert clip.text.count("in the room") == 1  # the background's place, and nobody else's
        assert (clip.source, clip.shot, clip.fps, clip.num_frames) == (
            back.source,
            back.shot,
            back.fps,
            back.num_frames,
        )
        seen.add(len(names))
    assert seen == {2, 3}
    assert len((mixed / "metadata.jsonl").read_text().splitlines()) == 12


def test_pixels_change_only_under_pasted_characters(mixed: Path) -> None:
    for row in rows_of(mixed)[:6]:
        back = read_video(Path(row["background"]["path"]))[0]
        front = read_video(Path(row["pasted"][0]["path"]))[0]
        for number, frame in enumerate(render(row, masks=True)):
            covered = np.max([frame.alphas[one["name"]] for one in row["pasted"]], axis=0)
            assert 0 < np.count_nonzero(covered) < 0.6 * covered.size
            np.testing.assert_array_equal(frame.picture[covered == 0], back[number][covered == 0])
            if len(row["pasted"]) > 1:
                continue
            one = row["pasted"][0]
            way = np.array([[one["scale"], 0, one["dx"]], [0, one["scale"], one["dy"]], [0, 0, 1]])
            cut = blending.cut_out(
                front[number], np.full(front.shape[1:3], 255, np.uint8), way, *covered.shape
            )
            assert cut is not None
            whole = np.zeros_like(frame.picture)
            whole[cut.region] = cut.rgb
            off = np.abs(whole[covered == 255].astype(int) - frame.picture[covered == 255])
            assert off.max() <= 2  # OpenCV's places are 1/32 pixel, and count from the crop


def test_a_row_makes_the_same_frames_again_and_a_seed_the_same_plan(
    mixed: Path, shows: list[Path], tmp_path: Path
) -> None:
    row = rows_of(mixed)[0]
    first, second = ([frame.picture for frame in render(row)] for _ in range(2))
    np.testing.assert_array_equal(first, second)
    composite(shows, tmp_path / "again", count=5, choice=Choice(three=0.5))
    assert rows_of(tmp_path / "again") == rows_of(mixed)[:5]
    for path in sorted((tmp_path / "again" / "clips").iterdir()):
        assert path.read_bytes() == (mixed / "clips" / path.name).read_bytes()
    composite(shows, tmp_path / "other", count=5, choice=Choice(three=0.5), seed=1)
    assert [row["pasted"] for row in rows_of(tmp_path / "other")] != [
        row["pasted"] for row in rows_of(mixed)[:5]
    ]


def test_the_candidate_with_the_lowest_cost_is_chosen(
    shows: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find_placement, tried = plan.find_placement, []

    def watched(*args: Any) -> Any:
        tried.append(find_placement(*args))
        return tried[-1]

    monkeypatch.setattr(plan, "find_placement", watched)
    composite(shows, tmp_path / "one", count=1, choice=Choice(three=0))  # one is pasted, and placed, a draw
    found = [one for one in tried if one is not None]
    assert len(found) == plan.CANDIDATES
    assert len({one.cost for one in found}) > 1
    best = min(found, key=lambda one: one.cost)
    (there,) = rows_of(tmp_path / "one")[0]["pasted"]
    assert (there["scale"], there["dx"], there["dy"]) == (best.scale, best.dx, best.dy)


def test_a_plan_continues_from_another_working_folder(
    shows: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = shows[0].parent, tmp_path / "elsewhere"
    there.mkdir()
    out = tmp_path / "out"
    monkeypatch.chdir(here)
    composite([Path(folder.name) for folder in shows], Path(os.path.relpath(out, here)), count=2)
    first = rows_of(out)[0]["id"]
    (out / "clips" / f"{first}.mp4").unlink()
    (out / "clips" / f"{first}.json").unlink()
    monkeypatch.chdir(there)
    composite([Path(os.path.relpath(folder, there)) for folder in shows], Path("../out"), count=2)
    assert [row["as"] for row in read_rows(out / "rejected.jsonl") if row["as"] == "making"] == []
    assert (out / "clips" / f"{first}.mp4").exists()


def test_composites_can_be_continued_struck_out_and_added(
    mixed: Path, shows: list[Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    shutil.copytree(mixed, out)
    ids = [row["id"] for row in rows_of(out)]
    before = {path.name: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}
    (out / "struck.txt").write_text(f"{ids[3]}\n\nunknown\n{ids[5]}\n")
    (out / "clips" / f"{ids[7]}.json").unlink()  # as if it had been stopped there
    composite(shows, out, count=13, choice=Choice(three=0.5))
    there = [clip.id for clip in read_clips(out)]
    assert len(there) == 11
    assert not {ids[3], ids[5]} & {*there}
    assert sorted(path.name for path in (out / "struck").iterdir()) == sorted(
        f"{ids[k]}{s}" for k in (3, 5) for s in (".json", ".mp4")
    )
    after = {path.name: path.stat().st_mtime_ns for path in (out / "clips").iterdir()}
    kept = [name for name in after if name in before and not name.startswith(ids[7])]
    assert len(kept) == 18
    assert all(after[name] == before[name] for name in kept)
    page = (out / "index.html").read_text()
    assert page.count(f'"file": "struck/{ids[3]}.mp4"') == 1
    assert page.count('"file": "clips/') == 11
    with pytest.raises(CastmixError, match=r"choice three 0.5 \(now 0.2\).*delete .*plan.jsonl"):
        composite(shows, out, count=13)


def test_a_composite_of_a_changed_clip_is_rejected(shows: list[Path], tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in shows]
    composite(folders, tmp_path / "out", count=6)
    rows = rows_of(tmp_path / "out")
    shutil.rmtree(tmp_path / "out" / "clips")
    changed = Path(rows[0]["pasted"][0]["mask"]["path"])
    write_mask(changed, 255 - read_mask(changed), 8.0)
    with pytest.raises(CastmixError, match=r"has changed since this was planned .* delete plan.jsonl"):
        check_parents(rows[0])
    composite(folders, tmp_path / "out", count=6)
    stale = [row for row in read_rows(tmp_path / "out" / "rejected.jsonl") if row["as"] == "making"]
    told = {row["id"] for row in stale}
    assert rows[0]["id"] in told
    assert told.isdisjoint(clip.id for clip in read_clips(tmp_path / "out"))
    assert len(told) + len(read_clips(tmp_path / "out")) == 6
    changed.unlink()
    with pytest.raises(CastmixError, match="is missing"):
        check_parents(rows[0])


def test_unusable_clips_are_rejected_with_the_reason(shows: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad"
    draw(bad, ["Luma"], name="unmasked", masks=False)
    draw(bad, ["Luma"], name="fast", pan=1.0)
    two = draw(bad, ["Pixo", "Luma"], name="two")
    edge = draw(bad, ["Luma"], name="edge")
    mask = read_mask(mask_path(edge, "Luma"))
    touching = mask.copy()
    touching[:, 25:50, 70:] = 255
    write_mask(mask_path(edge, "Luma"), touching, 8.0)
    lost = draw(bad, ["Luma"], name="lost")
    mask[4] = 0
    write_mask(mask_path(lost, "Luma"), mask, 8.0)
    short = draw(bad, ["Luma"], name="short")
    write_mask(mask_path(short, "Luma"), mask[:5], 8.0)
    silent = draw(bad, ["Luma"], name="silent")
    write_clip(bad, Clip(**{**vars(silent), "text": ""}))
    done = draw(bad, ["Luma"], name="done")
    write_clip(bad, Clip(**{**vars(done), "extra": done.extra | {"composite": {}}}))
    composite([*shows, bad], tmp_path / "out", count=2)
    rows = read_rows(tmp_path / "out" / "rejected.jsonl")
    why = {(row["id"], row["as"]): row["reason"] for row in rows}
    assert "no accepted mask of Luma" in why["unmasked", "foreground"]
    assert "camera moves by 1.0" in why["fast", "foreground"]
    assert "camera moves by 1.0" in why["fast", "background"]
    assert "2 characters, Pixo, Luma" in why["two", "foreground"]
    assert "touches the right edge of the picture in 100% of the frames" in why["edge", "foreground"]
    assert "no mask in 1 of 9 frames" in why["lost", "foreground"]
    assert "has fewer frames than" in why["short", "foreground"]
    assert "no caption" in why["silent", "background"]
    assert "a composite itself" in why["done", "foreground"]
    assert (two.id, "background") not in why
    assert "no accepted mask of Luma, who could be hidden" in why["unmasked", "background"]
    composite([*shows, bad], tmp_path / "any", count=2, choice=Choice(unmasked=True))
    unused = read_rows(tmp_path / "any" / "rejected.jsonl")
    assert ("unmasked", "background") not in [(row["id"], row["as"]) for row in unused]


def test_facts_are_measured_once_and_anew_when_a_mask_changes(shows: list[Path], tmp_path: Path) -> None:
    folders = [Path(shutil.copytree(folder, tmp_path / folder.name)) for folder in shows]
    composite(folders, tmp_path / "a", count=2)
    kept = folders[0] / "facts" / "pixo.json"
    written = kept.stat().st_mtime_ns
    composite(folders, tmp_path / "b", count=2)
    assert kept.stat().st_mtime_ns == written
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "b")
    path = folders[0] / "clips" / "pixo.pixo.mask.mkv"
    path.touch()  # another date, the same content
    composite(folders, tmp_path / "c", count=2)
    assert rows_of(tmp_path / "a") == rows_of(tmp_path / "c")
    write_mask(path, np.roll(read_mask(path), 2, axis=1), 8.0)
    before = json.loads(kept.read_text())["figures"]["Pixo"]["boxes"]
    composite(folders, tmp_path / "d", count=2)
    after = json.loads(kept.read_text())["figures"]["Pixo"]["boxes"]
    assert [box[1] for box in after] == [box[1] + 2 for box in before]


def test_camera_motion_is_removed_and_followed(tmp_path: Path) -> None:
    """In a picture that pans, who is pasted goes along; cut from one that pans, it goes its own way only."""
    for name in ("still", "pans"):
        pan = 0.2 * (name == "pans")
        draw(tmp_path / name, ["Pixo"], pan=pan)
        draw(tmp_path / name, ["Rufus"], pan=pan)
    moves = {}
    for back, front in (("still", "pans"), ("pans", "still")):
        folders = [tmp_path / back, tmp_path / front]
        out = tmp_path / f"{front}-on-{back}"
        composite(folders, out, count=12, choice=Choice(three=0))
        for row in rows_of(out):
            if (
                Path(row["background"]["path"]).parts[-3] != back
                or Path(row["pasted"][0]["path"]).parts[-3] != front
            ):
                continue
            masks = [frame.alphas[row["pasted"][0]["name"]] for frame in render(row, masks=True)]
            middles = [float(np.flatnonzero(mask.max(0) > 127).mean()) for mask in masks]
            moves[front] = middles[-1] - middles[0], row
    sway = 0.04 * 96 * np.sin(5.0)
    (panned, row), (still, other) = moves["pans"], moves["still"]
    assert row["pasted"][0]["camera"] is not None
    assert row["background"]["camera"] is None
    assert other["background"]["camera"] is not None
    way = 0.2 * 64
    assert abs(panned - row["pasted"][0]["scale"] * (sway + way)) < 2
    assert abs(still - (other["pasted"][0]["scale"] * sway - way)) < 2


def test_clips_of_other_rates_lengths_and_sizes_are_combined(tmp_path: Path) -> None:
    draw(tmp_path / "a", ["Pixo"], fps=8.0, count=17)
    draw(tmp_path / "b", ["Rufus"], fps=24.0, count=33, size=(80, 112))
    composite([tmp_path / "a", tmp_path / "b"], tmp_path / "out", count=6)
    shapes = {}
    for clip in read_clips(tmp_path / "out"):
        frames, fps = read_video(clip.path)
        assert frames.shape == (clip.num_frames, clip.height, clip.width, 3)
        assert fps == clip.fps
        shapes[clip.extra["composite"]["background"]["clip"]] = (clip.num_frames, clip.fps, clip.height)
    assert shapes == {"pixo": (9, 8.0, 64), "rufus": (33, 24.0, 80)}  # 33/24 s: 11 frames at 8, so 9


def test_same_style_composites_mix_two_shows(shows: list[Path], tmp_path: Path) -> None:
    draw(tmp_path / "moon", ["Luma"])
    composite([shows[0], tmp_path / "moon"], tmp_path / "out", count=6, styles="same")
    for clip in read_clips(tmp_path / "out"):
        assert "Luma" in clip.text
        assert clip.text.count("[Character: ") > 1
        assert clip.text.endswith("[scene-style:cartoon]")


def test_pairs_have_masks_and_clean_backgrounds(shows: list[Path], tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    (tmp_path / "rooms").mkdir()
    Image.fromarray(rng.integers(0, 255, (50, 90, 3)).astype(np.uint8)).save(tmp_path / "rooms" / "room.png")
    out = tmp_path / "out"
    composite(shows, out, count=5, kind="pairs", backgrounds=[tmp_path / "rooms"], style="cartoon")
    for clip in read_clips(out):
        names = accepted_mask_names(clip)
        assert len(names) == 2
        assert {STYLES[name] for name in names} == {"cartoon", "realistic"}
        masks = [read_mask(mask_path(clip, name)) for name in names]
        assert masks[0].shape == (clip.num_frames, clip.height, clip.width)
        assert (masks[0].astype(int) + masks[1]).max() <= 256  # what is hidden is nobody's
        row = clip.extra["composite"]
        frames = np.stack([frame.picture for frame in render(row)])
        bare = (masks[0] == 0) & (masks[1] == 0)
        still = np.broadcast_to(frames[0], frames.shape)
        both = bare & bare[0]
        np.testing.assert_array_equal(frames[both], still[both])


def test_empty_videos_serve_as_backgrounds(shows: list[Path], tmp_path: Path) -> None:
    loop = draw(tmp_path, ["Rufus"], name="loop", masks=False, fps=24.0, count=40)
    draw(tmp_path, ["Rufus"], name="brief", masks=False, count=3)
    given = [loop.path, tmp_path / "clips" / "brief.mp4"]
    composite(shows, tmp_path / "out", count=4, backgrounds=given, style="realistic")
    for clip in read_clips(tmp_path / "out"):
        row = clip.extra["composite"]
        assert row["background"]["path"] == loop.path.as_posix()
        assert STYLES[row["pasted"][0]["name"]] == "cartoon"
        assert len(row["pasted"]) in (2, 3)
        assert (clip.num_frames, clip.fps) == (9, 8.0)  # those of who is pasted
        frames = read_video(loop.path)[0]
        for number, frame in enumerate(render(row, masks=True)):
            bare = np.max([*frame.alphas.values()], axis=0) == 0
            np.testing.assert_array_equal(frame.picture[bare], frames[3 * number][bare])


def test_clean_plates_show_the_background_alone(tmp_path: Path) -> None:
    wall = np.repeat(np.linspace(40, 200, 96).astype(np.uint8)[None], 64, 0)
    wall = np.stack([wall, wall[:, ::-1], wall // 2], -1)
    frames, masks = np.repeat(wall[None], 17, 0), np.zeros((17, 64, 96), np.uint8)
    for k in range(17):
        box = slice(20, 50), slice(5 * k, 5 * k + 12)
        frames[k][box], masks[k][box] = (250, 20, 20), 255
    masks[:, 55:60, 40:50] = 255  # nobody ever sees what is there
    frames[:, 55:60, 40:50] = 0
    write_video(tmp_path / "crossing.mp4", frames, 8)
    write_mask(tmp_path / "crossing.mkv", masks, 8)
    off = np.abs(clean_plate(tmp_path / "crossing.mp4", [tmp_path / "crossing.mkv"]).astype(int) - wall)
    assert off.mean() < 3
    assert off[:53].max() < 25
    assert off[55:60, 40:50].mean() < 20


def test_sandbox_truth_gives_the_ground_line(tmp_path: Path) -> None:
    clip = draw(tmp_path, ["Pixo"])
    actor = {"name": "Pixo", "ground": 0.9}
    shot = {
        "kind": "scene",
        "first_frame": 12,
        "last_frame": 60,
        "actors": [actor],
        "camera": {"pan": 0.2, "zoom": 1.0},
    }
    truth = {"fps": 24.0, "shots": [{"kind": "title", "first_frame": 0, "last_frame": 11}, shot]}
    told = Clip(**{**vars(clip), "source": str(tmp_path / "episode.mp4")})
    assert true_ground(told, "Pixo") is None
    (tmp_path / "episode.truth.json").write_text(json.dumps(truth))
    assert true_ground(told, "Pixo") == pytest.approx(0.9 * 64)
    assert true_ground(told, "Mimi") is None
    shot["camera"] = {"pan": 0.0, "zoom": 1.3}
    (tmp_path / "episode.truth.json").write_text(json.dumps(truth))
    assert true_ground(told, "Pixo") > 0.9 * 64  # a second in, half way into the zoom


def test_references_are_composited_on_clean_plates(shows: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out"
    words = ["composite", *map(str, shows), "--out", str(out), "--kind", "references", "--count", "6"]
    # these characters sway too little to be seen around: their wall is never bare
    result = CliRunner().invoke(castmix(), words)
    assert result.exit_code == 1
    assert "no clip can be a background" in result.output
    assert "--backgrounds" in result.output
    room = tmp_path / "room.png"
    Image.new("RGB", (200, 100), (90, 120, 60)).save(room)
    result = CliRunner().invoke(castmix(), [*words, "--backgrounds", str(room), "--style", "cartoon"])
    assert result.exit_code == 0, result.output
    pictures = sorted((out / "references").glob("*.png"))
    assert len(pictures) == 6
    for path in pictures:
        known = json.loads(path.with_suffix(".json").read_text())
        assert STYLES[known["name"]] == "realistic"
        assert known["composite"]["background"]["path"] == room.as_posix()
        picture = np.asarray(Image.open(path))
        assert picture.shape == (64, 96, 3)
        assert 0.03 < (np.abs(picture.astype(int) - [90, 120, 60]).max(2) > 8).mean() < 0.7


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"count": 0}, "count must be 1 or more, got 0"),
        ({"backgrounds": [Path("nowhere")]}, "--backgrounds and --style go together"),
        ({"backgrounds": [Path("nowhere")], "style": "cartoon"}, "nowhere does not exist"),
        ({"choice": Choice(area=(0.5, 0.2))}, "choice.area must be two shares"),
        ({"edge": blending.Edge(feather=-1)}, "edge.feather must be 0 to 40, got -1"),
    ],
)
def test_wrong_settings_are_errors(shows: list[Path], tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        composite(shows, tmp_path / "out", **settings)


def test_composites_without_a_partner_are_an_error(shows: list[Path], tmp_path: Path) -> None:
    with pytest.raises(
        CastmixError, match="no background or partner of the same style and another show among 3"
    ):
        composite(shows[:1], tmp_path / "out", styles="same")


def test_a_character_that_never_fits_is_reported(shows: list[Path], tmp_path: Path) -> None:
    large = draw(tmp_path / "large", ["Luma"])
    mask = read_mask(mask_path(large, "Luma"))
    mask[4, 20:30, 1:95] = 255
    write_mask(mask_path(large, "Luma"), mask, 8.0)
    composite(
        [*shows, tmp_path / "large"], tmp_path / "out", count=30, place=Place(height=(0.7, 0.8), overlap=0)
    )
    rows = read_rows(tmp_path / "out" / "rejected.jsonl")
    assert [row["id"] for row in rows if "did not fit in any of" in row["reason"]] == ["luma"]


def test_clips_without_masks_are_an_error(tmp_path: Path) -> None:
    draw(tmp_path / "a", ["Pixo"], masks=False)
    with pytest.raises(
        CastmixError, match=r"no clip can be a foreground: no accepted mask of Pixo.*castmix segment"
    ):
        composite([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(CastmixError, match="give composites a folder of their own"):
        composite([tmp_path / "a"], tmp_path / "a")


def test_edges_without_feathering_are_hard(shows: list[Path], tmp_path: Path) -> None:
    composite(shows, tmp_path / "hard", count=3, edge=blending.Edge(erode=0, feather=0))
    for row in rows_of(tmp_path / "hard"):
        for frame in render(row, masks=True):
            assert {*np.unique(frame.alphas[row["pasted"][0]["name"]])} <= {0, 255}


def test_shadows_darken_the_ground_and_nothing_else(mixed: Path) -> None:
    row = next(row for row in rows_of(mixed) if len(row["pasted"]) == 1)
    dark = row | {"edge": row["edge"] | {"shadow": 0.6}}
    for without, with_shadow in zip(render(row), render(dark), strict=True):
        change = with_shadow.picture.astype(int) - without.picture
        assert change.max() <= 0
        rows = np.flatnonzero(change.min((1, 2)) < -8)
        ground = row["pasted"][0]["scale"] * row["pasted"][0]["foot"] + row["pasted"][0]["dy"]
        assert len(rows)
        assert abs(rows.mean() - ground) < 6


def test_an_index_is_not_needed_to_read_folders(shows: list[Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(shows[0], tmp_path / "copy"))
    write_index(folder)
    assert {clip.id for clip in read_clips(folder)} == {
        "pixo",
        "mimi",
        "pixo-mimi",
    }  # masks and facts are no clips
