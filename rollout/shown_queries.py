"""Which queries a page shows: the worst of each application, and some ordinary ones. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rollout.generation import Application
from rollout.query_result import QueryResult

WORST: Final = 6
ORDINARY: Final = 4


def shown_queries(queries: Sequence[QueryResult], k: int) -> list[QueryResult]:
    """By application: those that lost most against live first, then some from all over the rest."""
    found: list[QueryResult] = []
    for application in Application:
        ranked = sorted((one for one in queries if one.application is application), key=lambda one: loss(one, k))
        worst, rest = ranked[:WORST], ranked[WORST:]
        found += [*worst, *rest[:: max(1, len(rest) // ORDINARY)][:ORDINARY]]
    return found


def loss(query: QueryResult, k: int) -> tuple[float, float]:
    """The lower, the worse: what was gained in first hits and recall (if that is known), then the overlap."""
    gained = 0.0
    if query.expected:
        gained = float(query.new.first_is_right(query.expected)) + query.new.recall(query.expected, k)
        if query.live is not None:
            gained -= float(query.live.first_is_right(query.expected)) + query.live.recall(query.expected, k)
    return gained, query.overlap(k) if query.live else 0.0
