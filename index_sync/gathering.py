"""Carries a question to the leaves, hedging the slow and replacing the failing, until it is answered or time is up.

What to do is decided by `routing.py`, `leaf_health.py` and `fan_out.py`; here are the clock, the queue and the calls.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from random import Random
from typing import Final, Generic, TypeVar

from index_sync.fan_out import Call, FanOut
from index_sync.grpc_peers import Failure, GrpcPeers
from index_sync.leaf import LeafStatus, LocalLeaf
from index_sync.leaf_health import HealthBook
from index_sync.leaf_messages import BadMessageError, LeafFound
from index_sync.questions import Found, Question
from index_sync.redis_leases import Lease
from index_sync.routing import Leaf, route
from pinstream import metrics

log = logging.getLogger(__name__)

F = TypeVar("F", bound=Found)

_OWN: Final = ""
"""Instance name of this node's own leaf; no lease has an empty one."""
_WAIT_SHARE: Final = 0.25
"""Share of its time that a question which makes leaves wait gives the first one before another is asked as well."""


@dataclass(frozen=True, slots=True)
class Gathered(Generic[F]):
    found: tuple[F, ...]
    """No shard is in two of them."""
    missing: frozenset[int]
    behind: Mapping[int, int]
    """Those of the missing shards that have not applied what the question wants, with their applied offsets."""
    busy_s: int | None
    """A leaf was too busy, and says when to come back."""


class Leaves:
    """This node's leaf and all others, with what is known of them. Thread-safe; `close` it.

    Args:
        others: the other nodes' leases, as last seen: the same object until they are read again.
        max_lag_s: how much further behind than the freshest replica another may be.
    """

    def __init__(self, own: LocalLeaf, others: Callable[[], tuple[Lease, ...]], model: str, max_lag_s: float) -> None:
        self.own = own
        self.model = model
        self.peers = GrpcPeers()
        self._others = others
        self._max_lag_s = max_lag_s
        self._lock = threading.Lock()
        self._health = HealthBook()
        self._random = Random()
        self._seen: tuple[Lease, ...] = ()

    def close(self) -> None:
        self.peers.close()

    def gather(self, question: Question[F], wanted: frozenset[int], deadline_s: float) -> Gathered[F]:
        """Ask until every wanted shard is answered or the deadline (monotonic) is there. Blocks.

        After the deadline nothing is begun: then everything is missing.
        """
        return _Gathering(self, question, self.leases(), wanted, deadline_s).run()

    def leases(self) -> dict[str, Lease]:
        """The other nodes, by instance; connections to those that are gone are closed."""
        leases = self._others()
        if leases is not self._seen:
            with self._lock:
                self._seen = leases
                self._health.keep([_OWN, *(lease.instance for lease in leases)])
            self.peers.keep([lease.address for lease in leases])
        return {lease.instance: lease for lease in leases}

    def route(
        self,
        partitions: Collection[int],
        leases: Iterable[Lease],
        tried: Mapping[int, Collection[str]],
        now_s: float,
    ) -> dict[str, tuple[int, ...]]:
        """As `routing.route`, of all leaves as they are now."""
        own = self.own.status()
        with self._lock:
            leaves = [self._leaf(_OWN, own, now_s)]
            leaves += [self._leaf(lease.instance, lease.status, now_s) for lease in leases]
            return route(partitions, leaves, tried, self._max_lag_s, self._random)

    def _leaf(self, instance: str, status: LeafStatus, now_s: float) -> Leaf:
        health = self._health[instance]
        return Leaf(
            instance=instance,
            lag_s={partition: shard.lag_s for partition, shard in status.shards.items()},
            is_own=instance == _OWN,
            in_flight=status.in_flight + health.in_flight,
            latency_s=status.latency_s,
            is_failing=health.circuit.is_open(now_s),
        )

    def asked(self, instance: str, now_s: float) -> float:
        """A request goes to this leaf. Returns after how many seconds to hedge it."""
        with self._lock:
            health = self._health[instance]
            health.in_flight += 1
            health.circuit.asked(now_s)
            self._health.budget.asked()
            return health.hedge_after_s

    def may_hedge(self, instance: str, now_s: float) -> bool:
        """Whether to ask another leaf beside this one. Replacing one that is known to fail costs no budget."""
        with self._lock:
            return self._health[instance].circuit.is_open(now_s) or self._health.budget.take()

    def answered(self, instance: str, latency_s: float | None) -> None:
        """`latency_s`: None if the question itself made it wait."""
        with self._lock:
            health = self._health[instance]
            health.in_flight -= 1
            health.circuit.answered()
            if latency_s is not None:
                health.took(latency_s)

    def failed(self, instance: str, failure: Failure, now_s: float) -> None:
        metrics.LEAF_CALLS.labels(failure.kind).inc()
        with self._lock:
            health = self._health[instance]
            health.in_flight -= 1
            news = not health.circuit.is_open(now_s)
            if failure.kind != "busy":
                health.circuit.failed(now_s)
        if news:
            log.warning("leaf %s did not answer (%s): %s", instance or "of this node", failure.kind, failure.detail)

    def abandoned(self, instance: str, elapsed_s: float, now_s: float, *, outrun: bool) -> None:
        """It has not answered, and nobody waits any more.

        Args:
            outrun: another replica that was asked later answered first, or the time was up.
        """
        metrics.LEAF_CALLS.labels("cancelled").inc()
        with self._lock:
            health = self._health[instance]
            health.in_flight -= 1
            if outrun and elapsed_s >= health.hedge_after_s:
                health.circuit.lost_hedge(now_s)
                health.took(elapsed_s)


class _Gathering(Generic[F]):
    """One question on its way. One thread runs it; outcomes come in from others through a queue."""

    def __init__(
        self,
        leaves: Leaves,
        question: Question[F],
        leases: dict[str, Lease],
        wanted: frozenset[int],
        deadline_s: float,
    ) -> None:
        self._leaves = leaves
        self._question = question
        self._leases = leases
        self._deadline_s = deadline_s
        self._fan = FanOut(wanted)
        self._outcomes: SimpleQueue[tuple[int, bytes | Found | Failure]] = SimpleQueue()
        self._cancel: dict[int, Callable[[], object]] = {}
        self._found: dict[int, F] = {}
        self._behind: dict[int, int] = {}
        self._busy_s: int | None = None

    def run(self) -> Gathered[F]:
        while True:
            now_s = time.monotonic()
            if now_s >= self._deadline_s:
                break
            self._ask(self._fan.to_ask(), now_s)
            if not self._fan.missing() or not self._fan.open_calls:
                break
            self._hedge(now_s)
            until_s = min(self._deadline_s, self._fan.next_hedge_s())
            try:
                number, outcome = self._outcomes.get(timeout=max(0.0, until_s - time.monotonic()))
            except Empty:
                continue
            if self._fan.is_open(number):
                self._take(number, outcome, time.monotonic())
        return self._end(time.monotonic())

    def _ask(self, partitions: frozenset[int], now_s: float, hedge_of: int | None = None) -> bool:
        """Send requests for these shards to leaves not tried yet; False if there are none."""
        if not partitions:
            return False
        plan = self._leaves.route(partitions, self._leases.values(), self._fan.tried, now_s)
        for instance, parts in plan.items():
            self._send(instance, parts, now_s, hedge_of)
        return bool(plan)

    def _send(self, instance: str, partitions: tuple[int, ...], now_s: float, hedge_of: int | None) -> None:
        left_s = self._deadline_s - now_s
        hedge_after_s = self._leaves.asked(instance, now_s)
        if self._question.waits:
            hedge_after_s = max(hedge_after_s, _WAIT_SHARE * left_s)
        number = self._fan.start(instance, frozenset(partitions), now_s, hedge_after_s, hedge_of).number

        def done(outcome: bytes | Found | Failure) -> None:
            self._outcomes.put((number, outcome))

        if instance == _OWN:
            self._cancel[number] = self._question.ask_own(self._leaves.own, partitions, self._deadline_s, done)
        else:
            frame = self._question.write(partitions)
            address = self._leases[instance].address
            self._cancel[number] = self._leaves.peers.ask(address, self._question.method, frame, left_s, done)

    def _hedge(self, now_s: float) -> None:
        for call in self._fan.due(now_s):
            elsewhere = self._leaves.route(
                call.partitions & self._fan.missing(), self._leases.values(), self._fan.tried, now_s
            )
            if not elsewhere:
                call.hedge_at_s = float("inf")
            elif self._leaves.may_hedge(call.instance, now_s):
                call.hedge_at_s = float("inf")
                metrics.LEAF_HEDGES.labels("sent").inc()
                for instance, parts in elsewhere.items():
                    self._send(instance, parts, now_s, call.number)
            else:
                metrics.LEAF_HEDGES.labels("withheld").inc()
                call.hedge_at_s = now_s + (now_s - call.started_s)

    def _take(self, number: int, outcome: bytes | Found | Failure, now_s: float) -> None:
        call = next(one for one in self._fan.open_calls if one.number == number)
        found = self._checked(call, outcome)
        if isinstance(found, Failure):
            self._fan.failed(number)
            if found.kind == "late":
                self._leaves.abandoned(call.instance, now_s - call.started_s, now_s, outrun=not self._question.waits)
            else:
                self._leaves.failed(call.instance, found, now_s)
            if found.kind == "busy":
                self._busy_s = max(self._busy_s or 1, found.retry_after_s or 1)
            return
        if isinstance(found, LeafFound):
            self._behind |= found.behind
        if call.hedge_of is not None and self._fan.is_open(call.hedge_of):
            metrics.LEAF_HEDGES.labels("won").inc()
        self._found[number] = found
        self._fan.answered(number, found.partitions)
        self._leaves.answered(call.instance, None if self._question.waits else now_s - call.started_s)
        metrics.LEAF_CALLS.labels("answered").inc()

    def _checked(self, call: Call, outcome: bytes | Found | Failure) -> F | Failure:
        """The leaf's answer if it is one of this model to this question."""
        if isinstance(outcome, Failure):
            return outcome
        if not isinstance(outcome, bytes):
            return outcome  # type: ignore[return-value]  # this node's own leaf: it answers what it was asked
        try:
            found = self._question.read(outcome, tuple(sorted(call.partitions)))
        except BadMessageError as error:
            return Failure("refused", str(error))
        if found.model != self._leaves.model:
            return Failure("refused", f"its answer is of model {found.model[:12]}, not {self._leaves.model[:12]}")
        return found

    def _end(self, now_s: float) -> Gathered[F]:
        missing = self._fan.missing()
        for call in self._fan.open_calls:
            if self._question.waits and call.instance == _OWN:
                self._behind |= self._question.own_behind(self._leaves.own)
            self._cancel[call.number]()
            outrun = not self._question.waits and (bool(call.partitions & missing) or self._fan.was_hedged(call))
            self._leaves.abandoned(call.instance, now_s - call.started_s, now_s, outrun=outrun)
        return Gathered(
            found=tuple(self._found[number] for number in self._fan.accepted()),
            missing=missing,
            behind={p: applied for p, applied in self._behind.items() if p in missing},
            busy_s=self._busy_s,
        )
