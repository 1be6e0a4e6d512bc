"""The harness, on a study that costs nothing."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import evidence
from benchmarks.figures import draw_figure
from benchmarks.gallery import GAP, LINE, draw_gallery
from benchmarks.pages import study_page
from benchmarks.place import Workplace
from benchmarks.results import by_prompt, read_results, write_result
from benchmarks.store import Store
from benchmarks.studies import STUDIES
from benchmarks.study import Cell, Outcome, Study
from toolkit.core.errors import CastmixError
from toolkit.footage.video import write_video


@dataclass(frozen=True)
class Toss:
    """Settings of a cell that only makes numbers up."""

    skill: int = 0
    shared: int = 1


def toss(settings: Toss, seed: int, out: Path, store: Store) -> Outcome:
    """Ten prompts; each skill wins so many of them, with a bonus for the seed."""
    made = store.make("coin", {"shared": settings.shared}, lambda path: (path / "coin").touch())
    assert (made / "coin").exists()
    with (out / "runs").open("a") as file:
        file.write("once\n")
    if settings.skill > 10:
        raise CastmixError("nobody is that good")
    won = {f"p{k}": float(k < settings.skill + seed) for k in range(10)}
    return Outcome({"won": won, "rare": {"p3": 1.0}}, dict.fromkeys(won, "heads"), {"toss": 1.5})


def study(**arms: int) -> Study:
    return Study(
        name="toss",
        question="Who wins?",
        arms={name: Toss(skill) for name, skill in arms.items()},
        run=toss,
        baseline="bad",
        contrast=("good", "bad"),
        metrics=("won", "rare", "never"),
    )


TOSS = study(bad=2, fair=5, good=7)


@pytest.fixture
def place(tmp_path: Path) -> Workplace:
    return Workplace(tmp_path / "out", "feedbeef")


def count(place: Workplace, cell: Cell) -> int:
    path = place.folder(TOSS, cell) / "runs"
    return len(path.read_text().split()) if path.exists() else 0


def test_arms_of_the_contrast_run_all_seeds_and_others_one() -> None:
    assert [cell.name for cell in TOSS.cells()] == [
        "bad-s0",
        "fair-s0",
        "good-s0",
        "bad-s1",
        "good-s1",
        "bad-s2",
        "good-s2",
    ]
    assert [cell.name for cell in TOSS.cells(quick=True)] == ["good-s0", "bad-s0"]
    with pytest.raises(ValueError, match="unknown arms"):
        replace(TOSS, baseline="worse")


def test_a_finished_cell_is_never_run_again(place: Workplace) -> None:
    cells = TOSS.cells()
    assert evidence.run_cells(TOSS, cells[:2], place, jobs=1) == []
    assert evidence.run_cells(TOSS, cells, place, jobs=1) == []
    assert [count(place, cell) for cell in cells] == [1] * 7
    assert len(list((place.out / "store").glob("coin-*/made.yaml"))) == 1  # one for all of them
    told = yaml.safe_load((place.folder(TOSS, cells[0]) / "run.yaml").read_text())
    assert told["command"] == "python benchmarks/evidence.py toss --only bad-s0"
    assert told["arguments"] == {
        "study": "toss",
        "arm": "bad",
        "seed": 0,
        "settings": {"skill": 2, "shared": 1},
    }
    assert told["base"] == {"name": "unnamed", "fingerprint": "feedbeef"}
    assert told["seconds"] == {"toss": 1.5}
    assert {"commit", "cores", "versions"} <= told.keys()


def test_other_settings_and_another_base_are_other_cells(place: Workplace) -> None:
    cell = TOSS.cells()[0]
    evidence.run_cell(TOSS, cell, place)
    for other, where in (
        (replace(cell, settings=Toss(3)), place),
        (replace(cell, seed=1), place),
        (cell, replace(place, base="deadbeef")),
    ):
        assert not where.is_done(TOSS, other)
    assert place.is_done(TOSS, cell)


def test_a_failed_cell_is_reported_and_the_others_run(place: Workplace) -> None:
    some = study(bad=2, best=20, good=7)
    failures = evidence.run_cells(some, some.cells()[:3], place, jobs=1)
    assert failures == ["best-s0: nobody is that good"]
    assert [cell.arm for cell in some.cells()[:3] if place.is_done(some, cell)] == ["bad", "good"]


def test_the_store_continues_an_interrupted_entry(tmp_path: Path) -> None:
    store, tries = Store(tmp_path, "base"), []

    def fill(path: Path) -> None:
        tries.append(sorted(file.name for file in path.iterdir()))
        (path / "half").touch()
        if len(tries) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store.make("x", {"a": (1, 2)}, fill)
    made = store.make("x", {"a": (1, 2)}, fill)
    assert tries == [[], ["half", "seconds"]]
    assert store.make("x", {"a": [1, 2]}, fill) == made
    assert len(tries) == 2
    assert store.make("x", {"a": (1, 3)}, fill) != made


def results(place: Workplace) -> dict[str, Any]:
    evidence.run_cells(TOSS, TOSS.cells(), place, jobs=1)
    return evidence.collect(TOSS, place, "python benchmarks/evidence.py toss")


def test_a_study_is_written_read_and_shown_as_a_table(place: Workplace, tmp_path: Path) -> None:
    made = results(place)
    write_result(tmp_path / "toss.json", made)
    (again,) = read_results(tmp_path, [])
    assert again == json.loads(json.dumps(made))
    assert again["cells"][2]["settings"] == {"skill": 7}
    assert len((tmp_path / "toss.json").read_text().splitlines()) < 60  # a line a cell
    text = study_page(again, [], "")
    assert (
        "| arm | seeds | won | rare | never |\n| --- | --- | --- | --- | --- |\n| bad | 3 | 0.30 ± 0.2"
        in text
    )
    assert "| fair | 1 | 0.50 ± 0.3" in text
    assert "| 1.00 ± 0.00 | – |" in text
    assert "| good | **+0.50 ± 0." in text
    assert "| fair | +0.30 ±" in text.replace("*", "")  # against the baseline's own seed 0
    assert "| good against bad | seed 0 | seed 1 | seed 2 |" in text
    assert "| won | +0.50 | +0.50 | +0.50 |\n| rare | +0.00 | +0.00 | +0.00 |\n| never | – | – | – |" in text
    assert "7 of 7, of up to 2 s each" in text
    assert "unnamed (`feedbeef`)" in text
    assert "| good | skill: 7 |" in text
    assert "| bad | (baseline) |" in text
    assert "| shared | 1 |" in text  # of the baseline's settings


def test_repeats_and_seeds_of_a_prompt_are_one_sample() -> None:
    found = {(0, "a"): 1.0, (0, "a#2"): 0.0, (1, "a"): 0.5, (0, "b"): 0.2}
    assert by_prompt(found) == [0.5, 0.2]


def test_another_judge_makes_a_cell_run_again(place: Workplace) -> None:
    cell = TOSS.cells()[0]
    evidence.run_cell(TOSS, cell, place)
    other = replace(place, judge="beef")
    assert place.is_done(TOSS, cell)
    assert not other.is_done(TOSS, cell)
    evidence.run_cell(TOSS, cell, other)
    assert count(place, cell) == 2
    assert other.is_done(TOSS, cell)
    assert evidence.collect(TOSS, other, "x")["judge"] == "beef"


def test_an_unfinished_study_shows_its_finished_cells(place: Workplace) -> None:
    evidence.run_cells(TOSS, TOSS.cells()[:1], place, jobs=1)
    text = study_page(evidence.collect(TOSS, place, "x"), [], "")
    assert "1 of 7, of up to" in text
    assert "good against bad" not in text


def test_the_figure_is_the_same_for_the_same_result(place: Workplace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = results(place)
    for name in ("a.svg", "b.svg"):
        draw_figure(made, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "fair" in (tmp_path / "a.svg").read_text()


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "toss", TOSS)
    monkeypatch.setattr(evidence, "base_fingerprint", lambda: "feedbeef")
    monkeypatch.setattr(evidence, "draw_figure", lambda result, path: path.touch())
    docs, out = tmp_path / "results", tmp_path / "out"
    places = ["--out", str(out), "--results", str(docs)]
    assert evidence.main(["toss", "--quick", *places]) == 0
    assert not docs.exists()
    assert (out / "toss" / "quick.json").exists()
    assert "| good | 1 |" in capsys.readouterr().out
    assert evidence.main(["toss", "--only", "good-s1", *places]) == 0
    assert len(json.loads((docs / "toss.json").read_text())["cells"]) == 3
    assert "[toss](toss.md) | Who wins?" in (docs / "README.md").read_text()
    before = (docs / "toss.md").read_text()
    (docs / "toss.md").unlink()
    assert evidence.main(["--table", "--results", str(docs)]) == 0
    assert (docs / "toss.md").read_text() == before
    assert evidence.main(["toss", "--only", "goood-s1", *places]) == 1
    assert "toss has no cell goood-s1; it has bad-s0, fair-s0" in capsys.readouterr().err
    assert evidence.main(["toss", "--list", *places]) == 0
    assert capsys.readouterr().out.count("done") == 3


def test_a_gallery_needs_all_arms_and_shows_the_same_prompts(place: Workplace, tmp_path: Path) -> None:
    shown = replace(TOSS, shown=("p3", "p1"))
    picture = tmp_path / "toss.png"
    cells = TOSS.cells()[:3]
    for cell in cells[:2]:
        evidence.run_cell(TOSS, cell, place)
    assert not draw_gallery(shown, place, picture)
    evidence.run_cell(TOSS, cells[2], place)
    assert not draw_gallery(shown, place, picture)  # there are no videos
    for shade, cell in enumerate(cells, 1):
        for number in range(10):
            frames = np.full((17, 16, 32, 3), 20 * number + 10 * shade, np.uint8)
            write_video(place.folder(TOSS, cell) / "videos" / f"{number:03d}.mp4", frames, 8.0)
    assert draw_gallery(shown, place, picture)
    pixels = np.asarray(Image.open(picture).convert("L")).astype(int)
    top, width = 2 * LINE + 2, 3 * 32 + GAP
    row = LINE + 16 + GAP
    for column in range(3):
        for place_in_rows, number in enumerate((3, 1)):
            found = pixels[top + place_in_rows * row, column * width + 40]
            assert abs(found - 20 * number - 10 * (column + 1)) < 8
    assert not draw_gallery(TOSS, place, tmp_path / "none.png")
    two = replace(shown, pictured=(cells[0].arm, cells[2].arm))
    assert draw_gallery(two, place, picture)
    with Image.open(picture) as narrow:
        assert narrow.width == 2 * width - GAP
