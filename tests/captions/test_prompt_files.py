from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from toolkit.captions.benchmark_prompts import make_prompts, write_prompts
from toolkit.captions.cast import STYLES, read_cast
from toolkit.captions.grammar import parse, validate
from toolkit.captions.prompt_files import BENCHMARKS, Prompt, expand_prompt_files, read_prompts
from toolkit.core.errors import CastmixError
from toolkit.sandbox.world.actions import BASE_ACTIONS, INTERACTIONS, find_interaction
from toolkit.sandbox.world.scenery import SCENES

CAST = read_cast()
both = pytest.mark.parametrize("benchmark", BENCHMARKS)


def plain(action: str) -> str:
    """An action without its place."""
    return action.partition(" in the ")[0].partition(" on the ")[0]


def actions(prompt: Prompt) -> tuple[str, ...]:
    return tuple(plain(clause.action) for clause in parse(prompt.prompt, CAST).clauses)


@both
def test_the_files_that_ship_are_what_the_generator_writes(benchmark: str, tmp_path: Path) -> None:
    write_prompts(tmp_path)
    assert read_prompts(benchmark) == read_prompts(tmp_path / f"{benchmark}.jsonl")
    assert read_prompts(benchmark) == make_prompts(benchmark)


@both
def test_every_prompt_is_valid_and_its_metadata_is_right(benchmark: str) -> None:
    prompts = read_prompts(benchmark)
    assert len({prompt.id for prompt in prompts}) == len({prompt.prompt for prompt in prompts}) == 100
    for prompt in prompts:
        assert validate(prompt.prompt, CAST) == []
        caption = parse(prompt.prompt, CAST)
        assert prompt.characters == tuple(clause.name for clause in caption.clauses)
        assert len(set(prompt.characters)) == len(prompt.characters)
        homes = [CAST.find(name)[0] for name in prompt.characters]
        styles = {show.style for show in homes}
        if len(styles) == 1:
            assert {caption.style} == styles
        if prompt.kind == "multi":
            style = "inter-style" if len(styles) > 1 else "intra-style"
            show = "inter-show" if len({show.id for show in homes}) > 1 else "intra-show"
            assert prompt.relation == (style, show)
        else:
            assert (prompt.kind, prompt.relation) == ("single", ())


@both
def test_prompts_are_balanced_over_characters(benchmark: str) -> None:
    prompts = read_prompts(benchmark)
    single, multi = ([p for p in prompts if p.kind == kind] for kind in ("single", "multi"))
    assert len(single) == len(multi) == 50
    assert set(Counter(p.characters[0] for p in single).values()) == {5}
    appear = Counter(name for p in multi for name in p.characters)
    assert len(appear) == 10
    assert max(appear.values()) - min(appear.values()) <= 1
    relations = Counter(name for p in multi for name in p.relation)
    assert relations == {"inter-style": 20, "intra-style": 30, "inter-show": 35, "intra-show": 15}
    assert Counter(len(p.characters) for p in multi) == {2: 37, 3: 13}
    for scene in SCENES:
        assert sum(f"the {scene}" in p.prompt for p in single) == 10
        assert sum(f"the {scene}" in p.prompt for p in multi) == 10
    mixed = Counter(parse(p.prompt, CAST).style for p in multi if "inter-style" in p.relation)
    assert mixed == dict.fromkeys(STYLES, 10)
    leads = Counter(CAST.find(p.characters[0])[0].style for p in multi if "inter-style" in p.relation)
    assert leads == dict.fromkeys(STYLES, 10)


def test_the_sandbox_knows_every_action() -> None:
    prompts = read_prompts("sandbox")
    for prompt in prompts:
        played = find_interaction(actions(prompt))
        for name, action in zip(prompt.characters, actions(prompt), strict=True):
            character = CAST.find(name)[1]
            own = {character.signature, character.gait}
            assert action in (
                own | BASE_ACTIONS.keys()
                if not played
                else set(sum(INTERACTIONS.values(), ())) | {"stands still"}
            )
    singles = {(p.characters[0], *actions(p)) for p in prompts if p.kind == "single"}
    for name in CAST.names:
        if CAST.find(name)[0].source == "sandbox":
            character = CAST.find(name)[1]
            assert {(name, character.signature), (name, character.gait)} <= singles
    multi = [find_interaction(actions(p)) for p in prompts if p.kind == "multi"]
    assert set(multi) == {*INTERACTIONS, ""}
    assert min(Counter(multi).values()) >= 4


def test_prompts_are_made_for_other_characters() -> None:
    four = ("Mimi", "Bruno", "Greta", "Otto")
    prompts = make_prompts("sandbox", four)
    assert {name for prompt in prompts for name in prompt.characters} == set(four)
    appear = Counter(name for prompt in prompts if prompt.kind == "multi" for name in prompt.characters)
    assert max(appear.values()) - min(appear.values()) <= 2
    relations = {prompt.relation for prompt in prompts if prompt.kind == "multi"}
    assert ("intra-style", "inter-show") not in relations  # those of one style are of one show
    assert len(relations) == 2


def test_a_users_prompt_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"prompt": "a red ball jumps"}\n\n{"prompt": "b", "id": "x", "characters": ["Tom"]}\n')
    assert read_prompts(path) == [Prompt("1", "a red ball jumps"), Prompt("x", "b", characters=("Tom",))]
    assert expand_prompt_files(["a", f"@{path}", "b"]) == ["a", "a red ball jumps", "b", "b"]
    assert expand_prompt_files(["@sandbox"]) == [prompt.prompt for prompt in read_prompts("sandbox")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no prompts: expected one JSON object with the key `prompt` per line"),
        ("Tom naps\n", "line 1 is not valid JSON"),
        ('{"prompt": "a"}\n{"text": "b"}\n', "line 2: expected a JSON object whose `prompt` is text"),
        (json.dumps(["a"]), "line 1: expected a JSON object"),
    ],
)
def test_a_malformed_prompt_file_is_an_error(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.jsonl"
    path.write_text(text)
    with pytest.raises(CastmixError, match=message):
        read_prompts(path)


def test_an_unknown_prompt_file_name_lists_the_known_ones() -> None:
    with pytest.raises(
        CastmixError, match=r"no prompt file 'sandbx': give sandbox or paper, or the path of a .jsonl file"
    ):
        read_prompts("sandbx")
