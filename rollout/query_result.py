"""What one query found in the new generation and in the live one. Pure."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from pinstream.events import Box
from rollout.generation import Application

SHOWN_HITS: Final = 5
"""On a page, of each answer."""


@dataclass(frozen=True, slots=True)
class Answer:
    hits: tuple[tuple[int, int], ...]
    """Pin id and distance, nearest first."""
    seconds: float
    """Embedding the query (if it is an image) and searching."""

    def pin_ids(self, k: int) -> frozenset[int]:
        return frozenset(pin_id for pin_id, _ in self.hits[:k])

    def first_is_right(self, expected: Set[int]) -> bool:
        return bool(self.hits) and self.hits[0][0] in expected

    def recall(self, expected: Set[int], k: int) -> float:
        """Of the k (or fewer) expected Pins, the share that is among the first k hits."""
        return len(self.pin_ids(k) & expected) / min(k, len(expected))


@dataclass(frozen=True, slots=True)
class QueryResult:
    name: str
    """For people: the golden query's file, or the Pin."""
    application: Application
    expected: frozenset[int]
    """Living Pins that are right; empty: not known."""
    new: Answer
    live: Answer | None
    """None: nothing else is live for this application."""
    image: bytes | None
    """The query's encoded image; None: it was asked by a Pin's id."""
    box: Box | None
    """The part of the image that was asked for; None: all of it."""
    pin_id: int | None

    def pins_shown(self) -> list[int]:
        """The Pins whose pictures tell a person what was asked and found."""
        hits = [pin_id for answer in (self.new, self.live) if answer for pin_id, _ in answer.hits[:SHOWN_HITS]]
        return list(dict.fromkeys(([self.pin_id] if self.pin_id is not None else []) + hits))

    def overlap(self, k: int) -> float:
        """Share of the live generation's first k hits that are among the new one's."""
        live = self.live.pin_ids(k) if self.live else frozenset()
        return len(live & self.new.pin_ids(k)) / max(1, len(live))
