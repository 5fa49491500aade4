"""A batcher never loses, doubles, reorders or delays an item, whatever happens in whatever order."""

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from embedder.batcher import Batch, CloseReason, MicroBatcher

MAX_SIZE, MAX_DELAY_S = 4, 1.0


class BatcherMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.batcher: MicroBatcher[int] = MicroBatcher(MAX_SIZE, MAX_DELAY_S)
        self.now_s = 0.0
        self.offered = 0
        self.delivered: list[int] = []
        self.waiting_since_s: list[float] = []

    def receive(self, batch: Batch[int] | None) -> None:
        if batch is None:
            return
        assert 1 <= len(batch.items) <= MAX_SIZE
        assert (len(batch.items) == MAX_SIZE) == (batch.reason is CloseReason.FULL)
        assert batch.age_s == self.now_s - self.waiting_since_s[0]
        del self.waiting_since_s[: len(batch.items)]
        self.delivered += batch.items

    @rule()
    def offer(self) -> None:
        self.waiting_since_s.append(self.now_s)
        batch = self.batcher.offer(self.offered, self.now_s)
        self.offered += 1
        self.receive(batch)

    @rule(step_s=st.floats(0, 2 * MAX_DELAY_S))
    def time_passes(self, step_s: float) -> None:
        self.now_s += step_s
        self.receive(self.batcher.poll(self.now_s))
        assert all(self.now_s - since_s < MAX_DELAY_S for since_s in self.waiting_since_s)

    @rule()
    def flush(self) -> None:
        self.receive(self.batcher.flush(self.now_s))
        assert self.batcher.deadline_s is None

    @invariant()
    def in_order_and_complete(self) -> None:
        assert self.delivered == list(range(len(self.delivered)))
        assert len(self.delivered) + len(self.waiting_since_s) == self.offered


TestBatcher = BatcherMachine.TestCase
