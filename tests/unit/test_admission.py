"""Places are bounded, and Retry-After is the time that those inside will need."""

from __future__ import annotations

import pytest

from index_sync.admission import Admission, BusyError


def test_one_more_than_may_run_and_wait_is_refused_until_one_leaves() -> None:
    admission = Admission(max_running=2, max_waiting=1)
    for _ in range(3):
        admission.enter()
    with pytest.raises(BusyError, match="3 searches"):
        admission.enter()
    admission.leave(None)
    admission.enter()
    assert admission.inside == 3


def test_retry_after_is_what_the_queue_will_take_in_whole_seconds() -> None:
    admission = Admission(max_running=2, max_waiting=18)
    assert admission.retry_after_s == 1
    admission.enter()
    admission.leave(0.9)
    for _ in range(20):
        admission.enter()
    assert admission.retry_after_s == 9  # 20 of them, 2 at once, 0.9 s each
    for _ in range(100):
        admission.leave(0.001)
        admission.enter()
    assert admission.retry_after_s == 1
