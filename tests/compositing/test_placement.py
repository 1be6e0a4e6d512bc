"""Where somebody is put: inside the picture, on the line of those who are there, hiding and hidden little."""

from __future__ import annotations

import numpy as np
import pytest

from toolkit.compositing.character_track import CharacterTrack
from toolkit.compositing.placement import CharacterToPlace, Place, Placement, find_placement, visible_area

HEIGHT, WIDTH, COUNT = 64, 96, 5


def somebody(
    left: float, top: float, right: float, bottom: float, *, walks: float = 0.0, feet_visible: bool = True
) -> CharacterTrack:
    boxes = np.repeat([[left, top, right, bottom]], COUNT, 0).astype(float)
    boxes[:, [0, 2]] += walks * np.linspace(-1, 1, COUNT)[:, None]
    return CharacterTrack(
        boxes, bottom, bottom - top, float(np.sqrt((right - left) * (bottom - top))), feet_visible
    )


def character(
    body: CharacterTrack, *, cropped_bottom: bool = False, cropped_top: bool = False
) -> CharacterToPlace:
    return CharacterToPlace(body, WIDTH, HEIGHT, cropped_bottom, cropped_top)


def put(
    who: CharacterToPlace,
    others: list[CharacterTrack],
    seed: int = 0,
    place: Place = Place(),
    overlap: float = 0,
) -> Placement | None:
    views = visible_area(None, COUNT, HEIGHT, WIDTH)
    return find_placement(who, others, views, place, overlap, np.random.default_rng(seed))


def hidden(one: CharacterTrack, other: CharacterTrack) -> float:
    """The mean share of the smaller box that two boxes have in common, counted in small squares."""
    shares = []
    for a, b in zip(one.boxes, other.boxes, strict=True):
        x, y = np.meshgrid(np.arange(0, WIDTH, 0.25) + 0.125, np.arange(0, HEIGHT, 0.25) + 0.125)
        inside = [(x > c[0]) & (x < c[2]) & (y > c[1]) & (y < c[3]) for c in (a, b)]
        shares.append((inside[0] & inside[1]).sum() / min(inside[0].sum(), inside[1].sum()))
    return float(np.mean(shares))


@pytest.mark.parametrize("seed", range(12))
def test_a_character_is_placed_at_the_same_size_and_ground_line(seed: int) -> None:
    there = somebody(60, 20, 84, 56, walks=6)
    stand = put(character(somebody(30, 10, 46, 40, walks=8)), [there], seed)
    assert stand is not None
    assert 0.7 < stand.track.size / there.size < 1.12
    assert abs(stand.track.foot - there.foot) < 0.05 * HEIGHT
    assert hidden(stand.track, there) <= 0.2
    boxes = stand.track.boxes
    spare = 0.2 * (boxes[0, 2] - boxes[0, 0]) + 1e-9
    assert boxes[:, 0].min() >= -spare
    assert boxes[:, 1].min() >= 0
    assert boxes[:, 2].max() <= WIDTH + spare
    assert boxes[:, 3].max() <= HEIGHT


def test_size_is_taken_from_a_character_with_hidden_feet() -> None:
    there = somebody(60, 20, 84, 64, feet_visible=False)
    for seed in range(12):
        stand = put(character(somebody(30, 10, 46, 40)), [there], seed)
        assert stand is not None
        assert 0.7 < stand.track.size / there.size < 1.12


def test_the_cost_adds_hidden_area_and_resampling() -> None:
    who, there = character(somebody(30, 20, 50, 56)), somebody(40, 20, 60, 56)
    close = put(who, [there], overlap=0.15)
    assert close is not None
    assert close.cost == pytest.approx(hidden(close.track, there) + abs(np.log(close.scale)), abs=0.03)


def test_a_seed_repeats_its_placement_and_seeds_differ() -> None:
    there = [somebody(70, 20, 90, 56)]
    stands = [put(character(somebody(30, 10, 46, 40)), there, seed) for seed in range(20)]
    again = put(character(somebody(30, 10, 46, 40)), there, 3)
    assert again is not None
    assert (again.scale, again.dx, again.dy) == (stands[3].scale, stands[3].dx, stands[3].dy)  # type: ignore[union-attr]
    assert len({stand.dx for stand in stands if stand}) > 5


def test_settings_decide_the_size_on_an_empty_background() -> None:
    place = Place(height=(0.5, 0.6), foot=(0.8, 0.9))
    for seed in range(10):
        stand = put(character(somebody(30, 10, 46, 40)), [], seed, place)
        assert stand is not None
        assert 0.8 * 0.5 <= stand.track.height / HEIGHT <= 0.61
        assert 0.78 <= stand.track.foot / HEIGHT <= 0.91


def test_without_room_there_is_no_placement() -> None:
    wide = somebody(2, 20, 94, 56)
    assert put(character(somebody(10, 10, 80, 50)), [wide]) is None
    assert put(character(somebody(10, 10, 80, 50)), [wide], place=Place(overlap=1.0)) is not None


def test_characters_cropped_below_stay_at_the_lower_border() -> None:
    stand = put(
        character(somebody(30, 30, 60, 64, feet_visible=False), cropped_bottom=True),
        [somebody(70, 20, 90, 50)],
    )
    assert stand is not None
    assert stand.scale * HEIGHT + stand.dy >= HEIGHT


def test_characters_cropped_above_stay_at_the_upper_border() -> None:
    there = somebody(60, 14, 84, 54)
    who = character(somebody(20, 0, 44, 50), cropped_top=True)
    stands = [put(who, [there], seed, Place(overlap=0.5)) for seed in range(20)]
    assert sum(stand is not None for stand in stands) > 10
    for stand in (stand for stand in stands if stand):
        assert stand.dy <= 0  # where its own picture ends, the new one has ended


def test_a_walker_may_leave_the_picture_by_the_allowed_share() -> None:
    walker, there = character(somebody(30, 10, 46, 40, walks=20)), somebody(45, 20, 65, 56)
    assert put(walker, [there], place=Place(overlap=0.02, outside=0)) is None
    stand = put(walker, [there], place=Place(overlap=0.02, outside=0.5))
    assert stand is not None
    left, _, right, _ = stand.track.boxes.T
    gone = np.maximum(-left, 0) + np.maximum(right - WIDTH, 0)
    assert 0 < gone.max() <= 0.5 * (right - left).max()
    assert put(character(somebody(30, 10, 46, 40)), [], place=Place(outside=0.5)).cost < 0.5  # type: ignore[union-attr]


def test_a_requested_overlap_is_reached() -> None:
    there = somebody(40, 20, 60, 56)
    asked = [
        hidden(s.track, there)
        for seed in range(8)
        if (s := put(character(somebody(30, 20, 50, 56)), [there], seed, overlap=0.15))
    ]
    assert np.mean(asked) > 0.07


def test_about_half_of_the_characters_are_mirrored() -> None:
    who = character(somebody(10, 10, 20, 40))
    flips = [stand.flip for seed in range(40) if (stand := put(who, [], seed, Place(flip=True)))]
    assert 8 < sum(flips) < 32
    body = who.track.mirrored(WIDTH)
    np.testing.assert_allclose(body.boxes[:, [0, 2]], [[76, 86]] * COUNT)


def test_placements_stay_visible_under_a_moving_camera() -> None:
    path = np.array([[1, 0, 0, 0], [1, 0, 10, 0], [1, 0, 20, 0], [1, 0, 30, 0], [1, 0, 40, 0.0]])
    views = visible_area(path, COUNT, HEIGHT, WIDTH)
    np.testing.assert_allclose(views[-1], [40, 0, 136, 64])
    for seed in range(5):
        stand = find_placement(
            character(somebody(30, 10, 46, 40)), [], views, Place(), 0, np.random.default_rng(seed)
        )
        assert stand is not None
        assert stand.track.boxes[0, 0] >= 40
        assert stand.track.boxes[0, 2] <= WIDTH
