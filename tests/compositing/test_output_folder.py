"""The folder of composites: whose it is, what was planned in it, and which settings are refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from masked_clips import draw
from PIL import Image

from toolkit.commands.composite import composite
from toolkit.compositing import write_composites
from toolkit.compositing.background_files import backgrounds_from_files
from toolkit.compositing.eligible_clips import Choice
from toolkit.compositing.output_folder import PLAN, REJECTED, SETTINGS, claim, read_rows
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips
from toolkit.footage.masks import mask_path, read_mask


@pytest.fixture(scope="module")
def shows(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    made = tmp_path_factory.mktemp("shows")
    draw(made / "cartoon", ["Pixo"])
    draw(made / "realistic", ["Rufus"])
    return [made / "cartoon", made / "realistic"]


def tree(folder: Path) -> dict[str, bytes]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_a_folder_of_other_clips_is_refused_and_unchanged(shows: list[Path], tmp_path: Path) -> None:
    theirs = Path(shutil.copytree(shows[0], tmp_path / "theirs"))
    before = tree(theirs)
    with pytest.raises(
        CastmixError, match=r"holds the clip pixo, which composite did not make.*another --out"
    ):
        composite(shows, theirs, count=1)
    assert tree(theirs) == before
    (theirs / SETTINGS).write_text("{}")  # as an earlier version left it
    with pytest.raises(CastmixError, match="holds the clip pixo"):
        composite(shows, theirs, count=1)
    nothing = tmp_path / "nothing"  # where prepare found no clip
    nothing.mkdir()
    (nothing / REJECTED).write_text('{"source": "a.mp4", "reason": "too short"}\n')
    before = tree(nothing)
    with pytest.raises(CastmixError, match=r"holds rejected.jsonl, which composite did not make"):
        composite(shows, nothing, count=1)
    assert tree(nothing) == before
    (nothing / SETTINGS).write_text("{}")
    with pytest.raises(CastmixError, match=r"holds a rejected.jsonl, which composite did not make"):
        composite(shows, nothing, count=1)


def test_a_folder_of_composites_is_recognised_without_its_plan(tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "mix-00000-abcdef.json").write_text('{"composite": {}}')
    (tmp_path / REJECTED).write_text('{"id": "a", "as": "making", "reason": "b"}\n')
    (tmp_path / SETTINGS).write_text("{}")
    claim(tmp_path, {"seed": 1})
    assert json.loads((tmp_path / SETTINGS).read_text()) == {"seed": 1}


def test_changed_inputs_are_refused_and_a_smaller_count_keeps_all(
    shows: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    composite(shows, out, count=2)
    before = tree(out / "clips")
    monkeypatch.chdir(shows[0].parent)
    composite([Path("cartoon"), Path("realistic"), Path("cartoon")], out, count=1)  # the same folders
    assert "was planned for 2, more than the 1 asked for, and all of them are kept" in capsys.readouterr().err
    assert tree(out / "clips") == before
    assert yaml.safe_load((out / "run.yaml").read_text())["arguments"]["count"] == 2
    run = (out / "run.yaml").read_bytes()
    with pytest.raises(
        CastmixError, match=r"planned with clips .*/realistic \(now .*/moon\): choose another --out"
    ):
        composite([*shows, Path("moon")], out, count=2)
    with pytest.raises(CastmixError, match=r"planned with cast None \(now .*/mine\)"):
        composite(shows, out, count=2, cast=Path("mine"))
    with pytest.raises(CastmixError, match=r"backgrounds none \(now .*/rooms\), style None \(now cartoon\)"):
        composite(shows, out, count=2, backgrounds=[Path("rooms")], style="cartoon")
    assert (out / "run.yaml").read_bytes() == run


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "bogus"}, "kind must be mix or pairs or references, got 'bogus'"),
        ({"styles": "bogus"}, "styles must be opposite or same or any, got 'bogus'"),
        ({"style": "bogus", "backgrounds": [Path("x")]}, "style must be cartoon or realistic, got 'bogus'"),
    ],
)
def test_unknown_choices_are_errors(shows: list[Path], tmp_path: Path, settings: dict, message: str) -> None:
    with pytest.raises(CastmixError, match=message):
        composite(shows, tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_an_unreadable_picture_is_rejected(tmp_path: Path) -> None:
    Image.new("RGB", (60, 40), (90, 120, 60)).save(tmp_path / "good.png")
    whole = tmp_path / "noise.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (90, 90, 3)).astype(np.uint8)).save(whole)
    data = whole.read_bytes()
    whole.unlink()
    (tmp_path / "cut.png").write_bytes(data[:30])
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "void.jpg").write_bytes(b"")
    backs, reasons = backgrounds_from_files([tmp_path], "cartoon", tmp_path / "out", Choice())
    assert [back.path.name for back in backs] == ["good.png"]
    assert [Path(row["id"]).name for row in reasons] == ["cut.png", "text.png", "void.jpg"]
    assert all("cannot be read as" in row["reason"] or "no video stream" in row["reason"] for row in reasons)


def test_nested_thread_counts_are_accepted(
    shows: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1,2")
    composite(shows, tmp_path / "out", count=1)
    monkeypatch.setenv("OMP_NUM_THREADS", "many")
    with pytest.raises(CastmixError, match="OMP_NUM_THREADS is 'many': expected a number of threads"):
        composite(shows, tmp_path / "out", count=1)


def test_masks_of_pairs_do_not_stay_in_memory(
    shows: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each frame is made when the one before it is no longer held; the masks are those of the frames."""
    room = tmp_path / "room.png"
    Image.new("RGB", (96, 64), (90, 120, 60)).save(room)
    composite(shows, tmp_path / "out", count=1, kind="pairs", backgrounds=[room], style="cartoon")
    row = read_rows(tmp_path / "out" / PLAN)[0]
    frames, alive, most = list(write_composites.render(row, masks=True)), [], []

    def watched(row: dict, *, masks: bool) -> Iterator[object]:
        import weakref

        for frame in frames:
            seen = {name: mask.copy() for name, mask in frame.alphas.items()}
            alive.extend(weakref.ref(mask) for mask in seen.values())
            most.append(sum(ref() is not None for ref in alive))
            yield type(frame)(frame.picture, seen)
            del seen

    monkeypatch.setattr(write_composites, "render", watched)
    write_composites.write_composite(row, tmp_path / "again")
    assert max(most) <= 4
    (clip,) = read_clips(tmp_path / "again")
    for one in row["pasted"]:
        seen = np.stack([frame.alphas[one["name"]] for frame in frames])
        np.testing.assert_array_equal(read_mask(mask_path(clip, one["name"])), seen)
