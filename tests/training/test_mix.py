"""Which clips are held out, and which a step has."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from toolkit.core.errors import CastmixError
from toolkit.training.cached_clips import CachedClip
from toolkit.training.mix import Mix, hold_out, new_mix, shuffled, step_clips
from toolkit.training.settings import Batches


def items(count: int, kind: str) -> list[CachedClip]:
    return [
        CachedClip(Path(f"{kind}-{i}.safetensors"), "a cat", kind, (16, 3, 4, 6), f"{i}", kind == "pasted")
        for i in range(count)
    ]


def mix(originals: int = 20, pasted: int = 6, kept: int = 0, **changes: float | None) -> Mix:
    return new_mix(
        items(originals, "original") + items(pasted, "pasted"),
        items(kept, "kept"),
        Batches(**{"preserve_share": 0.5, **changes}),  # type: ignore[arg-type]
        seed=3,
    )


def drawn(one: Mix, steps: int) -> Counter[str]:
    return Counter(item.shot for step in range(steps) for item in step_clips(one, step))


@pytest.mark.parametrize("pasted", [1, 6, 500])
def test_the_ratio_holds_however_many_composites_there_are(pasted: int) -> None:
    one = mix(pasted=pasted, composites=0.1)
    assert drawn(one, 11) == {"original": 40, "pasted": 4}
    assert drawn(one, 1100) == {"original": 4000, "pasted": 400}


def test_steps_differ_by_one_composite_at_most() -> None:
    one = mix(composites=1 / 3)
    counts = {sum(item.composite for item in step_clips(one, step)) for step in range(50)}
    assert counts <= {0, 1, 2}
    assert {len(step_clips(one, step)) for step in range(50)} == {4}


def test_every_composite_is_drawn_once_per_epoch() -> None:
    one = mix(composites=1.0, batch_size=2)
    names = [item.path.stem for step in range(12) for item in step_clips(one, step) if item.composite]
    assert sorted(names[:6]) == sorted(names[6:]) == [f"pasted-{i}" for i in range(6)]


def test_ratio_none_samples_clips_equally_and_zero_drops_composites() -> None:
    assert drawn(mix(), 13) == {"original": 40, "pasted": 12}
    assert drawn(mix(composites=0), 10) == {"original": 40}
    assert drawn(mix(pasted=0, composites=0), 10) == {"original": 40}


def test_preservation_clips_keep_their_rows() -> None:
    one = mix(kept=9, composites=1.0)
    assert drawn(one, 10) == {"original": 10, "pasted": 10, "kept": 20}
    assert [item.shot for item in step_clips(one, 0)][-2:] == ["kept", "kept"]


@pytest.mark.parametrize(
    ("size", "share", "of"), [(1, 0.2, 5), (2, 0.25, 2), (4, 0.2, 5), (3, 0.5, 2), (16, 0.25, 1)]
)
def test_a_fractional_share_holds_over_several_batches(size: int, share: float, of: int) -> None:
    one = mix(kept=9, batch_size=size, preserve_share=share)
    found = drawn(one, 20 * of)
    assert found["kept"] == share * size * 20 * of
    assert sum(found.values()) == size * 20 * of
    for step in range(of):
        shots = [item.shot for item in step_clips(one, step)]
        assert len(shots) == size
        assert [shot == "kept" for shot in shots] == [
            k >= size - one.preserved_rows(step) for k in range(size)
        ]


def test_a_ratio_needs_both_sides() -> None:
    with pytest.raises(CastmixError, match=r"composites 0.1 is a ratio .* 0 of the 20 clips are composites"):
        mix(pasted=0, composites=0.1)
    with pytest.raises(CastmixError, match="6 of the 6 clips are composites"):
        mix(originals=0, composites=0.1)
    for wrong in (-0.1, float("inf"), float("nan")):
        with pytest.raises(CastmixError, match="composites must be 0 or more"):
            mix(composites=wrong)


def a_clip(i: int, shot: str) -> CachedClip:
    return CachedClip(Path(f"{i}.safetensors"), "a cat", shot, (16, 3, 4, 6), f"{i:04x}")


def test_every_item_is_drawn_once_per_epoch() -> None:
    drawn = shuffled(5, range(21), seed=1, what="data")
    epochs = [drawn[k : k + 5] for k in range(0, 20, 5)]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1
    assert drawn[9:12] == shuffled(5, range(9, 12), seed=1, what="data")
    assert drawn != shuffled(5, range(21), seed=2, what="data")


def test_a_batch_larger_than_the_data() -> None:
    assert sorted(shuffled(2, range(6), seed=0, what="data")) == [0, 0, 0, 1, 1, 1]
    assert shuffled(0, range(0), seed=0, what="data") == []


def test_holdout_takes_whole_shots() -> None:
    clips = [a_clip(i, f"shot {i // 3}") for i in range(30)]
    learned, held = hold_out(clips, 4)
    assert len(held) == 6
    assert not {one.shot for one in learned} & {one.shot for one in held}
    assert sorted(one.path for one in [*learned, *held]) == sorted(one.path for one in clips)
    assert hold_out(clips[::-1], 4)[1][0].shot == held[0].shot
    assert len(hold_out(clips, 0.1)[1]) == 3
    assert hold_out(clips, 0) == (clips, [])


def test_a_holdout_of_all_clips_is_an_error() -> None:
    with pytest.raises(CastmixError, match="leaves nothing to train on: 3 clips of 1 shots"):
        hold_out([a_clip(i, "one") for i in range(3)], 1)
    with pytest.raises(CastmixError, match="got -1"):
        hold_out([a_clip(0, "one")], -1)
