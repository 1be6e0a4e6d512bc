"""CLIP and DINO scores with tiny random models, which see as little as they need."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from toolkit.captions.cast import read_cast
from toolkit.core.errors import CastmixError
from toolkit.evaluation.clip_dino import CLIP_COLUMNS, clip_metric, dino_metric
from toolkit.evaluation.settings import Features
from toolkit.evaluation.videos import Video, characters_in, find_references, plain_prompt
from toolkit.footage.decoding import Frames
from toolkit.models.weights import local_folder

CAST = read_cast()
TEXT = "[Character: Mimi], chases [Character: Rufus]. [Character: Rufus], runs away. [scene-style:cartoon]"


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Features:
    """A random CLIP and a random DINOv2, in folders as from the hub."""
    import torch
    from transformers import (
        BitImageProcessorPil,
        CLIPConfig,
        CLIPImageProcessorPil,
        CLIPModel,
        CLIPTokenizer,
        Dinov2Config,
        Dinov2Model,
    )

    folder = tmp_path_factory.mktemp("features")
    letters = [*"abcdefghijklmnopqrstuvwxyz., "]
    words = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    vocab = {word: number for number, word in enumerate(dict.fromkeys(words))}
    size = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {**size, "vocab_size": len(vocab), "max_position_embeddings": 24}
    text |= {"bos_token_id": len(vocab) - 2, "eos_token_id": len(vocab) - 1, "pad_token_id": len(vocab) - 1}
    vision = {**size, "image_size": 32, "patch_size": 8}
    square = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)).save_pretrained(
            folder / "clip"
        )
        Dinov2Model(Dinov2Config(**vision, mlp_ratio=2)).save_pretrained(folder / "dino")
    CLIPTokenizer(vocab=vocab, merges=[]).save_pretrained(folder / "clip")
    CLIPImageProcessorPil(**square).save_pretrained(folder / "clip")
    BitImageProcessorPil(**square).save_pretrained(folder / "dino")
    return Features(str(folder / "clip"), str(folder / "dino"), device="cpu", batch_size=4)


def video(prompt: str) -> Video:
    return Video(Path("x.mp4"), "x.mp4", prompt, {}, (24, 40), "0")


def noise(count: int, seed: int = 0) -> Frames:
    return np.random.default_rng(seed).integers(0, 255, (count, 24, 40, 3), np.uint8)


def test_cosines_of_clip(tiny: Features, tmp_path: Path) -> None:
    frames = noise(6)
    Image.fromarray(frames[0]).save(tmp_path / "mimi-1.png")
    Image.fromarray(noise(1, seed=1)[0]).save(tmp_path / "rufus.png")
    measure = clip_metric(find_references(tmp_path, CAST), CAST, tiny).measure
    moving = measure(video(TEXT), lambda: (frames, 8.0))
    assert moving.values.keys() == CLIP_COLUMNS.keys()
    assert all(value is not None and -1 <= value < 1 for value in moving.values.values())
    assert moving.problems == ()
    still = measure(video("Mimi walks"), lambda: (frames[:1].repeat(5, 0), 8.0))
    assert still.values["temporal_consistency"] == pytest.approx(1, abs=1e-5)
    assert still.values["clip_i"] == pytest.approx(1, abs=1e-5)  # each frame is the reference picture
    # the text counts, and nothing of the order in which frames come in batches does
    assert measure(video("Rufus walks"), lambda: (frames, 8.0)).values["clip_t"] != moving.values["clip_t"]
    swapped = measure(video(TEXT), lambda: (frames[[3, 4, 5, 0, 1, 2]], 8.0)).values
    assert swapped["clip_t"] == pytest.approx(moving.values["clip_t"], abs=1e-5)
    assert swapped["clip_i"] == pytest.approx(moving.values["clip_i"], abs=1e-5)


def test_dino_compares_with_the_references_of_the_cast(tiny: Features) -> None:
    mimi = np.asarray(Image.open(find_references(None, CAST)["Mimi"][0]).convert("RGB"))
    measure = dino_metric({"Mimi": find_references(None, CAST)["Mimi"][:1]}, CAST, tiny).measure
    found = measure(video("[Character: Mimi], walks. [scene-style:cartoon]"), lambda: (mimi[None], 8.0))
    assert found.values["dino_i"] == pytest.approx(1, abs=1e-5)
    both = measure(video(TEXT), lambda: (noise(2), 8.0))
    assert both.values["dino_i"] is not None
    assert both.problems == (("dino_i", "no reference picture of Rufus"),)
    assert measure(video("a red star jumps"), lambda: (noise(2), 8.0)).values == {"dino_i": None}


def test_scores_record_the_references_they_depend_on(tiny: Features) -> None:
    mimi = find_references(None, CAST)["Mimi"]
    one, other = (dino_metric({"Mimi": (path,)}, CAST, tiny).depends_on for path in mimi[:2])
    assert one != other
    assert one == dino_metric({"Mimi": mimi[:1]}, CAST, tiny).depends_on


def test_wide_frames_are_compared_whole(tiny: Features) -> None:
    frames = np.full((1, 24, 72, 3), 128, np.uint8)
    beside = frames.copy()
    beside[:, :, :12] = (255, 0, 0)
    measure = dino_metric({"Mimi": find_references(None, CAST)["Mimi"]}, CAST, tiny).measure
    scores = [
        measure(video("Mimi walks"), lambda seen=seen: (seen, 8.0)).values["dino_i"]
        for seen in (frames, beside)
    ]
    assert scores[0] != scores[1]


def test_missing_weights_name_the_download(tiny: Features, tmp_path: Path) -> None:
    absent = Features(clip="nobody/has-this-clip", dino=str(tmp_path))
    assert local_folder(absent.clip) is None
    with pytest.raises(
        CastmixError, match=r"clip \(clip_t, .* needs nobody/has-this-clip, .*`hf download .*--metrics"
    ):
        clip_metric({}, CAST, absent)
    with pytest.raises(CastmixError, match=r"--features.dino .* cannot be loaded"):
        dino_metric({}, CAST, absent)
    with pytest.raises(CastmixError, match="has no text encoder"):
        clip_metric({}, CAST, Features(clip=tiny.dino))


def test_references_are_found_by_name(tmp_path: Path) -> None:
    for name in ("mr-bean_2.png", "Mr. Bean.jpg", "ice-bear-1.png", "tommy.png", "TOM 3.png", "notes.txt"):
        (tmp_path / name).touch()
    found = find_references(tmp_path, CAST)
    assert [path.name for path in found["Mr. Bean"]] == ["Mr. Bean.jpg", "mr-bean_2.png"]
    assert [path.name for path in found["Tom"]] == ["TOM 3.png"]
    assert [path.name for path in found["Ice Bear"]] == ["ice-bear-1.png"]
    assert found["Mimi"] == find_references(None, CAST)["Mimi"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(CastmixError, match="no picture is named after a character"):
        find_references(tmp_path / "empty", CAST)
    with pytest.raises(CastmixError, match="no such folder"):
        find_references(tmp_path / "nowhere", CAST)


def test_tags_are_removed_from_prompts_for_clip() -> None:
    assert plain_prompt(TEXT) == "Mimi chases Rufus. Rufus runs away. cartoon style"
    assert plain_prompt("a red star jumps") == "a red star jumps"
    assert characters_in(TEXT, CAST) == ["Mimi", "Rufus"]
    assert characters_in("Mr. Bean meets Tom and Tommy, Mr. Bean waves", CAST) == ["Mr. Bean", "Tom"]
