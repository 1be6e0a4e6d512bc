from __future__ import annotations

import base64
import contextlib
import io
import json
import logging
import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from toolkit.captions.cast import read_cast
from toolkit.captions.grammar import parse, tag
from toolkit.captions.text_files import transcript
from toolkit.captions.vlm import ServerError, connect_server, image_part
from toolkit.commands.caption import CAPTIONERS, REJECTED, RUN, SERVER_FAILURES, Job, caption
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.footage.video import write_video

CAST = read_cast()
TOM = tag("Tom chases Jerry", CAST)
SPIKE = tag("Spike barks", CAST)
KEY = "sk-very-secret-0123456789"


@pytest.fixture(autouse=True)
def no_server_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("CASTMIX_VLM", "OPENAI")) or name.lower().endswith("_proxy"):
            monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def video(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A clip of five frames, 32x48, each of one grey: 0, 50, 100, 150, 200."""
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    grey = np.arange(0, 250, 50, dtype=np.uint8)[:, None, None, None]
    write_video(path, np.broadcast_to(grey, (5, 32, 48, 3)), 16.0)
    return path.read_bytes()


@pytest.fixture
def folder(tmp_path: Path, video: bytes) -> Path:
    """Three clips of 0 to 5, 5 to 10 and 10 to 15 seconds of footage/e1.mkv."""
    made = tmp_path / "data"
    for number in range(3):
        add_clip(made, video, f"e1_{number:04d}", 5.0 * number, str(tmp_path / "footage" / "e1.mkv"))
    (tmp_path / "footage").mkdir()
    write_index(made)
    return made


def add_clip(folder: Path, video: bytes, name: str, start: float, source: str, **more: Any) -> Clip:
    path = folder / "clips" / f"{name}.mp4"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(video)
    text = more.pop("text", "")
    clip = Clip(path, text, source, start, start + 4.9375, 16.0, 5, 48, 32, 0, extra=more)
    write_clip(folder, clip)
    return clip


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def texts(folder: Path) -> list[str]:
    return [clip.text for clip in read_clips(folder)]


def rejected(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / REJECTED).read_text(encoding="utf-8").splitlines()]


# sidecar


def test_sidecar_takes_rows_by_name(folder: Path, tmp_path: Path) -> None:
    file = write_rows(
        tmp_path / "mine.jsonl",
        {"file_name": "clips/e1_0000.mp4", "text": TOM},
        {"file_name": "e1_0002", "text": SPIKE},
    )
    done = caption(folder, captions=file)
    assert [(clip.id, clip.text) for clip in done] == [("e1_0000", TOM), ("e1_0002", SPIKE)]
    assert texts(folder) == [TOM, "", SPIKE]
    assert done[0].extra["show"] == "tom-and-jerry"
    (row,) = rejected(folder)
    assert row["file_name"] == "clips/e1_0001.mp4"
    assert "--captions" in row["reason"]
    index = [json.loads(line) for line in (folder / "metadata.jsonl").read_text().splitlines()]
    assert [row["text"] for row in index] == [TOM, "", SPIKE]


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".yaml"])
def test_sidecar_takes_rows_by_time(folder: Path, tmp_path: Path, suffix: str) -> None:
    rows: list[dict[str, Any]] = [
        # The first ends a rounding after the second clip starts.
        {"source": "footage/e1.mkv", "start": 0, "end": 5.04, "text": TOM},
        {"source": "e1.mkv", "start": 12.0, "end": 13.5, "text": SPIKE},
        {"source": "other.mkv", "start": 5.0, "end": 10.0, "text": SPIKE},
    ]
    file = tmp_path / f"mine{suffix}"
    if suffix == ".jsonl":
        write_rows(file, *rows)
    elif suffix == ".yaml":
        file.write_text(yaml.safe_dump(rows))
    else:
        lines = [f'{row["source"]},{row["start"]},{row["end"]},"{row["text"]}"' for row in rows]
        file.write_text("\n".join(["source,start,end,text", *lines]))
    caption(folder, captions=file)
    assert texts(folder) == [TOM, "", SPIKE]


def test_sidecar_takes_text_beside_the_clip_and_truth_beside_the_footage(
    folder: Path, tmp_path: Path
) -> None:
    (folder / "clips" / "e1_0000.txt").write_text(SPIKE + "\n")
    write_rows(
        tmp_path / "footage" / "e1.captions.jsonl",
        {"start": 0.0, "end": 9.94, "text": TOM},
        {"start": 10.0, "end": 12.0, "text": TOM},
    )
    caption(folder)
    assert texts(folder) == [SPIKE, TOM, ""]
    assert "covers the clip, 10.00 to 14.94 s" in rejected(folder)[0]["reason"]


def test_sidecar_rejects_broken_captions_with_reason_and_text(folder: Path) -> None:
    (folder / "clips" / "e1_0000.txt").write_text("Tom runs")
    (folder / "clips" / "e1_0001.txt").write_text(TOM)
    caption(folder)
    row = rejected(folder)[0]
    assert "'Tom' has no tag" in row["reason"]
    assert row["value"] == "Tom runs"


def test_existing_captions_are_kept_unless_overwritten(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = write_rows(tmp_path / "a.jsonl", *({"file_name": f"e1_000{i}", "text": TOM} for i in range(3)))
    caption(folder, captions=file)
    new = write_rows(tmp_path / "b.jsonl", {"file_name": "e1_0001", "text": SPIKE})
    assert len(caption(folder, captions=new)) == 3
    assert "nothing to do" in capsys.readouterr().err
    assert texts(folder) == [TOM] * 3
    assert [clip.text for clip in caption(folder, captions=new, overwrite=True)] == [SPIKE]
    assert texts(folder) == [TOM, SPIKE, TOM]


def test_an_interrupted_run_goes_on(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def stops_at_the_second(job: Job) -> Callable[[Clip], str]:
        def describe(clip: Clip) -> str:
            asked.append(clip.id)
            if len(asked) == 2:
                raise KeyboardInterrupt
            return TOM

        return describe

    monkeypatch.setitem(CAPTIONERS, "mine", stops_at_the_second)
    with pytest.raises(KeyboardInterrupt):
        caption(folder, captioner="mine")
    assert texts(folder) == [TOM, "", ""]
    caption(folder, captioner="mine")
    assert asked == ["e1_0000", "e1_0001", "e1_0001", "e1_0002"]
    assert texts(folder) == [TOM] * 3


def test_no_caption_at_all_is_an_error_but_running_again_is_not(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="none of 3 clips got a caption; the first: no caption found"):
        caption(folder)
    assert len(rejected(folder)) == 3
    file = write_rows(tmp_path / "a.jsonl", {"file_name": "e1_0000", "text": TOM})
    for _ in range(2):
        assert [clip.id for clip in caption(folder, captions=file)] == ["e1_0000"]
    with pytest.raises(CastmixError, match="none of 3"):
        caption(folder, overwrite=True)


def test_a_users_cast_and_show_are_used(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "cast").mkdir()
    (tmp_path / "cast" / "sailors.yaml").write_text(
        "{id: sailors, name: Sailors, style: cartoon, characters: [{name: Ahoy}]}"
    )
    (folder / "clips" / "e1_0000.txt").write_text("[Character: Ahoy], rows. [scene-style:cartoon]")
    (clip,) = caption(folder, cast=tmp_path / "cast", show="Sailors")
    assert clip.extra["show"] == "sailors"
    with pytest.raises(CastmixError, match="no show 'Sailors'"):
        caption(folder, show="Sailors")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"text": "x"}', "row 1: expected the keys text and file_name"),
        ('{"source": "e1.mkv", "start": 3, "text": "x"}', "start < end; got 3.0 and None"),
        ('{"source": "e1.mkv", "start": "soon", "end": 4, "text": "x"}', "must be seconds"),
        ('{"file_name": "e1_0000", "text": 3}', "text must be text, got 3"),
        ("{", "cannot be read as a caption file"),
    ],
)
def test_a_broken_captions_file_is_an_error(folder: Path, tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text(content)
    with pytest.raises(CastmixError, match=re.escape(message)):
        caption(folder, captions=file)
    with pytest.raises(CastmixError, match=r"none.jsonl cannot be read"):
        caption(folder, captions=tmp_path / "none.jsonl")


def test_a_source_that_means_two_files_is_an_error(folder: Path, tmp_path: Path, video: bytes) -> None:
    add_clip(folder, video, "z", 0.0, "elsewhere/e1.mkv")
    file = write_rows(tmp_path / "a.jsonl", {"source": "e1.mkv", "start": 0, "end": 5, "text": TOM})
    with pytest.raises(
        CastmixError, match=r"source 'e1.mkv' is ambiguous, it matches .* and .*: write more of the path"
    ):
        caption(folder, captions=file)


def test_transcript_has_the_lines_of_the_span(tmp_path: Path) -> None:
    (tmp_path / "e1.srt").write_bytes(
        "\ufeff1\r\n00:00:01,000 --> 00:00:02,500\r\n<i>Hello</i>\r\nthere\r\n\r\n"
        "2\r\n00:00:04,000 --> 00:00:05,000\r\n{\\an8}Later\r\n".encode()
    )
    source = str(tmp_path / "e1.mkv")
    assert transcript(source, 0.0, 5.0) == "Hello there\nLater"
    assert transcript(source, 2.5, 4.5) == "Later"
    assert transcript(source, 2.5, 4.0) == ""
    assert transcript(str(tmp_path / "e2.mkv"), 0.0, 5.0) == ""
    (tmp_path / "e1.srt").rename(tmp_path / "e1.eng.srt")
    assert transcript(source, 2.5, 4.5) == "Later"


# openai, against a server that speaks the protocol


@dataclass
class Fake:
    """A chat server that plays a script: (status, body, headers), or functions that return them."""

    script: list[Any] = field(default_factory=list)
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    url: str = ""

    def says(self, *replies: str) -> None:
        self.script += [reply_of(reply) for reply in replies]


def reply_of(text: str | None) -> tuple[int, str, dict[str, str]]:
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    return 200, json.dumps({"id": "1", "object": "chat.completion", "model": "see", "choices": [choice]}), {}


@pytest.fixture
def fake() -> Iterator[Fake]:
    state = Fake()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            assert self.path == "/v1/models"
            self.answer(200, json.dumps({"object": "list", "data": [{"id": "see", "object": "model"}]}), {})

        def do_POST(self) -> None:
            question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            state.asked.append(question)
            state.keys.append(self.headers.get("Authorization"))
            state.times.append(time.monotonic())
            if self.path != "/v1/chat/completions":
                self.answer(404, '{"error": {"message": "no such path"}}', {})
                return
            step = state.script.pop(0) if state.script else (500, "the script is over", {})
            if callable(step):
                step = step(self)
            self.answer(*step)

        def answer(self, status: int, body: str, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Type": "application/json"} | headers).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client gave up, as it should
                super().handle()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}"
    yield state
    server.shutdown()
    server.server_close()
    thread.join()


def ask(folder: Path, fake: Fake, **settings: Any) -> list[Clip]:
    given: dict[str, Any] = {
        "show": "tom-and-jerry",
        "server": fake.url,
        "model": "see",
        "retries": 0,
    } | settings
    return caption(folder, captioner="openai", **given)


def only(folder: Path, count: int) -> None:
    """Leave so many clips in the folder."""
    for clip in read_clips(folder)[count:]:
        clip.path.unlink()
        clip.path.with_suffix(".json").unlink()


def test_openai_sends_frames_transcript_show_and_cast(folder: Path, tmp_path: Path, fake: Fake) -> None:
    (tmp_path / "footage" / "e1.srt").write_text("1\n00:00:06,000 --> 00:00:07,000\nCome back here!\n")
    fake.says(TOM, f"<think>Who is it? It is\nSpike.</think>\n{SPIKE}\n", TOM)
    done = ask(folder, fake, frames=3, key=KEY)
    assert texts(folder) == [TOM, SPIKE, TOM]
    assert {clip.extra["show"] for clip in done} == {"tom-and-jerry"}
    assert fake.keys == [f"Bearer {KEY}"] * 3
    question = fake.asked[1]
    assert question["model"] == "see"
    assert question["temperature"] == 0
    system, user = question["messages"]
    for who in CAST.show("tom-and-jerry").characters:
        assert f"- {who.name}: {who.description}" in system["content"]
    assert "Rufus" not in system["content"]
    assert "Tom and Jerry (cartoon)" in user["content"][0]["text"]
    assert "Come back here!" in user["content"][0]["text"]
    assert "Come back here!" not in fake.asked[0]["messages"][1]["content"][0]["text"]
    greys = []
    for part in user["content"][1:]:
        url = part["image_url"]["url"]
        assert url.startswith("data:image/jpeg;base64,")
        image = Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2])))
        assert image.size == (48, 32)
        greys.append(float(np.asarray(image).mean()))
    assert np.allclose(greys, [0, 100, 200], atol=4)


def test_openai_reads_address_key_and_model_from_the_environment(
    folder: Path, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    only(folder, 1)
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("CASTMIX_VLM_URL", fake.url + "/v1/")
    monkeypatch.setenv("OPENAI_API_KEY", KEY + "\n")
    fake.says(TOM)
    caption(folder, captioner="openai", show="Tom and Jerry")  # the model is the server's only one
    assert fake.keys == [f"Bearer {KEY}"]
    assert fake.asked[0]["model"] == "see"


def test_a_reply_that_breaks_the_grammar_goes_back_with_the_reason(folder: Path, fake: Fake) -> None:
    only(folder, 1)
    fake.says("Tom chases Jerry.", TOM.replace("cartoon", "realistic"), TOM)
    ask(folder, fake)
    assert texts(folder)[0] == TOM
    first, second, third = (question["messages"] for question in fake.asked)
    assert [message["role"] for message in third] == ["system", "user"] + ["assistant", "user"] * 2
    assert first == second[:2] == third[:2]
    assert second[2]["content"] == "Tom chases Jerry."
    assert "'Jerry' has no tag: write [Character: Jerry]" in second[3]["content"]
    assert "this show is cartoon: end with [scene-style:cartoon]" in third[5]["content"]


def test_a_clip_is_rejected_after_three_broken_replies(folder: Path, fake: Fake) -> None:
    only(folder, 2)
    other = tag("Sheldon reads, cartoon", CAST)  # well-formed, but he is in another show
    fake.says("bad", "worse", other, TOM)
    ask(folder, fake)
    assert texts(folder) == ["", TOM]
    (row,) = rejected(folder)
    assert row["value"] == other
    assert row["reason"].startswith(
        "all 3 replies of the model broke the grammar, the last one: [Character: Sheldon] is unknown"
    )
    assert not fake.script


def test_a_clip_without_characters_is_rejected_without_a_retry(folder: Path, fake: Fake) -> None:
    only(folder, 2)
    fake.says("Nobody.", TOM)
    ask(folder, fake)
    assert [row["reason"] for row in rejected(folder)] == ["the model sees no character of Tom and Jerry"]


def test_too_many_requests_waits_as_long_as_asked(folder: Path, fake: Fake) -> None:
    only(folder, 1)
    fake.script = [(429, '{"error": {"message": "slow down"}}', {"Retry-After": "1"}), reply_of(TOM)]
    ask(folder, fake, retries=1)
    assert texts(folder)[0] == TOM
    assert fake.times[1] - fake.times[0] >= 0.9


def test_a_server_that_is_slow_once_is_asked_again(folder: Path, fake: Fake) -> None:
    only(folder, 1)
    release = threading.Event()

    def slow(_: Any) -> tuple[int, str, dict[str, str]]:
        release.wait(5)
        return reply_of(SPIKE)

    fake.script = [slow, reply_of(TOM)]
    ask(folder, fake, timeout=0.5, retries=1)
    release.set()
    assert texts(folder)[0] == TOM


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((500, '{"error": {"message": "out of memory"}}', {}), "the server answered 500: .*out of memory"),
        ((200, '{"choices": [', {}), "something that is not JSON"),
        ((200, "<html>Welcome</html>", {"Content-Type": "text/html"}), "something that is not JSON"),
        ((200, '{"choices": []}', {}), "not a chat completion"),
        ((200, "[1]", {}), "not a chat completion"),
        (reply_of(None), "without any text"),
        ((401, '{"error": {"message": "wrong key"}}', {}), "the server answered 401: .*wrong key"),
    ],
)
def test_unusable_answers_reject_the_clip(
    folder: Path, fake: Fake, answer: tuple[int, str, dict[str, str]], reason: str
) -> None:
    only(folder, 2)
    fake.script = [answer, reply_of(TOM)]
    ask(folder, fake)
    assert texts(folder) == ["", TOM]
    (row,) = rejected(folder)
    assert re.search(reason, row["reason"])


def test_repeated_server_errors_end_the_run_with_the_reason(folder: Path, fake: Fake) -> None:
    only(folder, 1)
    fake.script = [(500, "boom", {})] * 3
    with pytest.raises(
        CastmixError, match="none of 1 clips got a caption; the first: the server answered 500"
    ):
        ask(folder, fake, retries=1)
    assert len(fake.asked) == 2


def test_a_server_that_cannot_be_reached_is_given_up(
    folder: Path, video: bytes, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(SERVER_FAILURES):
        add_clip(folder, video, f"more_{number}", 0.0, "e2.mkv")
    settings: dict[str, Any] = {"show": "tom-and-jerry", "model": "see", "retries": 0}
    with pytest.raises(CastmixError, match=r"none of 8 clips .* cannot be reached \(.*refused"):
        caption(folder, captioner="openai", server="http://127.0.0.1:9/v1", **settings)
    assert len(rejected(folder)) == SERVER_FAILURES
    error = capsys.readouterr().err
    assert "the rest is not asked for" in error
    assert "127.0.0.1" not in error


def test_a_server_without_an_answer_times_out(fake: Fake) -> None:
    release = threading.Event()
    fake.script = [lambda _: (release.wait(5), reply_of("late"))[1]]
    with pytest.raises(ServerError, match=r"gave no answer within 0.3 s, in 1 attempts"):
        connect_server(fake.url, model="see", timeout=0.3, retries=0)([{"role": "user", "content": "?"}])
    release.set()


@pytest.mark.parametrize("status", [200, 400, 401, 500])
def test_api_key_and_address_are_never_written(
    folder: Path,
    fake: Fake,
    status: int,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    host = fake.url.removeprefix("http://")
    echo = f"you sent Authorization: Bearer {KEY} to {fake.url}/v1"
    bodies = [json.dumps({"error": {"message": echo, "code": KEY}}), echo, f'"{KEY}"']
    fake.script = [(status, body, {"X-Echo": KEY}) for body in bodies] + [reply_of(echo)] * 20
    caplog.set_level(logging.DEBUG)
    for name in ("openai", "httpx2", "httpcore2", "httpx"):
        caplog.set_level(logging.DEBUG, logger=name)
    with pytest.raises(CastmixError) as caught:
        ask(folder, fake, key=KEY)
    assert fake.keys[0] == f"Bearer {KEY}"
    seen = [caplog.text, *capsys.readouterr(), "".join(traceback.format_exception(caught.value))]
    seen += [repr(caught.value.__context__), repr(caught.value.__cause__)]
    seen += [
        path.read_text(encoding="utf-8", errors="replace") for path in folder.rglob("*") if path.is_file()
    ]
    for text in seen:
        assert KEY not in text
        assert KEY[3:] not in text
        assert host not in text
    run = yaml.safe_load((folder / RUN).read_text())
    assert not {"key", "server"} & set(run["arguments"])
    assert run["arguments"]["show"] == "tom-and-jerry"


def test_secrets_of_a_job_are_not_printed() -> None:
    job = Job((), CAST, None, None, "http://me:pw@elsewhere", KEY, "see", 10, 1.0, 0)
    assert KEY not in repr(job)
    assert "elsewhere" not in repr(job)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"server": None}, "no server given: pass --server"),
        ({"server": "localhost:8000"}, "must look like http://localhost:8000/v1"),
        ({"server": "ftp://secret.host/v1"}, "must look like http"),
        ({"key": "sk-\n-broken"}, "characters that an HTTP header cannot contain"),
        ({"captioner": "opnai"}, "no captioner 'opnai': choose openai"),
        ({"frames": 0}, "frames must be 1 or more.*got frames 0"),
        ({"show": "tom-jerry"}, "did you mean tom-and-jerry"),
        ({"show": None}, "which show is it from"),
    ],
)
def test_wrong_arguments_are_errors(folder: Path, settings: dict[str, Any], message: str) -> None:
    given = {"captioner": "openai", "server": "http://127.0.0.1:9", "model": "see", "show": "tom-and-jerry"}
    with pytest.raises(CastmixError, match=message) as caught:
        caption(folder, **(given | {"retries": 0} | settings))
    assert "secret" not in str(caught.value)
    assert "broken" not in str(caught.value)


def test_a_server_with_several_models_wants_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    from toolkit.captions import vlm

    monkeypatch.setattr(vlm, "_post", lambda *_: {"data": [{"id": "a"}, {"id": "b"}]})
    with pytest.raises(CastmixError, match=r"the server has 2 models, \['a', 'b'\]: choose one"):
        connect_server("http://127.0.0.1:9")


# transformers, with a random model of a real class


@pytest.fixture(scope="session")
def tiny_llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random Llava that sees 16x16 pixels, with a processor that needs no torchvision."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        CLIPImageProcessorPil,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    vocab = {word: number for number, word in enumerate(["<pad>", "</s>", "<unk>", "<image>", *"abc:."])}
    words = Tokenizer(models.WordLevel(vocab, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessorPil(
            size={"shortest_edge": 16}, crop_size={"height": 16, "width": 16}
        ),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template="{% for m in messages %}{{ m['role'] }}: {% for part in m['content'] %}"
        "{{ '<image> ' if part['type'] == 'image' else part['text'] }}{% endfor %}\n{% endfor %}",
    )
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlavaConfig(
        vision_config=CLIPVisionConfig(**small, image_size=16, patch_size=8, projection_dim=16),
        text_config=LlamaConfig(**small, vocab_size=len(vocab), num_key_value_heads=2, eos_token_id=1),
        image_token_id=3,
    )
    folder = tmp_path_factory.mktemp("llava")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        LlavaForConditionalGeneration(config).save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def test_a_local_model_captions_clips(
    folder: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolkit.captions import vlm
    from toolkit.captions import vlm_captioner as captioner

    monkeypatch.setattr(vlm, "MAX_REPLY_TOKENS", 8)
    replies: list[str] = []
    real = vlm.load_local_model(str(tiny_llava))

    def chat(messages: list[vlm.Message]) -> str:
        replies.append(real(messages))
        return replies[-1] if len(replies) < 3 else TOM

    only(folder, 1)
    (clip,) = read_clips(folder)
    # A random model never speaks the grammar: what it says goes back twice, with the pictures.
    assert captioner.caption_clip(clip, CAST.show("tom-and-jerry"), CAST, chat, frames=2) == TOM
    assert len(replies) == 3
    assert all(set(reply.split()) <= set("abc:.") for reply in replies)
    assert any(reply.split() for reply in replies)
    with pytest.raises(
        CastmixError, match="none of 1 clips got a caption; the first: all 3 replies of the model broke"
    ):
        caption(folder, captioner="transformers", model=str(tiny_llava), show="tom-and-jerry", frames=2)


def test_a_local_model_sees_the_pictures(tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch
    from transformers import LlavaForConditionalGeneration

    from toolkit.captions import vlm

    seen: list[torch.Tensor] = []

    def spy(self: Any, **inputs: torch.Tensor) -> torch.Tensor:
        seen.append(inputs["pixel_values"])
        return torch.cat([inputs["input_ids"], torch.tensor([[4, 5]])], dim=1)

    monkeypatch.setattr(LlavaForConditionalGeneration, "generate", spy)
    frames = [np.full((32, 48, 3), grey, np.uint8) for grey in (0, 255)]
    message = {"role": "user", "content": [vlm.text_part("a"), *map(image_part, frames)]}
    assert vlm.load_local_model(str(tiny_llava))([message]).split() == ["a", "b"]
    assert seen[0].shape == (2, 3, 16, 16)
    assert seen[0][0].max() < seen[0][1].min()


def test_a_missing_or_broken_local_model_is_an_error(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="no vision-language model given"):
        caption(folder, captioner="transformers")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CastmixError, match="empty cannot be loaded as a vision-language model"):
        caption(folder, captioner="transformers", model=str(tmp_path / "empty"))


def test_large_pictures_are_made_smaller() -> None:
    url = image_part(np.zeros((1080, 1920, 3), np.uint8))["image_url"]["url"]
    assert Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))).size == (768, 432)


def test_every_captioner_gives_a_valid_caption_or_a_rejection(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = iter([TOM, "nonsense", TOM])
    monkeypatch.setitem(CAPTIONERS, "mine", lambda job: lambda clip: next(replies))
    for clip in caption(folder, captioner="mine"):
        parse(clip.text, CAST)
    assert [row["value"] for row in rejected(folder)] == ["nonsense"]
