"""Which images of a micro-batch the model must see. Pure.

Two events of one Pin need one code, the newer's; two Pins of one image (same bytes, same crop) share a code.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from embedder.pin_work import PinWork


@dataclass(frozen=True, slots=True)
class BatchPlan:
    groups: list[list[PinWork]]
    """Each group shares one image: embed the first one's, give the code to all."""
    superseded: list[tuple[PinWork, PinWork]]
    """(older, newer) events of one Pin: the older needs no code once the newer has one."""


def plan_batch(works: Sequence[PinWork]) -> BatchPlan:
    """Group a batch's records; order within a partition is kept by the lanes, not here."""
    newest: dict[tuple[int, int], PinWork] = {}
    for work in works:
        known = newest.get((work.partition, work.pin_id))
        if known is None or known.offset < work.offset:
            newest[work.partition, work.pin_id] = work
    groups: dict[bytes | int, list[PinWork]] = {}
    superseded = []
    for work in works:
        newer = newest[work.partition, work.pin_id]
        if newer is not work:
            superseded.append((work, newer))
        else:
            groups.setdefault(work.cache_key or id(work), []).append(work)
    return BatchPlan(list(groups.values()), superseded)
