"""Golden queries on disk, and what is kept of live ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from index_sync.search_protocol import SearchRequest
from pinstream.errors import FatalError
from pinstream.events import Domain
from producers.world import World
from rollout.generation import Application
from rollout.golden import read_golden, write_world_golden
from rollout.query_sample import stand_in

ALL = frozenset(Application)


def test_a_world_makes_golden_queries(tmp_path: Path) -> None:
    assert write_world_golden(tmp_path / "golden", World(7, 6, 64), pins=20, queries=3) == 9
    found = read_golden(tmp_path / "golden", frozenset({Application.LENS}))
    assert [query.name for query in found] == ["lens-0000.jpg", "lens-0001.jpg", "lens-0002.jpg"]
    assert found[1].expected == frozenset({3, 9, 15})
    assert found[0].box is None
    assert all(query.box for query in read_golden(tmp_path / "golden", frozenset({Application.SHOP_THE_LOOK})))
    with pytest.raises(FatalError, match="exists"):
        write_world_golden(tmp_path / "golden", World(7, 6, 64), pins=20, queries=3)


def test_a_folder_of_images_is_asked_everywhere(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.PNG", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    found = read_golden(tmp_path, ALL)
    assert [query.name for query in found] == ["a.PNG"] * 3 + ["b.jpg"] * 3
    assert not found[0].expected


@pytest.mark.parametrize(
    ("line", "fault"),
    [
        ({"image": "../outside.jpg"}, "no file below"),
        ({"image": "absent.jpg"}, "no file below"),
        ({"image": "a.jpg", "application": "glass"}, "line 1: application"),
        ({"image": "a.jpg", "expected": [0]}, r"line 1: expected\.0"),
        ({"image": "a.jpg", "answer": 1}, "line 1: answer"),
    ],
)
def test_a_wrong_line_is_named(tmp_path: Path, line: dict[str, object], fault: str) -> None:
    folder = tmp_path / "golden"
    folder.mkdir()
    (folder / "a.jpg").write_bytes(b"x")
    (tmp_path / "outside.jpg").write_bytes(b"x")
    (folder / "queries.jsonl").write_text(json.dumps(line))
    with pytest.raises(FatalError, match=fault):
        read_golden(folder, ALL)


def test_no_queries_at_all(tmp_path: Path) -> None:
    with pytest.raises(FatalError, match="no golden query"):
        read_golden(tmp_path, ALL)
    with pytest.raises(FatalError, match="can't be read"):
        read_golden(tmp_path / "absent.jsonl", ALL)


def test_of_a_live_query_only_a_pin_is_kept() -> None:
    asked = SearchRequest(image="QUJD", k=7, domains=(Domain.PIN,))
    kept = stand_in(asked, Application.LENS, 12)
    assert kept is not None
    assert json.loads(kept.model_dump_json(exclude_defaults=True)) == {
        "application": "lens",
        "pin_id": 12,
        "domains": ["pin"],
        "k": 7,
    }
    assert stand_in(asked, Application.LENS, None) is None
    by_pin = stand_in(SearchRequest(pin_id=5), Application.LENS, 12)
    assert by_pin is not None and by_pin.pin_id == 5
