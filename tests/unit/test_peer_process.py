"""A contender of the side-by-side benchmark that hangs, fails or dies costs its own line of the table, no more."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.peers.contest import Contender
from bench.peers.process import PeerError, PeerProcess


@pytest.fixture
def start(tmp_path: Path) -> Callable[[float], PeerProcess]:
    return lambda limit_s: PeerProcess("faiss flat", Path(sys.executable), tmp_path, 256, 1, limit_s)


def test_a_call_that_takes_too_long_is_out(start: Callable[[float], PeerProcess]) -> None:
    process = start(0.001)
    contender = Contender("faiss flat", process)
    contender.attempt(lambda one: contender.row.update(one.ask("about")))
    assert contender.process is None
    assert contender.row == {"remark": "faiss flat took longer than 0.001 s in about"}
    contender.attempt(lambda one: contender.row.update(one.ask("about")))
    with pytest.raises(PeerError, match="ended with -9 in about"):
        process.ask("about")


def test_what_a_contender_raises_comes_here(start: Callable[[float], PeerProcess]) -> None:
    process = start(60)
    with pytest.raises(PeerError, match="NotImplementedError: bare FAISS keeps nothing"):
        process.ask("reopen")
    assert process.ask("about") == {"efforts": (), "durable": False}
    process.kill()
    with pytest.raises(PeerError, match="ended with -9 in about"):
        process.ask("about")
    process.close()
