"""How a camera moved is found again, in pictures whose movement is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from toolkit.compositing.camera_motion import CameraMotion, estimate_motion, matrices, motion_to_compensate
from toolkit.core.errors import CastmixError

HEIGHT, WIDTH, FPS = 96, 144, 8.0


def scene(plain: bool = False) -> np.ndarray:
    """A wall with soft patches, three times as large as the picture."""
    import cv2

    rng = np.random.default_rng(0)
    patches = np.full((30, 45), 128) if plain else rng.integers(30, 220, (30, 45))
    return np.asarray(
        cv2.resize(patches.astype(np.uint8), (3 * WIDTH, 3 * HEIGHT), interpolation=cv2.INTER_CUBIC)
    )


def seen(path: np.ndarray, *, masked: bool, plain: bool = False) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """What cameras on their path (F, 4) see, somebody crossing the picture before them; and where that is."""
    import cv2

    wall = scene(plain)
    first = np.array([[1.0, 0, -WIDTH], [0, 1, -HEIGHT], [0, 0, 1]])
    for number, way in enumerate(matrices(path)):
        shown = (np.linalg.inv(way) @ first)[:2]
        picture = np.asarray(cv2.warpAffine(wall, shown, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR))
        mask = np.zeros_like(picture)
        mask[40:80, 5 * number : 5 * number + 25] = 255
        picture = np.where(mask > 0, 255 - picture, picture)
        yield picture.astype(np.uint8), mask if masked else np.zeros_like(mask)


def path_of(**ends: float) -> np.ndarray:
    """A camera that goes evenly from nothing to these values of a (less 1), b, x, y in 9 frames."""
    share = np.linspace(0, 1, 9)
    return np.stack([1 + share * ends.get("a", 0), *(share * ends.get(key, 0) for key in "bxy")], 1)


@pytest.mark.parametrize("masked", [True, False])
@pytest.mark.parametrize(
    "ends", [{}, {"x": 40.0}, {"x": -20, "y": 12}, {"a": 0.2, "x": -14, "y": -9}, {"b": 0.1}]
)
def test_pans_zooms_and_turns_are_found(ends: dict[str, float], masked: bool) -> None:
    path = path_of(**ends)
    found = estimate_motion(seen(path, masked=masked), FPS)
    assert found.tracked == 1
    corners = np.array([[0, WIDTH, 0], [0, 0, HEIGHT], [1, 1, 1]])
    off = (matrices(found.trajectory) - matrices(path)) @ corners
    assert np.abs(off).max() < 0.5
    if not ends:
        assert found.speed < 0.003
        assert motion_to_compensate(found, HEIGHT, WIDTH, 0.035, 0.5) is None
    else:
        np.testing.assert_array_equal(
            motion_to_compensate(found, HEIGHT, WIDTH, 0.035, 2.0), found.trajectory
        )
    if ends == {"x": 40.0}:
        assert abs(found.speed - 5 / HEIGHT * FPS) < 0.02


def test_what_cannot_be_used_says_why() -> None:
    path = path_of(x=40.0)
    with pytest.raises(CastmixError, match=r"moves by 0.40 picture heights per second, limit 0.3"):
        motion_to_compensate(CameraMotion(0.4, path, 1.0), HEIGHT, WIDTH, 0.035, 0.3)
    with pytest.raises(CastmixError, match="estimated in only 50% of the frames"):
        motion_to_compensate(CameraMotion(0.1, path, 0.5), HEIGHT, WIDTH, 0.035, 0.3)
    with pytest.raises(CastmixError, match=r"zooms by a factor of 2.00, limit 1.6"):
        motion_to_compensate(CameraMotion(0.1, path_of(a=1.0), 1.0), HEIGHT, WIDTH, 0.035, 0.3)
    assert motion_to_compensate(CameraMotion(0.01, path, 0.5), HEIGHT, WIDTH, 0.035, 0.3) is None


def test_a_plain_wall_stands_still() -> None:
    found = estimate_motion(seen(path_of(x=40.0), masked=True, plain=True), FPS)
    assert (found.speed, found.tracked) == (0, 1)
    np.testing.assert_array_equal(found.trajectory, path_of())
