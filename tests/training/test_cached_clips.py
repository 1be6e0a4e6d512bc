from __future__ import annotations

from pathlib import Path

import pytest

from toolkit.core.errors import CastmixError
from toolkit.training.cached_clips import Item, choose, hold_back


def item(i: int, take: str) -> Item:
    return Item(Path(f"{i}.safetensors"), "a cat", take, (16, 3, 4, 6), f"{i:04x}")


def test_every_item_is_drawn_once_per_epoch() -> None:
    drawn = choose(5, range(21), seed=1, what="data")
    epochs = [drawn[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert drawn[9:12] == choose(5, range(9, 12), seed=1, what="data")
    assert drawn != choose(5, range(21), seed=2, what="data")


def test_a_batch_larger_than_the_data() -> None:
    assert sorted(choose(2, range(6), seed=0, what="data")) == [0, 0, 0, 1, 1, 1]
    assert choose(0, range(0), seed=0, what="data") == []


def test_holdout_takes_whole_shots() -> None:
    items = [item(i, f"shot {i // 3}") for i in range(30)]
    learned, held = hold_back(items, 4)
    assert len(held) == 6
    assert not {one.take for one in learned} & {one.take for one in held}
    assert sorted(one.path for one in [*learned, *held]) == sorted(one.path for one in items)
    assert hold_back(items[::-1], 4)[1][0].take == held[0].take
    assert len(hold_back(items, 0.1)[1]) == 3
    assert hold_back(items, 0) == (items, [])


def test_a_holdout_of_all_clips_is_an_error() -> None:
    with pytest.raises(CastmixError, match="leaves nothing to train on: 3 clips of 1 shots"):
        hold_back([item(i, "one") for i in range(3)], 1)
    with pytest.raises(CastmixError, match="got -1"):
        hold_back([item(0, "one")], -1)
