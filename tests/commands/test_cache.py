from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from toolkit.commands.cache import cache
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips, write_clip
from toolkit.footage.video import read_video
from toolkit.models.registry import find_model, load_encoders
from toolkit.training.cached_clips import cache_folder, load_cached_clips, load_empty_prompt, load_samples

MakeClips = Callable[..., Path]


@pytest.fixture
def clips(tmp_path: Path, make_clips: MakeClips) -> Path:
    return make_clips(tmp_path / "show", 3)


def test_cached_samples_equal_the_encoders_output(clips: Path, tiny_wan: Path) -> None:
    folder = cache(clips, model=str(tiny_wan))
    spec = find_model(str(tiny_wan))
    assert folder == cache_folder(clips, spec) == clips / "cache" / "tiny-wan"
    samples, rows, encoders = load_samples(folder), read_clips(clips), load_encoders(spec)
    assert [sample.id for sample in samples] == [clip.id for clip in rows]
    frames, _ = read_video(rows[1].path)
    video = torch.from_numpy(frames).permute(3, 0, 1, 2)[None].float() / 127.5 - 1
    assert torch.equal(samples[1].latents, encoders.encode_video(video)[0])
    assert torch.equal(samples[1].prompt_embeds, encoders.encode_text([rows[1].text])[0])
    assert torch.equal(load_empty_prompt(clips, spec), encoders.encode_text([""])[0])
    items = load_cached_clips(clips, spec)
    assert [item.shape for item in items] == [(16, 3, 4, 6)] * 3
    assert torch.equal(items[1].load()[0], samples[1].latents)


def test_only_what_changed_is_encoded_again(
    clips: Path, tiny_wan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = cache(clips, model=str(tiny_wan))
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    cache(clips, model=str(tiny_wan))
    assert before == {path.name: path.stat().st_mtime_ns for path in folder.glob("*.safetensors")}
    assert "0 encoded, 3 unchanged" in capsys.readouterr().err

    old = load_samples(folder)
    row = read_clips(clips)[0]
    write_clip(clips, replace(row, text="a red cat"))
    with pytest.raises(CastmixError, match=r"does not match its 3 clips: 1 caption changed.*castmix cache"):
        load_cached_clips(clips, find_model(str(tiny_wan)))
    (clips / "clips" / "clip-01.mp4").write_bytes((clips / "clips" / "clip-02.mp4").read_bytes())
    (clips / "clips" / "clip-02.mp4").unlink()
    (clips / "clips" / "clip-02.json").unlink()
    cache(clips, model=str(tiny_wan))
    new = load_samples(folder)
    assert [sample.id for sample in new] == ["clip-00", "clip-01"]
    assert torch.equal(new[0].latents, old[0].latents)
    assert not torch.equal(new[0].prompt_embeds, old[0].prompt_embeds)
    assert torch.equal(new[1].latents, old[2].latents)
    assert len(load_cached_clips(clips, find_model(str(tiny_wan)))) == 2


def test_another_model_makes_a_cache_stale(clips: Path, tiny_wan: Path, tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="3 not cached yet"):
        load_cached_clips(clips, find_model(str(tiny_wan)))
    model = tmp_path / "model"
    shutil.copytree(tiny_wan, model)
    cache(clips, model=str(model))
    (model / "castmix.json").write_text('{"text_length": 64}')
    with pytest.raises(CastmixError, match="3 model changed"):
        load_cached_clips(clips, find_model(str(model)))


def test_an_unreadable_clip_is_rejected_with_the_reason(
    clips: Path, tiny_wan: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = read_clips(clips)
    rows[0].path.write_bytes(b"no video at all")
    write_clip(clips, replace(rows[1], num_frames=5))
    folder = cache(clips, model=str(tiny_wan))
    rejected = [json.loads(line) for line in (folder / "rejected.jsonl").read_text().splitlines()]
    assert [row["file_name"] for row in rejected] == ["clip-00.mp4", "clip-01.mp4"]
    assert "9 frames of 48x32, but its json says 5" in rejected[1]["reason"]
    assert "1 encoded, 0 unchanged, 2 set aside" in capsys.readouterr().err
    assert len(load_cached_clips(clips, find_model(str(tiny_wan)))) == 1  # training goes on without them
    shutil.rmtree(folder)
    write_clip(clips, replace(rows[2], num_frames=8))
    with pytest.raises(CastmixError, match="none of 3 clips could be encoded"):
        cache(clips, model=str(tiny_wan))


def test_sizes_that_the_model_cannot_take(tmp_path: Path, make_clips: MakeClips, tiny_wan: Path) -> None:
    wide = make_clips(tmp_path / "wide", 1, width=40)
    with pytest.raises(CastmixError, match="width must be a multiple of 16, got 40: use 32 or 48"):
        cache(wide, model=str(tiny_wan))


def test_clips_without_captions(clips: Path, tiny_wan: Path) -> None:
    folder = cache(clips, model=str(tiny_wan))
    rows = read_clips(clips)
    write_clip(clips, replace(rows[1], text=" "))
    cache(clips, model=str(tiny_wan))
    assert {sample.id for sample in load_samples(folder)} == {rows[0].id, rows[2].id}
    assert "clip-01 has no caption" in (folder / "rejected.jsonl").read_text()
    write_clip(clips, rows[1])
    cache(clips, model=str(tiny_wan))
    assert len(load_samples(folder)) == 3
    for row in rows:
        write_clip(clips, replace(row, text=""))
    with pytest.raises(CastmixError, match=r"none of 3 clips .* has a caption: run `castmix caption"):
        cache(clips, model=str(tiny_wan))


def test_a_caption_that_is_cut_off_is_reported(
    clips: Path, tiny_wan: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_wan, model)
    (model / "castmix.json").write_text('{"text_length": 8}')
    cache(clips, model=str(model))
    assert "tokens, those after 8 are cut" in capsys.readouterr().err
