from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch

from toolkit.core.errors import CastmixError
from toolkit.core.files import fingerprint_file, fingerprint_text, safetensors_bytes, write_atomic
from toolkit.footage.clips import Clip, read_clips, write_clip, write_index
from toolkit.training.cached_clips import Sample, load_samples, save_sample


def make_clip(folder: Path, name: str, text: str = "", **extra: object) -> Clip:
    path = folder / "clips" / f"{name}.mp4"
    write_atomic(path, b"video")
    clip = Clip(path, text, "footage/a b.mkv", 1.5, 6.5, 16.0, 81, 832, 480, 3, dict(extra))
    write_clip(folder, clip)
    return clip


def rows(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "metadata.jsonl").read_bytes().split(b"\n") if line]


def touch(path: Path, seconds_later: float) -> None:
    stat = path.stat()
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + int(seconds_later * 1e9)))


def test_a_clip_comes_back_as_it_was(tmp_path: Path) -> None:
    second = make_clip(tmp_path, "b.1", "Pixo\u2028 waves “hé”", parents=["x", "y"], seed=3)
    first = make_clip(tmp_path, "a_été")
    assert read_clips(tmp_path) == [first, second]
    assert (first.id, second.id) == ("a_été", "b.1")
    write_index(tmp_path)
    assert read_clips(tmp_path) == [first, second]
    assert [row["file_name"] for row in rows(tmp_path)] == ["clips/a_été.mp4", "clips/b.1.mp4"]
    assert rows(tmp_path)[1]["parents"] == ["x", "y"]
    assert not list(tmp_path.rglob("*.part"))


def test_a_text_edited_in_the_index_is_adopted(tmp_path: Path) -> None:
    make_clip(tmp_path, "a", "before")
    write_index(tmp_path)
    index = tmp_path / "metadata.jsonl"
    index.write_text(index.read_text().replace("before", "after"))
    touch(index, 5)
    assert read_clips(tmp_path)[0].text == "after"
    index.unlink()
    assert read_clips(tmp_path)[0].text == "after"  # it is in the json now


def test_a_newer_json_wins_over_the_index(tmp_path: Path) -> None:
    clip = make_clip(tmp_path, "a", "old")
    write_index(tmp_path)
    write_clip(tmp_path, Clip(**{**clip.__dict__, "text": "new"}))
    touch(tmp_path / "clips" / "a.json", 5)
    assert read_clips(tmp_path)[0].text == "new"


def test_an_index_that_was_never_finished_takes_no_caption_away(tmp_path: Path) -> None:
    make_clip(tmp_path, "a", "")
    write_index(tmp_path)
    make_clip(tmp_path, "a", "a caption")
    touch(tmp_path / "metadata.jsonl", 60)  # as a copy of the folder may have it
    assert read_clips(tmp_path)[0].text == "a caption"


@pytest.mark.parametrize(
    ("break_it", "named"),
    [
        (lambda folder: (folder / "clips" / "a.json").unlink(), "castmix prepare"),
        (lambda folder: (folder / "clips" / "a.mp4").unlink(), "a.mp4 is missing"),
        (lambda folder: (folder / "clips" / "a.json").write_text("{"), "a.json is not valid JSON"),
        (lambda folder: (folder / "clips" / "a.json").write_text("[]"), "expected a JSON object, got list"),
        (lambda folder: (folder / "clips" / "a.json").write_text("{}"), "`text` must be text, got None"),
        (lambda folder: (folder / "metadata.jsonl").write_text("\n{'x'}\n"), "metadata.jsonl, line 2"),
    ],
)
def test_malformed_clip_files_are_named(tmp_path: Path, break_it: object, named: str) -> None:
    make_clip(tmp_path, "a")
    break_it(tmp_path)  # type: ignore[operator]
    with pytest.raises(CastmixError, match=named):
        read_clips(tmp_path)


def test_a_sample_comes_back_bit_for_bit(tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    latents, embeds = (torch.randn(shape, generator=generator) for shape in ((4, 3, 2, 2), (5, 8)))
    fingerprint = {"model": "abc", "file": "dé"}
    path = save_sample(tmp_path, Sample("a", latents, embeds, "hé", fingerprint))
    first = path.read_bytes()
    for _ in range(5):
        save_sample(tmp_path, Sample("a", latents, embeds, "hé", fingerprint))
        assert path.read_bytes() == first
    (loaded,) = load_samples(tmp_path)
    assert torch.equal(loaded.latents, latents)
    assert torch.equal(loaded.prompt_embeds, embeds)
    assert (loaded.id, loaded.text, loaded.fingerprint) == ("a", "hé", fingerprint)


def test_malformed_samples_are_named(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="castmix cache"):
        load_samples(tmp_path)
    write_atomic(tmp_path / "a.safetensors", safetensors_bytes({"x": torch.zeros(1)}, {}))
    with pytest.raises(CastmixError, match=r"a\.safetensors is not a sample"):
        load_samples(tmp_path)
    write_atomic(tmp_path / "a.safetensors", b"nonsense")
    with pytest.raises(CastmixError, match=r"a\.safetensors is not a sample"):
        load_samples(tmp_path)


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    write_atomic(tmp_path / "deep" / "a.txt", "one")
    write_atomic(tmp_path / "deep" / "a.txt", b"two")
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "two"


def test_fingerprints_follow_the_content(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("hé")
    (tmp_path / "b").write_text("hé")
    assert fingerprint_file(tmp_path / "a") == fingerprint_file(tmp_path / "b") == fingerprint_text("hé")
    assert fingerprint_text("he") != fingerprint_text("hé")
    assert len(fingerprint_text("")) == 16
