"""Masks beside clips: what is written is what is read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from toolkit.core.errors import CastmixError
from toolkit.footage.clips import Clip
from toolkit.footage.masks import accepted_mask_names, iter_mask, mask_path, read_mask, write_mask


def clip(**extra: object) -> Clip:
    return Clip(Path("d/clips/e1.x_s000.mp4"), "", "e1.mkv", 0, 1, 16.0, 17, 96, 64, 0, dict(extra))


@pytest.mark.parametrize("shape", [(9, 64, 96), (3, 31, 47), (2, 8, 8)])
def test_every_value_comes_back(tmp_path: Path, shape: tuple[int, int, int]) -> None:
    masks = np.random.default_rng(0).integers(0, 256, shape).astype(np.uint8)
    write_mask(tmp_path / "a.mask.mkv", iter(masks), 16.0)
    np.testing.assert_array_equal(read_mask(tmp_path / "a.mask.mkv"), masks)
    assert len(list(iter_mask(tmp_path / "a.mask.mkv"))) == len(masks)


def test_equal_masks_make_equal_small_files(tmp_path: Path) -> None:
    y, x = np.mgrid[:240, :416]
    masks = [np.uint8(255) * ((y - 120) ** 2 + (x - 100 - 3 * t) ** 2 < 3600) for t in range(49)]
    for name in "ab":
        write_mask(tmp_path / name, masks, 23.976)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a").stat().st_size < 0.01 * 49 * 240 * 416


def test_a_failed_mask_leaves_no_file(tmp_path: Path) -> None:
    good, bad = np.zeros((4, 6), np.uint8), np.zeros((4, 8), np.uint8)
    with pytest.raises(CastmixError, match=r"mask 1 is uint8 \(4, 8\), expected uint8 \(4, 6\)"):
        write_mask(tmp_path / "a", [good, bad], 8.0)
    with pytest.raises(CastmixError, match="mask 0 is bool"):
        write_mask(tmp_path / "a", [good.astype(bool)], 8.0)  # type: ignore[list-item]
    with pytest.raises(CastmixError, match="no masks to write"):
        write_mask(tmp_path / "a", [], 8.0)
    assert list(tmp_path.iterdir()) == []


def test_missing_and_damaged_masks_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CastmixError, match="missing: create it with `castmix segment`"):
        read_mask(tmp_path / "a.mask.mkv")
    path = tmp_path / "b.mask.mkv"
    write_mask(path, np.random.default_rng(0).integers(0, 256, (9, 64, 96)).astype(np.uint8), 8.0)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    with pytest.raises(CastmixError, match=r"damaged \(it ends after 0.625 s\)"):
        read_mask(path)


def test_mask_paths_and_accepted_names() -> None:
    assert mask_path(clip(), "Mr. Bean") == Path("d/clips/e1.x_s000.mr-bean.mask.mkv")
    assert mask_path(clip(), "Ёлка") == mask_path(clip(), "ёлка")
    assert accepted_mask_names(clip()) == []
    masks = {"Pixo": {"accepted": True}, "Bruk": {"accepted": False}, "Mimi": {"accepted": True}}
    assert accepted_mask_names(clip(masks=masks)) == ["Pixo", "Mimi"]
