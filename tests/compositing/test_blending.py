"""The pixels of composites: alpha to the level, pixels that are moved and blended as they must be."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.compositing.blending import Edge, alpha_of, blend, cut_out, edge_pixels, occluded, stabilised

STILL = np.eye(3)


def half_plane(edge: float, height: int = 40, width: int = 60) -> np.ndarray:
    """A mask that covers all that is left of x = `edge`, pixels on it by the part that is covered."""
    row = np.clip(edge - np.arange(width), 0, 1)
    return np.repeat(np.round(row * 255).astype(np.uint8)[None], height, 0)


def disc(radius: float, size: int = 64) -> np.ndarray:
    y, x = np.indices((size, size)) + 0.5 - size / 2
    return np.where(np.hypot(x, y) < radius, 255, 0).astype(np.uint8)


@pytest.mark.parametrize("edge", [30.0, 30.25, 30.75])
@pytest.mark.parametrize(
    ("erode", "feather"), [(0.0, 1.0), (0.2, 1.0), (1.0, 2.0), (1.5, 2.5), (0.0, 4.0), (3.0, 6.0)]
)
def test_alpha_is_a_straight_ramp_at_the_distance_of_the_outline(
    edge: float, erode: float, feather: float
) -> None:
    alpha = alpha_of(half_plane(edge), erode, feather)
    inward = edge - (np.arange(60) + 0.5)
    true = np.clip(0.5 + (inward - erode) / feather, 0, 1) * 255
    assert (alpha == alpha[0]).all()
    outside, inside = inward < erode - feather / 2 - 0.5, inward > erode + feather / 2 + 0.5
    assert (alpha[0, outside] == 0).all()
    assert (alpha[0, inside] == 255).all()
    # an outline on a pixel's border is known exactly; one within a pixel to half a pixel, beyond that pixel
    slack = 1.0 if edge == 30.0 else 255 / feather * 0.5 + 1
    assert np.abs(alpha[0] - true).max() <= slack


def test_alpha_within_a_pixel_is_what_the_mask_covers() -> None:
    np.testing.assert_allclose(alpha_of(half_plane(30.3), 0, 1)[0], half_plane(30.3)[0], atol=1)


def test_a_hard_edge_is_the_mask_and_nothing_between() -> None:
    mask = np.random.default_rng(0).integers(0, 256, (20, 30)).astype(np.uint8)
    np.testing.assert_array_equal(alpha_of(mask, 0, 0), np.where(mask >= 128, 255, 0))
    assert edge_pixels(Edge(erode=0, feather=0), 64) == (0, 0)


def test_an_eroded_disc_is_a_smaller_disc() -> None:
    inner = alpha_of(disc(20), 5, 0)
    assert abs(np.count_nonzero(inner) / np.count_nonzero(disc(15)) - 1) < 0.06
    assert alpha_of(np.zeros((9, 9), np.uint8), 1, 2).max() == 0


def test_edges_grow_with_the_picture() -> None:
    assert edge_pixels(Edge(erode=1.5, feather=3), 960) == (3, 6)
    assert edge_pixels(Edge(erode=1.5, feather=3), 64) == (0.2, 1.0)  # a soft rim has a pixel at least


def test_blending_rounds_to_the_nearest_level() -> None:
    alpha, front = np.meshgrid(np.arange(256, dtype=np.uint8), np.arange(256, dtype=np.uint8))
    for back in (0, 1, 100, 254, 255):
        picture = np.full((256, 256, 3), back, np.uint8)
        blend(picture, np.repeat(front[..., None], 3, 2), alpha)
        exact = (alpha / 255) * front + (1 - alpha / 255) * back
        assert np.abs(picture[..., 0] - exact).max() <= 0.5 + 1e-9
        assert (picture[:, 0] == back).all()
        np.testing.assert_array_equal(picture[:, 255, 1], front[:, 255])
        exact = alpha * (1 - back / 255)
        assert np.abs(occluded(alpha, np.full_like(alpha, back)) - exact).max() <= 0.5 + 1e-9


def test_whole_pixels_are_moved_unchanged() -> None:
    rng = np.random.default_rng(0)
    picture, mask = rng.integers(0, 256, (64, 64, 3)).astype(np.uint8), disc(20)
    way = np.array([[1.0, 0, 7], [0, 1, -3], [0, 0, 1]])
    cut = cut_out(picture, mask, way, 80, 90)
    assert cut is not None
    whole, where = np.zeros((80, 90, 3), np.uint8), np.zeros((80, 90), np.uint8)
    whole[cut.region], where[cut.region] = cut.rgb, cut.mask
    np.testing.assert_array_equal(where[:61, 7:71], mask[3:])
    assert where.sum() == mask.sum()
    np.testing.assert_array_equal(whole[:61, 7:71][mask[3:] > 0], picture[3:][mask[3:] > 0])
    mirror = cut_out(picture, mask, np.array([[-1.0, 0, 64], [0, 1, 0], [0, 0, 1]]), 64, 64)
    assert mirror is not None
    np.testing.assert_array_equal(
        mirror.rgb[mirror.mask > 0], picture[:, ::-1][mirror.region][mirror.mask > 0]
    )


@pytest.mark.parametrize("scale", [0.3, 0.6, 0.8, 1.0, 1.4])
def test_a_scaled_mask_keeps_its_middle_and_area(scale: float) -> None:
    way = np.array([[scale, 0, 5.0], [0, scale, 9.0], [0, 0, 1]])
    cut = cut_out(np.zeros((64, 64, 3), np.uint8), disc(20), way, 120, 120)
    assert cut is not None
    weight = cut.mask / 255
    assert abs(weight.sum() / (scale**2 * (disc(20) > 0).sum()) - 1) < 0.03
    y, x = np.indices(weight.shape) + 0.5
    middle = (x * weight).sum() / weight.sum() + cut.left, (y * weight).sum() / weight.sum() + cut.top
    np.testing.assert_allclose(middle, (32 * scale + 5, 32 * scale + 9), atol=0.05)


def test_a_cut_out_outside_the_picture_is_none() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    assert cut_out(picture, disc(20), np.array([[1.0, 0, 500], [0, 1, 0], [0, 0, 1]]), 64, 64) is None
    assert cut_out(picture, np.zeros((64, 64), np.uint8), STILL, 64, 64) is None


def test_stabilising_removes_flicker_and_keeps_movement() -> None:
    flicker = [disc(20), disc(20), disc(20), disc(20), disc(20)]
    flicker[2] = flicker[2].copy()
    flicker[2][32, 51:54] = 255
    steadied = list(stabilised(flicker, 3))
    np.testing.assert_array_equal(steadied[2], disc(20))
    walking = [np.roll(disc(12), 9 * k - 18, axis=1) for k in range(5)]
    for before, after in zip(walking, stabilised(walking, 3), strict=True):
        np.testing.assert_array_equal(before, after)
    far = [disc(20), disc(8), disc(20)]  # more than an outline's flicker
    np.testing.assert_array_equal(list(stabilised(far, 2))[1] > 0, np.stack(list(stabilised(far, 2)))[1] > 0)
    assert list(stabilised(iter(flicker), 0))[2] is flicker[2]
    one = list(stabilised([disc(20)], 2))
    np.testing.assert_array_equal(one[0], disc(20))
