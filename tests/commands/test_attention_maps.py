"""`castmix attention-maps`: heat over videos, and blocks ranked by how well they see."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from toolkit.attention.block_ranking import (
    MaskedClip,
    best_combination,
    map_ious,
    maps_of_all_blocks,
    rank_layers,
    separation,
)
from toolkit.attention.heatmap import MIN_HEIGHT, overlay, upsampled
from toolkit.cli.click_app import castmix
from toolkit.commands.attention_maps import attention_maps, overlap
from toolkit.core.errors import CastmixError
from toolkit.footage.clips import read_clips, write_clip
from toolkit.footage.masks import mask_path, write_mask
from toolkit.footage.video import read_video
from toolkit.models.registry import load_denoiser

PROMPT = "[Character: Pixo], jumps over the moon"


@pytest.fixture(scope="module")
def small_wan(tiny_wan: Path, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny Wan with settings of its own: small, short and two steps."""
    folder = tmp_path_factory.mktemp("look") / "small-wan"
    shutil.copytree(tiny_wan, folder)
    settings = {"num_frames": 9, "height": 32, "width": 48, "steps": 2, "text_length": 40, "fps": 8}
    (folder / "castmix.json").write_text(json.dumps(settings))
    return str(folder)


def test_upsampled_heat_keeps_place_and_time() -> None:
    maps = torch.zeros(3, 2, 4)
    maps[0, 0, 0] = maps[2, 1, 3] = 1
    heat = upsampled(maps, 9, 32, 64)
    assert heat.shape == (9, 32, 64)
    hottest = [np.unravel_index(frame.argmax(), frame.shape) for frame in heat]
    assert [float(frame.max()) for frame in heat] == [1] + [0] * 4 + [1] * 4
    assert all(y < 16 and x < 16 for y, x in hottest[:1])
    assert all(y >= 16 and x >= 48 for y, x in hottest[5:])
    assert upsampled(maps[:1], 1, 32, 64).shape == (1, 32, 64)


def test_an_overlay_is_bright_where_attention_is_high() -> None:
    video = np.full((2, 32, 48, 3), 100, np.uint8)
    heat = np.zeros((2, 32, 48), np.float32)
    heat[:, :, 24:] = 1
    drawn = overlay(video, heat, "Pixo")
    times = MIN_HEIGHT // 32
    assert drawn.shape[2] == 48 * times
    assert drawn.shape[1] > 32 * times
    assert drawn.shape[1] % 2 == 0
    picture = drawn[:, -32 * times :]
    assert picture[:, :, 24 * times :].mean() > picture[:, :, : 24 * times].mean() + 80


def test_map_iou_is_independent_of_scale() -> None:
    target = torch.zeros(1, 2, 3, 4)
    target[0, :, 0] = 1  # 8 of 24 places
    for own, expected in ((target, 1.0), (100 + target / 9, 1.0), (-target, 0.0)):
        ((iou, chance),) = map_ious(own, target)
        assert iou == expected
        assert chance == pytest.approx(8 / (48 - 8))
    assert list(map_ious(target, torch.zeros(1, 2, 3, 4))) == []


def test_separation_is_relative_to_each_subjects_mean() -> None:
    targets = torch.zeros(2, 1, 2, 4)
    targets[0, :, :, :2] = targets[1, :, :, 2:] = 1
    assert separation(targets + 0.1, targets) == [1, 1]
    assert separation(torch.stack([10 * (targets[0] + 0.1), targets[1] + 0.1]), targets) == [1, 1]
    assert separation(targets.flip(0) + 0.1, targets) == [0, 0]
    assert separation(targets[:1], targets[:1]) == []


def test_the_block_with_the_best_maps_is_ranked_first() -> None:
    target = torch.zeros(1, 2, 3, 4)
    target[0, 1, :, 2:] = 1
    clip = MaskedClip("a", "a cat", torch.zeros(1), torch.zeros(1), 1, [(0,)], target)
    halves = torch.stack([target.clone(), target.clone(), target.flip(-1)])  # (layers, 1, f, h, w)
    halves[0, 0, 1, 0] = halves[1, 0, 1, 1:] = 0  # each of two blocks sees a part
    maps = [halves.expand(2, -1, -1, -1, -1, -1)]
    ranked = rank_layers(maps, [clip], [0.5, 0.9])
    assert [one.layer for one in ranked] == [0, 1, 2]
    best, combined = best_combination(maps, [clip], [0.5, 0.9], ranked, most=3)
    assert best.cross == (0, 1)
    assert combined.iou == 1 > ranked[0].iou
    assert combined.by_sigma == {0.5: 1, 0.9: 1}


def test_overlap_counts_shared_maxima_of_two_subjects() -> None:
    one = torch.rand(2, 5, 5, generator=torch.Generator().manual_seed(0))
    assert overlap(one, 3 * one + 1) == 1
    assert overlap(one, -one) == 0


def test_a_prompt_becomes_heat_maps(small_wan: str, tmp_path: Path) -> None:
    words = ["attention-maps", "--prompt", PROMPT, "--subject", "Pixo", "--subject", "the moon"]
    words += ["--model", small_wan, "--sigma", "1", "--sigma", "0.5", "--layers", "1"]
    for out in ("a", "b"):
        result = CliRunner().invoke(castmix(), [*words, "--out", str(tmp_path / out)])
        assert result.exit_code == 0, result.output
    videos = sorted(path.name for path in (tmp_path / "a").glob("*.mp4"))
    assert [name[:6] for name in videos] == ["0-pixo"] * 2 + ["1-the-"] * 2
    frames, fps = read_video(tmp_path / "a" / videos[0])
    assert (len(frames), fps) == (9, 8)
    assert (tmp_path / "a" / "sheet.png").stat().st_size > 1000
    maps = load_file(tmp_path / "a" / "maps.safetensors")
    assert sorted({key.partition("/")[2] for key in maps}) == ["Pixo", "the moon"]
    assert len(maps) == 4
    assert all(one.shape == (3, 2, 3) and one.min() >= 0 and one.max() <= 1 for one in maps.values())
    again = load_file(tmp_path / "b" / "maps.safetensors")
    assert all(torch.equal(maps[key], again[key]) for key in maps)


def test_a_given_video_is_used_for_the_maps(
    small_wan: str, tmp_path: Path, make_clips: Callable[..., Path]
) -> None:
    clip = make_clips(tmp_path / "data", 1) / "clips" / "clip-00.mp4"
    made = attention_maps(tmp_path / "out", prompt=PROMPT, video=clip, model=small_wan, sigma=[0.7])
    assert [path.name for path in made] == ["sheet.png", "0-pixo-sigma0.70.mp4"]
    assert load_file(tmp_path / "out" / "maps.safetensors")["sigma_0.70/Pixo"].shape == (3, 2, 3)


def masked(folder: Path, make_clips: Callable[..., Path]) -> Path:
    """Two clips whose moving squares have masks, and one without."""
    data = make_clips(folder, 3)
    for clip in read_clips(data)[:2]:
        mask = np.zeros((9, 32, 48), np.uint8)
        for t in range(9):
            mask[t, :16, : 2 * t + 16] = 255
        write_mask(mask_path(clip, "Pixo"), mask, clip.fps)
        masks = {"Pixo": {"accepted": True}, "Bruk": {"accepted": True}}  # Bruk is in no caption
        write_clip(data, dataclasses.replace(clip, extra={**clip.extra, "masks": masks}))
    return data


def test_a_probe_ranks_all_blocks(small_wan: str, tmp_path: Path, make_clips: Callable[..., Path]) -> None:
    data = masked(tmp_path / "data", make_clips)
    made = attention_maps(tmp_path / "out", probe=data, model=small_wan, sigma=[0.9, 0.5])
    assert [path.name for path in made] == ["layers.md", "layers.json"]
    record: Any = json.loads(made[1].read_text())
    assert record["clips"] == ["clip-00", "clip-01"]
    assert sorted(one["layer"] for one in record["layers"]) == [0, 1]
    assert all(0 < one["chance"] < 1 and 0 <= one["iou"] <= 1 for one in record["layers"])
    assert set(record["best"]["cross"]) <= {0, 1}
    assert made[0].read_text().startswith("| block | IoU | told apart | IoU at 0.9 | IoU at 0.5 |\n")


def test_block_ranking_is_deterministic(small_wan: str) -> None:
    denoiser = load_denoiser(small_wan)
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(16, 3, 4, 6, generator=generator)
    embeds = torch.randn(40, 24, generator=generator)
    clip = MaskedClip("a", "a cat", latents, embeds, 5, [(1,), (2, 3)], torch.ones(2, 3, 2, 3))
    (one,), (two,) = (maps_of_all_blocks(denoiser, [clip], [0.9, 0.5], 2, seed=0) for _ in range(2))
    assert one.shape == (2, 2, 2, 3, 2, 3)  # sigmas, blocks, subjects, f, h, w
    assert torch.equal(one, two)
    (other,) = maps_of_all_blocks(denoiser, [clip], [0.9, 0.5], 2, seed=1)
    assert not torch.equal(one, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "give either --prompt"),
        ({"prompt": PROMPT, "probe": Path("x")}, "give either --prompt"),
        ({"prompt": "the moon"}, "no subject in .the moon.: give words"),
        ({"prompt": PROMPT, "subject": ["Bruk"]}, "'Bruk' is not in the prompt"),
        ({"prompt": PROMPT, "sigma": [0.0]}, "sigma must be above 0 and at most 1, got 0.0"),
        ({"prompt": PROMPT, "steps": 0}, "steps must be 1 or more"),
        ({"prompt": PROMPT, "layers": [2]}, "no block 2: this model has blocks 0 to 1"),
    ],
)
def test_wrong_arguments_are_errors(
    small_wan: str, tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(CastmixError, match=message):
        attention_maps(tmp_path / "out", model=small_wan, **arguments)


def test_clips_without_masks_cannot_be_probed(
    small_wan: str, tmp_path: Path, make_clips: Callable[..., Path]
) -> None:
    data = make_clips(tmp_path / "data", 1)
    with pytest.raises(CastmixError, match=r"no clip has an accepted mask .* run `castmix segment"):
        attention_maps(tmp_path / "out", probe=data, model=small_wan)
