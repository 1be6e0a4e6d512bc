"""The verb: from videos with sidecars to scores, a page, and what was set aside."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from toolkit.captions.vlm import Chat, Message
from toolkit.commands.evaluate import FAMILIES, RUN, evaluate
from toolkit.core.errors import CastmixError
from toolkit.evaluation import html_report as report
from toolkit.evaluation import metrics
from toolkit.evaluation import optical_flow as flow
from toolkit.evaluation.results_cache import CACHE_FILE, ResultsCache
from toolkit.evaluation.settings import Features, Judge
from toolkit.footage import clips as data
from toolkit.footage.video import write_video
from toolkit.sandbox import prompt_score as score
from toolkit.sandbox.recogniser import recognise
from toolkit.sandbox.recogniser.verdict import Creature, Verdict
from toolkit.sandbox.world import shows

LOOKS = shows.named_looks()
TEXT = "[Character: {}], walks in the {}. [scene-style:cartoon]"


def clip(
    folder: Path, name: str, prompt: str | None, *, height: int = 64, width: int = 96, seed: int = 0
) -> Path:
    """A video of noise, and its sidecar."""
    frames = np.random.default_rng(seed).integers(0, 255, (5, height, width, 3), np.uint8)
    path = folder / f"{name}.mp4"
    write_video(path, frames, 8.0)
    if prompt is not None:
        data.write_atomic(path.with_suffix(".json"), json.dumps({"prompt": prompt, "seed": seed}))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three videos of the sandbox's size: two with prompts, one without."""
    made = tmp_path / "videos"
    clip(made, "000", TEXT.format("Pixo", "city"), seed=1)
    clip(made, "001", TEXT.format("Otto", "room"), seed=2)
    clip(made, "found", None, seed=3)
    return made


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[int]:
    """Recognisers that see Pixo walking in a city, whatever they are shown; and how often they were asked."""
    asked: list[int] = []

    def see(model: Any, frames: Any) -> Verdict:
        asked.append(len(frames))
        pixo = Creature(
            who="Pixo",
            **vars(LOOKS["Pixo"]),
            style="cartoon",
            action="walks",
            confidence={},
            boxes=np.zeros((len(frames), 4), np.float32),
        )
        return Verdict((pixo,), "city", "cartoon", "")

    weights = tmp_path / "weights"
    weights.write_bytes(b"1")
    monkeypatch.setattr(recognise, "WEIGHTS", weights)
    monkeypatch.setattr(recognise, "load_recognisers", lambda *_: "a model")
    monkeypatch.setattr(recognise, "recognise", see)
    return asked


def told(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "scores.json").read_text())
    return loaded


def test_the_sandbox_metrics_of_a_folder(folder: Path, watched: list[int]) -> None:
    page = evaluate(folder)
    assert page == folder / "report.html"
    scores = told(folder)
    assert scores["metrics"]["identity"] == {"mean": 0.5, "low": 0.0, "high": 1.0, "n": 2}
    assert scores["metrics"]["scene_style"] == {"mean": 1.0, "low": 1.0, "high": 1.0, "n": 2}
    assert "interaction" not in scores["metrics"]  # nobody asked for one
    pixo, otto = scores["videos"]
    assert (pixo["file"], pixo["seed"], pixo["prompt"]) == ("000.mp4", 1, TEXT.format("Pixo", "city"))
    assert pixo["scores"] == dict.fromkeys(score.COLUMNS, 1.0) | {"interaction": None}
    assert otto["scores"]["prompt"] == 0.25  # the scene's style, of who, what, where and it
    assert pixo["notes"] == ["seen: Pixo, cartoon, walks · city, cartoon"]
    assert scores["set_aside"] == [
        {"file": "found.mp4", "metric": "", "reason": "it has no found.json with its prompt beside it"}
    ]
    assert scores["settings"]["metrics"] == list(score.COLUMNS)
    rows = list(csv.DictReader((folder / "scores.csv").read_text().splitlines()))
    assert [(row["file"], row["identity"], row["interaction"]) for row in rows] == [
        ("000.mp4", "1", ""),
        ("001.mp4", "0", ""),
    ]
    assert "verb: evaluate" in (folder / RUN).read_text()


def test_measured_results_are_reused(folder: Path, watched: list[int]) -> None:
    evaluate(folder)
    first = told(folder)
    evaluate(folder)
    assert len(watched) == 2
    assert told(folder) == first
    clip(folder, "001", TEXT.format("Pixo", "room"), seed=2)  # the same pixels, another prompt
    clip(folder, "002", TEXT.format("Pixo", "city"), seed=9)
    evaluate(folder)
    assert len(watched) == 4
    recognise.WEIGHTS.write_bytes(b"2")
    evaluate(folder)
    assert len(watched) == 7


def test_an_interrupted_run_goes_on(
    folder: Path, watched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    see = recognise.recognise

    def interrupt(model: Any, frames: Any) -> Verdict:
        if len(watched) == 1:
            raise KeyboardInterrupt
        return see(model, frames)

    monkeypatch.setattr(recognise, "recognise", interrupt)
    with pytest.raises(KeyboardInterrupt):
        evaluate(folder)
    assert not (folder / "scores.json").exists()
    with (folder / CACHE_FILE).open("a") as file:
        file.write('{"key": "torn')
    monkeypatch.setattr(recognise, "recognise", see)
    evaluate(folder)
    assert len(watched) == 2
    assert len(told(folder)["videos"]) == 2
    assert all(json.loads(line) for line in (folder / CACHE_FILE).read_text().splitlines())


def test_one_video_can_be_evaluated_into_another_folder(
    folder: Path, tmp_path: Path, watched: list[int]
) -> None:
    before = sorted(folder.iterdir())
    assert (
        evaluate(folder / "000.mp4", tmp_path / "out", metrics=["identity"])
        == tmp_path / "out" / "report.html"
    )
    assert sorted(folder.iterdir()) == before
    assert told(tmp_path / "out")["videos"][0]["scores"] == {"identity": 1.0}


def test_prompts_that_the_sandbox_cannot_judge_are_skipped(folder: Path, watched: list[int]) -> None:
    clip(folder, "tom", TEXT.format("Tom", "city"))
    clip(folder, "big", TEXT.format("Pixo", "city"), height=128, width=192)
    evaluate(folder, metrics=["sandbox"])
    reasons = {one["file"]: one["reason"] for one in told(folder)["set_aside"]}
    assert "Tom is not a character of the sandbox" in reasons["tom.mp4"]
    with pytest.raises(
        CastmixError, match=r"none of 1 videos could be scored: tom.mp4: .*Tom is not a character"
    ):
        evaluate(folder / "tom.mp4", metrics=["sandbox"])


def test_unavailable_metrics_are_skipped_with_a_message(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clip(tmp_path, "a", "[Character: Tom], walks. [scene-style:cartoon]", height=48)
    clip(tmp_path, "b", "[Character: Mimi], walks. [scene-style:cartoon]", height=48)
    evaluate(tmp_path, features=Features(clip="nobody/clip", dino="nobody/dino"))
    assert told(tmp_path)["metrics"].keys() == flow.COLUMNS.keys()
    said = capsys.readouterr().err
    assert "clip_t, temporal_consistency, clip_i not measured: nobody/clip is not on this machine" in said
    assert "dino_i not measured: nobody/dino is not on this machine" in said
    assert re.search(r"motion_smoothness +0\.\d+  \(95 %: ", said)
    with pytest.raises(CastmixError, match="needs nobody/clip"):
        evaluate(tmp_path, metrics=["clip-t"], features=Features(clip="nobody/clip"))


def test_one_video_of_another_size_keeps_the_others_scores(tmp_path: Path) -> None:
    clip(tmp_path, "a", "[Character: Mimi], walks. [scene-style:cartoon]")
    clip(tmp_path, "b", "[Character: Mimi], walks. [scene-style:cartoon]", height=48)
    evaluate(tmp_path, features=Features(clip="nobody/clip", dino="nobody/dino"))
    found = told(tmp_path)
    assert found["metrics"]["identity"]["n"] == 1
    assert found["metrics"]["motion_smoothness"]["n"] == 2
    assert any(one["file"] == "b.mp4" and "64x96" in one["reason"] for one in found["set_aside"])


@pytest.mark.parametrize(
    ("names", "columns"),
    [
        (["clip-t", "prompt"], {"sandbox": ("prompt",), "clip": ("clip_t",)}),
        (["flow"], {"flow": tuple(flow.COLUMNS)}),
        (["identity_p"], {"judge": ("identity_p", "identity_p_spread")}),
        (["dino", "dino_i"], {"dino": ("dino_i",)}),
    ],
)
def test_metrics_are_chosen_by_name_and_family(
    names: list[str], columns: dict[str, tuple[str, ...]], job: metrics.Job
) -> None:
    assert metrics.choose_metrics(names, job, FAMILIES) == columns


def test_a_misspelt_metric(job: metrics.Job) -> None:
    with pytest.raises(CastmixError, match="no metric 'identiy': choose identity"):
        metrics.choose_metrics(["identiy"], job, FAMILIES)
    with pytest.raises(CastmixError, match="no metric 'xyz': choose sandbox, clip, dino, flow, judge"):
        metrics.choose_metrics(["xyz"], job, FAMILIES)


@pytest.fixture
def job(tmp_path: Path) -> metrics.Job:
    return metrics.Job((), None, {}, Features(), Judge(), None, None, ResultsCache(tmp_path))  # type: ignore[arg-type]


def test_no_two_families_have_a_column_or_a_name_in_common() -> None:
    names = [name for family, one in FAMILIES.items() for name in (family, *one.columns)]
    assert len(names) == len(set(names))
    assert all(one.columns[name].meaning for one in FAMILIES.values() for name in one.columns)


def test_the_judge_runs_when_its_model_is_given(
    folder: Path, watched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, Any] = {}

    def connect_server(server: str | None, key: str | None, model: str, **settings: Any) -> Chat:
        given.update(server=server, key=key, model=model, **settings)

        def chat(messages: list[Message]) -> str:
            asks = messages[1]["content"][-1]["text"]
            return "No." if asks.startswith("Motion") else '{"score": 6, "reason": "<b>so so</b>"}'

        return chat

    monkeypatch.setattr(metrics, "connect_server", connect_server)
    secret, address = "sk-0123456789", "http://secret-host:1/v1"
    page = evaluate(folder, server=address, key=secret, judge=Judge(model="see", frames=2, timeout=3.0))
    assert given == {"server": address, "key": secret, "model": "see", "timeout": 3.0, "retries": 4}
    scores = told(folder)
    assert scores["metrics"]["style_p"] == {"mean": 6.0, "low": 6.0, "high": 6.0, "n": 2}
    assert scores["metrics"]["style_p_spread"]["mean"] == 0
    assert "motion_p" not in scores["metrics"]
    assert sum(one["metric"] == "motion_p" for one in scores["set_aside"]) == 2 * 3
    assert scores["settings"]["judge"]["model"] == "see"
    for path in folder.iterdir():
        assert secret.encode() not in path.read_bytes()
        assert b"secret-host" not in path.read_bytes()
    html = page.read_text()
    assert "&lt;b&gt;so so" in html
    assert "<b>so so" not in html


def test_the_report_embeds_its_videos_or_links_to_them(
    folder: Path, watched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    html = evaluate(folder).read_text()
    assert html.count("data:video/mp4;base64,") == 2
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert html.index("001.mp4") < html.index("000.mp4")  # the worst first
    for name, meaning in score.COLUMNS.items():
        assert (f"<td>{name}<td>" in html) is (name != "interaction")
        assert name == "interaction" or meaning.replace("'", "&#39;") in html
    monkeypatch.setattr(report, "MAX_EMBEDDED", 10)
    html = evaluate(folder, folder.parent / "out").read_text()
    assert 'src="../videos/000.mp4"' in html
    assert "base64" not in html


def test_a_folder_of_clips_can_be_evaluated(make_clips: Callable[..., Path], tmp_path: Path) -> None:
    made = make_clips(tmp_path / "data", 2)
    evaluate(made, metrics=["motion_smoothness"])
    assert [row["file"] for row in told(made)["videos"]] == ["clips/clip-00.mp4", "clips/clip-01.mp4"]
    assert told(made)["videos"][0]["prompt"].startswith("[Character: Pixo], jumps over the dog")


@pytest.mark.parametrize(
    ("sidecar", "reason"),
    [("{}", "a.json has no prompt"), ("[1]", "a.json has no prompt"), ("{", "a.json cannot be read")],
)
def test_sidecars_without_a_prompt_are_an_error(tmp_path: Path, sidecar: str, reason: str) -> None:
    clip(tmp_path, "a", None)
    (tmp_path / "a.json").write_text(sidecar)
    with pytest.raises(CastmixError, match=f"none of 1 videos has a prompt; a.mp4: {reason}"):
        evaluate(tmp_path)


def test_an_empty_folder_is_an_error(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CastmixError, match=r"no .mp4 file in it"):
        evaluate(tmp_path / "empty")
    with pytest.raises(CastmixError, match="batch_size must be 1 or more, got 0"):
        evaluate(folder, features=Features(batch_size=0))


def test_a_damaged_video_does_not_end_the_run(folder: Path, watched: list[int]) -> None:
    (folder / "000.mp4").write_bytes(b"no video")
    evaluate(folder)
    (broken,) = [one for one in told(folder)["set_aside"] if one["file"] == "000.mp4"]
    assert broken["metric"] == ""
    assert told(folder)["metrics"]["identity"]["n"] == 1


def test_a_missing_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="no such file or folder"):
        evaluate(tmp_path / "nosuch")
