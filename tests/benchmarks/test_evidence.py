"""The harness on a study that costs nothing; the LoRA cell with its heavy parts replaced."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from benchmarks import evidence, footage, lora_cell
from benchmarks.figures import draw_figure
from benchmarks.footage import Data, choose
from benchmarks.forms import FORMS, noun
from benchmarks.gallery import GAP, LINE, draw_gallery
from benchmarks.lora_cell import Recipe, prose_prompts, questions, spoken
from benchmarks.place import Workplace
from benchmarks.results import (
    BEGIN,
    END,
    by_prompt,
    page,
    read_results,
    replace_block,
    study_section,
    write_result,
)
from benchmarks.store import Store
from benchmarks.studies import STUDIES
from benchmarks.study import Cell, Outcome, Study
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import parse, validate
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.video import write_video
from toolkit.sandbox.prompt_score import parse_prompt

REPOSITORY = Path(__file__).resolve().parents[2]
CAST = read_cast()


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


def test_the_contrast_has_all_seeds_and_the_rest_one() -> None:
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


def test_what_fails_is_told_and_the_rest_goes_on(place: Workplace) -> None:
    some = study(bad=2, best=20, good=7)
    failures = evidence.run_cells(some, some.cells()[:3], place, jobs=1)
    assert failures == ["best-s0: nobody is that good"]
    assert [cell.arm for cell in some.cells()[:3] if place.is_done(some, cell)] == ["bad", "good"]


def test_the_store_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
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


def test_the_table(place: Workplace, tmp_path: Path) -> None:
    made = results(place)
    write_result(tmp_path / "toss.json", made)
    (again,) = read_results(tmp_path, [])
    assert again == json.loads(json.dumps(made))
    assert again["cells"][2]["settings"] == {"skill": 7}
    assert len((tmp_path / "toss.json").read_text().splitlines()) < 60  # a line a cell
    text = study_section(again)
    assert "| | seeds | won | rare | never |\n|---|---|---|---|---|\n| bad | 3 | 0.30 ± 0.2" in text
    assert "| fair | 1 | 0.50 ± 0.3" in text
    assert "| 1.00 ± 0.00 | – |" in text
    assert "| good | **+0.50 ± 0." in text
    assert "| fair | +0.30 ±" in text.replace("*", "")  # against the baseline's own seed 0
    assert "good against bad, seed by seed: won +0.50, +0.50, +0.50; rare +0.00, +0.00, +0.00." in text
    assert "7 of 7 cells of up to 2 s" in text
    assert "base unnamed (feedbeef)" in text


def test_repeats_and_seeds_of_a_prompt_are_one_sample() -> None:
    found = {(0, "a"): 1.0, (0, "a#2"): 0.0, (1, "a"): 0.5, (0, "b"): 0.2}
    assert by_prompt(found) == [0.5, 0.2]


def test_another_judge_judges_again(place: Workplace) -> None:
    cell = TOSS.cells()[0]
    evidence.run_cell(TOSS, cell, place)
    other = replace(place, judge="beef")
    assert place.is_done(TOSS, cell)
    assert not other.is_done(TOSS, cell)
    evidence.run_cell(TOSS, cell, other)
    assert count(place, cell) == 2
    assert other.is_done(TOSS, cell)
    assert evidence.collect(TOSS, other, "x")["judge"] == "beef"


def test_an_unfinished_study_shows_what_there_is(place: Workplace) -> None:
    evidence.run_cells(TOSS, TOSS.cells()[:1], place, jobs=1)
    text = study_section(evidence.collect(TOSS, place, "x"))
    assert "1 of 7 cells" in text
    assert "seed by seed" not in text


def test_only_the_block_between_the_markers_changes(place: Workplace, tmp_path: Path) -> None:
    block = page([results(place)])
    text = f"# Results\n\nby hand\n\n{BEGIN}\nstale\n{END}\n\n## Below\n"
    changed = replace_block(text, block)
    assert changed.startswith("# Results\n\nby hand\n\n" + BEGIN)
    assert changed.endswith(END + "\n\n## Below\n")
    assert "stale" not in changed
    assert replace_block(changed, block) == changed
    with pytest.raises(CastmixError, match="once each"):
        replace_block("# Results\n", block)


def test_the_figure_is_the_same_for_the_same_result(place: Workplace, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = results(place)
    for name in ("a.svg", "b.svg"):
        draw_figure(made, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert "fair" in (tmp_path / "a.svg").read_text()


def test_the_page_is_what_its_files_say() -> None:
    text = (REPOSITORY / "docs" / "results.md").read_text(encoding="utf-8")
    block = page(read_results(REPOSITORY / "docs" / "results", list(STUDIES)))
    assert replace_block(text, block) == text, "python benchmarks/evidence.py --table"


def test_the_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(STUDIES, "toss", TOSS)
    monkeypatch.setattr(evidence, "base_fingerprint", lambda: "feedbeef")
    monkeypatch.setattr(evidence, "draw_figure", lambda result, path: path.touch())
    docs, out = tmp_path / "docs", tmp_path / "out"
    docs.mkdir()
    (docs / "results.md").write_text(f"{BEGIN}\n{END}\n")
    places = ["--out", str(out), "--docs", str(docs)]
    assert evidence.main(["toss", "--quick", *places]) == 0
    assert not (docs / "results").exists()
    assert (out / "toss" / "quick.json").exists()
    assert "| good | 1 |" in capsys.readouterr().out
    assert evidence.main(["toss", "--only", "good-s1", *places]) == 0
    assert len(json.loads((docs / "results" / "toss.json").read_text())["cells"]) == 3
    before = (docs / "results.md").read_text()
    (docs / "results.md").write_text(f"{BEGIN}\n{END}\n")
    assert evidence.main(["--table", "--docs", str(docs)]) == 0
    assert (docs / "results.md").read_text() == before
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


# The studies themselves


def test_the_studies_are_small_enough_and_share_their_loras() -> None:
    loras, cells = set(), 0
    for one in STUDIES.values():
        assert len(one.cells()) <= 25
        assert len(one.cells(quick=True)) <= 3
        if one.run is not lora_cell.run:
            continue
        cells += len(one.cells())
        loras |= {(cell.settings.data, cell.settings.training, cell.seed) for cell in one.cells()}
        for recipe in one.arms.values():
            prompts = questions(recipe)
            kinds = {kind for prompt in prompts for kind in (prompt.kind, *prompt.relation)}
            assert {metric.split()[0] for metric in one.metrics} <= kinds
            assert 40 <= len(prompts) <= 80
    assert len(loras) <= cells - 6


def test_but_changes_one_setting() -> None:
    recipe = Recipe().but(rank=4, clips=16, prose=3)
    assert (recipe.training.rank, recipe.data.clips, recipe.sampling.prose) == (4, 16, 3)
    assert recipe.but(rank=32, clips=Data().clips, prose=0) == Recipe()
    names = [inner.name for group in fields(recipe) for inner in fields(getattr(recipe, group.name))]
    assert len(set(names)) == len(names)  # else `but` would change two settings
    with pytest.raises(TypeError, match="no setting ranks"):
        Recipe().but(ranks=4)


def test_forms_of_a_caption() -> None:
    tagged = "[Character: Mimi], chases [Character: Otto] in the snow. [Character: Otto], runs away."
    caption = parse(f"{tagged} [scene-style:cartoon]", CAST)
    assert {form: write(caption) for form, write in FORMS.items()} == {
        "both": f"{tagged} [scene-style:cartoon]",
        "no scene-style": tagged,
        "no character": "Mimi chases Otto in the snow. Otto runs away. [scene-style:cartoon]",
        "none": "Mimi chases Otto in the snow. Otto runs away.",
        "prose": "Mimi chases Otto and Otto runs away in the snow, cartoon style",
    }
    second = parse(
        "[Character: Otto], lunges. [Character: Mimi], jumps in the snow by the fence. [scene-style:cartoon]",
        CAST,
    )
    assert FORMS["prose"](second) == "Otto lunges and Mimi jumps in the snow by the fence, cartoon style"
    assert noun(caption, {"Mimi"}) == (
        "a Mimi bear chases a red ball with glasses and a red ball with glasses runs away in the snow, "
        "cartoon style"
    )


def test_prose_prompts_are_the_bases_own_and_can_be_judged() -> None:
    prompts = prose_prompts(12)
    assert prompts == prose_prompts(24)[:12]
    for number, prompt in enumerate(prompts):
        facts = parse_prompt(prompt.prompt, CAST)
        assert len(facts.creatures) == 1 + number % 2
        assert facts.scene
        assert facts.scene_style
        assert all(part.look["body"] and part.action for part in facts.creatures)
        assert spoken(prompt, "none", CAST) == prompt.prompt


def test_questions_repeat_under_names_of_their_own() -> None:
    recipe = Recipe().but(repeats=2, prose=4, kinds=("multi",))
    prompts = questions(recipe)
    assert len({prompt.id for prompt in prompts}) == len(prompts)
    assert len(prompts) == 2 * (len(questions(recipe.but(repeats=1))))
    assert {prompt.kind for prompt in prompts} == {"multi", "prose"}
    assert all(validate(prompt.prompt, CAST) == [] for prompt in prompts if prompt.kind == "multi")
    assert all(set(prompt.characters) <= set(Data().characters) for prompt in prompts)


def clip(number: int, shot: int, *names: str) -> Clip:
    actions = "".join(f"[Character: {name}], walks. " for name in names)
    path = Path(f"show_s{shot:03d}_w{number:03d}.mp4")
    return Clip(path, f"{actions}[scene-style:cartoon]", "show.mp4", number, number + 1, 8, 17, 96, 64, shot)


def test_clips_are_chosen_from_many_shots_and_of_nobody_else() -> None:
    data = Data(characters=("Mimi", "Bruno"), clips=3, pairs=1)
    clips = [clip(n, s, "Mimi") for s in (0, 1) for n in range(3)]
    clips += [clip(n, 2, "Bruno") for n in range(4)]
    clips += [clip(0, 3, "Mimi", "Pixo"), clip(0, 4, "Mimi", "Bruno"), clip(1, 4, "Mimi", "Bruno")]
    chosen = [one.id for one in choose(clips, data, CAST)]
    assert chosen == [
        *("show_s000_w000", "show_s001_w000", "show_s000_w001"),
        *("show_s002_w000", "show_s002_w001", "show_s002_w002"),
        "show_s004_w000",
    ]
    fewer = [one.id for one in choose(clips, replace(data, clips=2), CAST)]
    assert set(fewer) < set(chosen)
    with pytest.raises(CastmixError, match="4 clips show Bruno alone, 5 are wanted"):
        choose(clips, replace(data, clips=5), CAST)
    with pytest.raises(CastmixError, match="2 clips show Bruno and Mimi together, 3 are wanted"):
        choose(clips, replace(data, pairs=3), CAST)


def test_a_lora_is_trained_once_and_asked_in_the_form_it_has_learnt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[dict[str, Any]] = []
    told: list[dict[str, Any]] = []

    def train(folders: list[Path], out: Path, **settings: Any) -> None:
        trained.append({"folders": folders, **settings})
        (out / "state.safetensors").touch()

    def generate(prompts: list[str], out: Path, **settings: Any) -> list[Path]:
        told.append({"prompts": prompts, **settings})
        out.mkdir(parents=True)
        (out / "run.yaml").touch()
        return []

    def judge(videos: list[Path], prompts: list[Any]) -> dict[str, dict[str, float]]:
        return {"multi identity": {prompt.id: 1.0 for prompt in prompts}}

    empty: Callable[..., None] = lambda *_: None  # noqa: E731
    for name, stub in (("train", train), ("generate", generate), ("cache", empty)):
        monkeypatch.setattr(import_module(f"toolkit.commands.{name}"), name, stub)
    monkeypatch.setattr(lora_cell, "judge", judge)
    for name in ("_draw", "_choose_and_write"):
        monkeypatch.setattr(footage, name, empty)
    monkeypatch.setattr("toolkit.commands.demo.base_clips", empty)
    store = Store(tmp_path / "store", "base")
    recipe = Recipe().but(kinds=("multi",), captions="none", rank=8, targets=("attn1",))
    found = lora_cell.run(recipe, 2, tmp_path / "a", store)
    lora_cell.run(recipe.but(repeats=2), 2, tmp_path / "b", store)
    assert len(trained) == 1
    assert trained[0]["seed"] == 2
    assert (trained[0]["adapter"].rank, trained[0]["adapter"].alpha) == (8, 8.0)
    assert trained[0]["adapter"].targets == ("attn1",)
    assert trained[0]["batches"].preserve.parent == tmp_path / "store"
    assert not list(tmp_path.rglob("state.safetensors"))
    assert len(told[0]["lora"]) == 1
    assert told[0]["seed"] == 2000
    assert "[" not in "".join(told[0]["prompts"])
    assert found.prompts["multi-01"].endswith("[scene-style:cartoon]")
    assert found.seconds.keys() == {"data", "train", "generate", "judge"}
    lora_cell.run(recipe.but(steps=0), 0, tmp_path / "c", store)
    assert len(trained) == 1
    assert told[2]["lora"] == []
    lora_cell.run(recipe.but(per_show=True), 2, tmp_path / "d", store)
    assert len(trained) == 3
    assert len(set(told[3]["lora"])) == 2


def test_a_show_of_its_own_has_no_composites() -> None:
    apart = lora_cell.by_show(Data(characters=("Mimi", "Greta", "Bruno"), composites=24))
    assert [(one.characters, one.composites) for one in apart] == [(("Greta",), 0), (("Mimi", "Bruno"), 0)]
