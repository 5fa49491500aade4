"""Random operations by the thousand; `python -m bench.index_model_check` takes 100,000."""

from __future__ import annotations

import pytest

from tests.conftest import asked_for
from tests.model_check import run

OPERATIONS = asked_for("PINSTREAM_MODEL_CHECK_OPERATIONS", 5000)


@pytest.mark.timeout(3600)
def test_a_shard_is_its_model_through_every_operation() -> None:
    done = run(OPERATIONS, seed=OPERATIONS)
    assert {"upsert", "re-upsert", "delete", "stale replay", "unconditional delete"} <= done.keys()
    assert {"seal", "plan", "end_merge", "begin_save", "crash", "restore", "search"} <= done.keys()
