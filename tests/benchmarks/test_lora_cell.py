"""The studies of characters: LoRAs that they share, prompts, and their cell with its heavy parts replaced."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from benchmarks import footage, lora_cell
from benchmarks.footage import Data, choose
from benchmarks.forms import FORMS, noun
from benchmarks.lora_cell import Recipe, prose_prompts, questions, spoken
from benchmarks.store import Store
from benchmarks.studies import STUDIES
from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import parse, validate
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.sandbox.prompt_score import parse_prompt

CAST = read_cast()


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


def test_but_changes_the_named_settings_only() -> None:
    recipe = Recipe().but(rank=4, clips=16, prose=3)
    assert (recipe.training.rank, recipe.data.clips, recipe.sampling.prose) == (4, 16, 3)
    assert recipe.but(rank=32, clips=Data().clips, prose=0) == Recipe()
    names = [inner.name for group in fields(recipe) for inner in fields(getattr(recipe, group.name))]
    assert len(set(names)) == len(names)  # else `but` would change two settings
    with pytest.raises(TypeError, match="no setting ranks"):
        Recipe().but(ranks=4)


def test_captions_are_written_in_four_forms() -> None:
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


def test_prose_prompts_are_parsed_completely() -> None:
    prompts = prose_prompts(12)
    assert prompts == prose_prompts(24)[:12]
    for number, prompt in enumerate(prompts):
        facts = parse_prompt(prompt.prompt, CAST)
        assert len(facts.creatures) == 1 + number % 2
        assert facts.scene
        assert facts.scene_style
        assert all(part.look["body"] and part.action for part in facts.creatures)
        assert spoken(prompt, "none", CAST) == prompt.prompt


def test_repeated_prompts_have_ids_of_their_own() -> None:
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


def test_clips_are_chosen_from_many_shots_of_the_named_characters() -> None:
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


def test_a_lora_is_trained_once_and_prompted_in_its_captions_form(
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


def test_a_single_show_has_no_composites() -> None:
    apart = lora_cell.by_show(Data(characters=("Mimi", "Greta", "Bruno"), composites=24))
    assert [(one.characters, one.composites) for one in apart] == [(("Greta",), 0), (("Mimi", "Bruno"), 0)]
