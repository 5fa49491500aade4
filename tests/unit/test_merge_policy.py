from __future__ import annotations

import pytest

from index_sync.merge_policy import MergePolicy, SegmentSize

POLICY = MergePolicy(fan_in=3, max_dead_share=0.25, max_merged_rows=1000, tier_floor_rows=10)


def sealed(name: str, rows: int, dead: int = 0) -> SegmentSize:
    return SegmentSize(name, True, rows, dead)


def fresh(name: str, rows: int, dead: int = 0) -> SegmentSize:
    return SegmentSize(name, False, rows, dead)


@pytest.mark.parametrize(
    ("segments", "chosen"),
    [
        ([], None),
        ([sealed("a", 10), sealed("b", 10)], None),
        ([sealed("a", 10), sealed("b", 9), sealed("c", 1)], ("a", "b", "c")),
        ([sealed("a", 10), sealed("b", 11), sealed("c", 1)], None),
        ([sealed("a", 10), sealed("b", 3), sealed("c", 2), sealed("d", 1)], ("b", "c", "d")),
        ([sealed("a", 10), sealed("b", 9), fresh("c", 5)], ("c",)),
        ([fresh("a", 600), fresh("b", 400), fresh("c", 1)], ("a", "b")),
        ([fresh("a", 2000)], ("a",)),
        ([sealed("a", 100, 24), sealed("b", 100, 25)], ("b",)),
        ([sealed("a", 100, 30), sealed("b", 1000, 250)], ("b",)),
        ([sealed("a", 100, 100)], ("a",)),
        ([sealed("a", 501), sealed("b", 502), sealed("c", 503)], None),
        ([sealed("a", 499), sealed("b", 499), sealed("c", 499)], ("a", "b")),
    ],
)
def test_choice(segments: list[SegmentSize], chosen: tuple[str, ...] | None) -> None:
    assert POLICY.choose(segments) == chosen


def test_merging_comes_to_rest_with_few_segments() -> None:
    """A million rows in a thousand seals: never more than fan_in segments a tier, each row copied a few times."""
    policy = MergePolicy(fan_in=4, tier_floor_rows=1000)
    segments: list[SegmentSize] = []
    copied = most = 0
    for seal in range(1000):
        segments.append(fresh(f"f{seal}", 1000))
        while (chosen := policy.choose(segments)) is not None:
            merged = sum(one.live_rows for one in segments if one.segment_id in chosen)
            segments = [one for one in segments if one.segment_id not in chosen]
            segments.append(sealed(f"s{seal}-{copied}", merged))
            copied += merged
        most = max(most, len(segments))
    assert sum(one.rows for one in segments) == 1_000_000
    assert most <= 16
    assert copied <= 7_000_000


@pytest.mark.parametrize("wrong", [{"fan_in": 1}, {"max_dead_share": 0.0}, {"max_dead_share": 1.1}])
def test_limits_are_checked(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        MergePolicy(**wrong)  # type: ignore[arg-type]
