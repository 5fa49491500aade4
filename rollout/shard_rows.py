"""What a generation's shards hold, taken while everything runs: its coverage of the Pins topic, and a sample of codes.

Shapes: N sampled rows, W = bits / 8 bytes.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from pinstream.codes import Fingerprint
from pinstream.errors import RetryableError
from pinstream.settings import Settings
from rollout.coverage import ROW, Coverage, Kind, Records, compare, unserved
from rollout.http_nodes import GenerationNodes
from rollout.kafka_pins import PinsReader, dead_letters, embedded_up_to, log_ends

SAMPLE_ROWS: Final = 4096
_ASK_EVERY_S: Final = 0.1


@dataclass(frozen=True, slots=True)
class SampledRows:
    pin_id: npt.NDArray[np.int64]
    partition: npt.NDArray[np.int64]
    source_offset: npt.NDArray[np.int64]
    code_NW: npt.NDArray[np.uint8]

    @property
    def places(self) -> list[tuple[int, int]]:
        """(partition, offset) of each row's Pin event."""
        return list(zip(self.partition.tolist(), self.source_offset.tolist(), strict=True))

    def first(self, count: int) -> SampledRows:
        return SampledRows(
            self.pin_id[:count], self.partition[:count], self.source_offset[:count], self.code_NW[:count]
        )


@dataclass(frozen=True, slots=True)
class Shadow:
    coverage: Coverage
    sample: SampledRows
    """In random order."""
    living_pins: npt.NDArray[np.int64]
    """Ascending: all that live by the Pins topic."""
    is_whole: bool
    """Every shard is served."""

    def living(self, pins: frozenset[int]) -> frozenset[int]:
        """Those of the Pins that live."""
        wanted = np.fromiter(pins, dtype=np.int64, count=len(pins))
        at = np.minimum(np.searchsorted(self.living_pins, wanted), max(0, len(self.living_pins) - 1))
        if not len(self.living_pins):
            return frozenset()
        return frozenset(wanted[self.living_pins[at] == wanted].tolist())


def read_shadow(settings: Settings, model: Fingerprint, nodes: GenerationNodes) -> Shadow:
    """Fold the Pins topic, wait until the generation has done all of it, take its rows, and compare. Blocks.

    Takes ~40 bytes a Pin. Reads the Pins topic once.

    Raises:
        RetryableError: the generation has not caught up in `rollout.gates.catch_up_s`, or something is away.
    """
    pins = PinsReader(settings)
    marks = pins.go_on()
    deadline_s = time.monotonic() + settings.rollout.gates.catch_up_s
    _wait_embedded(settings, model, marks, deadline_s)
    served = nodes.shards
    is_whole = len(served) == settings.topics.partitions
    if is_whole:
        _wait_applied(settings, model, nodes, deadline_s)
    rows: dict[int, Records] = {}
    sample: list[SampledRows] = []
    share = SAMPLE_ROWS / max(1, sum(node.shards[partition] for partition, node in served.items()))
    random = np.random.default_rng(0)
    for partition in sorted(served):
        rows[partition] = _take(nodes, partition, share, random, sample)
    letters = dead_letters(settings, model)
    pins.go_on()
    found, living = Coverage(), []
    for partition, mark in marks.items():
        fold = pins.result(partition)
        living.append(fold["pin_id"][fold["kind"] == Kind.LIVING])
        held = rows.get(partition)
        found += unserved(fold) if held is None else compare(fold, held, mark, letters[partition])
    return Shadow(found, _joined(sample, nodes.bits, random), np.sort(np.concatenate(living)), is_whole)


def _wait_embedded(settings: Settings, model: Fingerprint, marks: dict[int, int], deadline_s: float) -> None:
    while True:
        done = embedded_up_to(settings, model)
        behind = [partition for partition, mark in marks.items() if done[partition] < mark]
        if not behind:
            return
        if time.monotonic() > deadline_s:
            first = behind[0]
            raise RetryableError(
                f"the embed workers of {model.short} are at offset {done[first]} of {marks[first]} in partition "
                f"{first} of the Pins topic, and did not get there in {settings.rollout.gates.catch_up_s:g} s: do they "
                "run?"
            )
        time.sleep(_ASK_EVERY_S)


def _wait_applied(settings: Settings, model: Fingerprint, nodes: GenerationNodes, deadline_s: float) -> None:
    ends = log_ends(settings, model.codes_topic)
    while not nodes.has_applied(ends):
        if time.monotonic() > deadline_s:
            raise RetryableError(
                f"the index workers of {model.short} did not apply their topic to its end in "
                f"{settings.rollout.gates.catch_up_s:g} s: look at their lag"
            )
        time.sleep(_ASK_EVERY_S)


def _take(
    nodes: GenerationNodes, partition: int, share: float, random: np.random.Generator, sample: list[SampledRows]
) -> Records:
    """All rows of a shard, ids and offsets; a random share of them is added to the sample."""
    parts = [np.empty(0, dtype=ROW)]
    for part in nodes.rows(partition):
        rows = np.empty(len(part), dtype=ROW)
        rows["pin_id"], rows["source_offset"] = part.pin_id, part.source_offset
        parts.append(rows)
        chosen = np.flatnonzero(random.random(len(part)) < share)
        sample.append(
            SampledRows(
                part.pin_id[chosen].copy(),
                np.full(len(chosen), partition),
                part.source_offset[chosen].copy(),
                part.code_NW[chosen].copy(),
            )
        )
    return np.concatenate(parts)


def _joined(sample: list[SampledRows], bits: int, random: np.random.Generator) -> SampledRows:
    none = np.empty(0, dtype=np.int64)
    parts = [SampledRows(none, none, none, np.empty((0, bits // 8), dtype=np.uint8)), *sample]
    pin_id = np.concatenate([part.pin_id for part in parts])
    order = random.permutation(len(pin_id))
    return SampledRows(
        pin_id[order],
        np.concatenate([part.partition for part in parts])[order],
        np.concatenate([part.source_offset for part in parts])[order],
        np.concatenate([part.code_NW for part in parts])[order],
    )
