"""The rules of the house that a program can check: who imports whom, and how long a file may be."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ("pinstream", "producers", "consumers", "embedder", "index_sync", "rollout")
ALLOWED = {
    "pinstream": set(),
    "producers": {"pinstream"},
    "consumers": {"pinstream"},
    "embedder": {"pinstream", "producers", "consumers"},
    "index_sync": {"pinstream", "producers", "consumers"},
    "rollout": {"pinstream", "producers", "consumers", "embedder", "index_sync"},
}
MAX_LINES = 420
MODULES = sorted(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))


def imported_rooms(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module.split(".")[0])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
    return found & set(ROOMS)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_data_flows_left_to_right(path: Path) -> None:
    room = path.relative_to(ROOT).parts[0]
    if "cli" in path.parts:
        return  # the command wires the rooms together
    assert imported_rooms(path) - {room} <= ALLOWED[room]


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_answers_one_question(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_LINES
    assert path.name not in {"utils.py", "helpers.py", "common.py", "misc.py"}
    if path.name != "__init__.py" or text.strip():
        assert ast.get_docstring(ast.parse(text)), "a module says what it answers"
