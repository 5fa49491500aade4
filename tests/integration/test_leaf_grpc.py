"""A root and its leaves over real gRPC, without Kafka: exact answers, and every way in which a leaf can fail one."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import grpc
import numpy as np
import pytest

from index_sync.code_batch import CodeBatch
from index_sync.grpc_leaf import SEARCH, GrpcLeafServer
from index_sync.leaf import LeafStatus, LocalLeaf, ServedShard
from index_sync.leaf_messages import LeafQuery, write_query
from index_sync.redis_leases import Lease
from index_sync.root import BehindError, MissingShardsError, Root
from index_sync.search_protocol import SearchAnswer
from index_sync.searcher import Searcher
from index_sync.segment import SearchFilter
from index_sync.shard import Shard
from pinstream.settings import HttpSettings

BITS, W = 256, 32
MODEL, OTHER_MODEL = "ab" * 32, "cd" * 32
PINS = 3000


@dataclass(frozen=True)
class Node:
    leaf: LocalLeaf
    address: str


def codes() -> np.ndarray:
    """Clustered, so that many Pins are at the same distance."""
    return np.random.default_rng(1).integers(0, 4, (PINS, W), dtype=np.uint8)


def shard_of(partition: int, partitions: int) -> Shard:
    pin_id = np.arange(1, PINS + 1)
    mine = pin_id % partitions == partition
    count = int(np.count_nonzero(mine))
    shard = Shard(BITS, seal_rows=500)
    shard.apply(
        CodeBatch(
            pin_id=pin_id[mine],
            source_offset=np.arange(count),
            event_time_ms=np.zeros(count, dtype=np.int64),
            domain=(pin_id[mine] % 3).astype(np.uint8),
            flags=(pin_id[mine] % 2).astype(np.uint32),
            is_delete=np.zeros(count, dtype=bool),
            code_NW=codes()[mine],
            next_offset=count,
        )
    )
    return shard


@contextmanager
def node(shards: dict[int, Shard], model: str = MODEL, says: str | None = None) -> Iterator[Node]:
    """A node of `model`; with `says` its server takes queries of that one all the same."""
    searcher = Searcher(2)
    leaf = LocalLeaf(searcher, model, dict, lanes=2, max_batch=16, max_waiting=100)
    for partition, shard in shards.items():
        leaf.add(partition, shard)
    server = GrpcLeafServer(leaf, HttpSettings(), says or model, BITS)
    server.start()
    try:
        yield Node(leaf, server.address)
    finally:
        server.stop()
        leaf.close()
        searcher.close()


def lease(name: str, address: str, *partitions: int) -> Lease:
    shards = {partition: ServedShard(0, 0.0) for partition in partitions}
    return Lease(name, address, 0, LeafStatus(shards, 0, 0.001))


@contextmanager
def root_over(own: LocalLeaf, leases: tuple[Lease, ...], partitions: int) -> Iterator[Root]:
    root = Root(own, lambda: leases, model=MODEL, bits=BITS, partitions=partitions, max_lag_s=2.0)
    try:
        yield root
    finally:
        root.close()


def query(code_W: np.ndarray, k: int = 20, where: SearchFilter | None = None, **offsets: int) -> LeafQuery:
    wanted = {int(name[1:]): offset for name, offset in offsets.items()}
    return LeafQuery(MODEL, code_W, k, (), where, None, wanted)


def ask(root: Root, asked: LeafQuery, timeout_s: float = 5.0) -> SearchAnswer:
    return root.search(asked, time.monotonic() + timeout_s)


def pairs(answer: SearchAnswer) -> list[tuple[int, int]]:
    return [(hit.distance, hit.pin_id) for hit in answer.hits]


def expected(code_W: np.ndarray, k: int, where: SearchFilter | None = None) -> list[tuple[int, int]]:
    pin_id = np.arange(1, PINS + 1)
    fits = np.ones(PINS, dtype=bool)
    if where is not None:
        fits = where.matches((pin_id % 3).astype(np.uint8), (pin_id % 2).astype(np.uint32))
    distance = np.bitwise_count(codes() ^ code_W).sum(axis=1, dtype=np.int32)
    order = np.lexsort((pin_id[fits], distance[fits]))[:k]
    return list(zip(distance[fits][order].tolist(), pin_id[fits][order].tolist(), strict=True))


@pytest.fixture(scope="module")
def cluster() -> Iterator[tuple[Root, list[Node]]]:
    """This node serves shard 0, others 1 and 2 together and 3."""
    with ExitStack() as stack:
        held = ({0}, {1, 2}, {3})
        nodes = [stack.enter_context(node({p: shard_of(p, 4) for p in mine})) for mine in held]
        leases = (lease("b", nodes[1].address, 1, 2), lease("c", nodes[2].address, 3))
        yield stack.enter_context(root_over(nodes[0].leaf, leases, 4)), nodes


@pytest.mark.parametrize("where", [None, SearchFilter(frozenset({1})), SearchFilter(None, 1)])
@pytest.mark.parametrize("k", [1, 21, 1000])
def test_the_cluster_answers_as_one_index(cluster: tuple[Root, list[Node]], k: int, where: SearchFilter | None) -> None:
    root, _ = cluster
    for code_W in codes()[:5]:
        answer = ask(root, query(code_W, k, where))
        assert not answer.partial
        assert pairs(answer) == expected(code_W, k, where)
        for hit in answer.hits:
            assert (hit.domain, hit.flags) == (
                ["camera", "pin", "product"][hit.pin_id % 3],
                ("shoppable",) * (hit.pin_id % 2),
            )


def test_concurrent_queries_get_what_each_would_get_alone(cluster: tuple[Root, list[Node]]) -> None:
    root, _ = cluster
    asked = [(code_W, k) for code_W in codes()[:60] for k in (5, 20, 40)]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda one: ask(root, query(*one)), asked))
    for (code_W, k), answer in zip(asked, answers, strict=True):
        assert pairs(answer) == expected(code_W, k)


def test_a_pin_is_found_on_any_node(cluster: tuple[Root, list[Node]]) -> None:
    root, _ = cluster
    for pin_id in (4, 5, 6, 7):
        held = root.pin(pin_id, time.monotonic() + 5)
        assert held is not None
        assert held.partition == pin_id % 4
    assert root.pin(PINS + 1, time.monotonic() + 5) is None


@pytest.mark.parametrize("says", [OTHER_MODEL, MODEL])
def test_a_leaf_of_another_model_is_refused_and_missing(says: str) -> None:
    with ExitStack() as stack:
        own = stack.enter_context(node({0: shard_of(0, 2)}))
        other = stack.enter_context(node({1: shard_of(1, 2)}, OTHER_MODEL, says))
        root = stack.enter_context(root_over(own.leaf, (lease("other", other.address, 1),), 2))
        answer = ask(root, query(codes()[0]))
        assert answer.missing_shards == (1,)
        assert answer.partial
        assert {hit.pin_id % 2 for hit in answer.hits} == {0}
        with pytest.raises(MissingShardsError, match="shards 1"):
            root.pin(1, time.monotonic() + 5)


@contextmanager
def black_hole() -> Iterator[str]:
    """Takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def test_a_silent_leaf_is_hedged_and_alone_it_is_missing_at_the_deadline() -> None:
    with ExitStack() as stack:
        own, good, silent = (stack.enter_context(node({p: shard_of(p, 2)})) for p in (0, 1, 1))
        silent.leaf.submit = lambda *_: Future()  # type: ignore[method-assign]  # takes the call and never answers
        alone = stack.enter_context(root_over(own.leaf, (lease("silent", silent.address, 1),), 2))
        answer = ask(alone, query(codes()[0]), timeout_s=0.3)
        assert answer.missing_shards == (1,)
        assert 250 <= answer.took_ms < 2000
        both = (lease("silent", silent.address, 1), lease("good", good.address, 1))
        root = stack.enter_context(root_over(own.leaf, both, 2))
        answers = [ask(root, query(codes()[i]), timeout_s=4) for i in range(40)]
    assert [pairs(answer) for answer in answers] == [expected(codes()[i], 20) for i in range(40)]
    assert max(answer.took_ms for answer in answers) < 2000
    waited = sum(answer.took_ms > 90 for answer in answers)
    assert 0 < waited <= 10, "the circuit spares the later ones the wait"


def test_a_leaf_that_takes_connections_and_speaks_no_grpc_is_replaced() -> None:
    with ExitStack() as stack:
        own, good = (stack.enter_context(node({p: shard_of(p, 2)})) for p in (0, 1))
        hole = stack.enter_context(black_hole())
        leases = (lease("hole", hole, 1), lease("good", good.address, 1))
        root = stack.enter_context(root_over(own.leaf, leases, 2))
        for i in range(10):
            assert pairs(ask(root, query(codes()[i]))) == expected(codes()[i], 20)


def test_a_leaf_that_is_gone_is_replaced_at_once() -> None:
    with node({0: shard_of(0, 2)}) as own, node({1: shard_of(1, 2)}) as good:
        with black_hole() as closed:
            pass
        with root_over(own.leaf, (lease("gone", closed, 1), lease("good", good.address, 1)), 2) as root:
            for i in range(20):
                assert pairs(ask(root, query(codes()[i]))) == expected(codes()[i], 20)


def test_what_can_not_be_read_in_time_names_shard_wanted_and_applied(cluster: tuple[Root, list[Node]]) -> None:
    root, _ = cluster
    started_s = time.monotonic()
    with pytest.raises(BehindError) as refused:
        ask(root, query(codes()[0], 20, None, p0=10_000, p2=20_000), timeout_s=0.4)
    assert time.monotonic() - started_s < 2
    assert "shard 0 has applied up to offset 750, wanted 10000" in str(refused.value)
    assert "shard 2 has applied up to offset 750, wanted 20000" in str(refused.value)


def test_an_apply_wakes_what_waits_for_it(cluster: tuple[Root, list[Node]]) -> None:
    root, nodes = cluster
    with ThreadPoolExecutor(2) as pool:
        waiting = pool.submit(ask, root, query(codes()[0], 20, None, p1=760, p0=755), 20)
        nodes[0].leaf.applied(0, 755)
        assert not waiting.done()
        nodes[1].leaf.applied(1, 760)
        answer: SearchAnswer = waiting.result(10)
    assert answer.took_ms < 5000
    assert pairs(answer) == expected(codes()[0], 20)


def test_after_the_deadline_nothing_is_begun(cluster: tuple[Root, list[Node]]) -> None:
    root, _ = cluster
    answer = root.search(query(codes()[0]), time.monotonic())
    assert answer.missing_shards == (0, 1, 2, 3)
    assert not answer.hits


def test_a_search_that_the_root_cancelled_is_not_begun(cluster: tuple[Root, list[Node]]) -> None:
    _, nodes = cluster
    taken: list[Future[object]] = []
    submit = nodes[2].leaf.submit

    def keep(asked: LeafQuery, deadline_s: float) -> Future[object]:
        taken.append(submit(asked, deadline_s))  # type: ignore[arg-type]  # only whether it is cancelled matters
        return taken[-1]

    nodes[2].leaf.submit = keep  # type: ignore[assignment, method-assign]  # to see the future behind the wire
    try:
        with grpc.insecure_channel(nodes[2].address) as channel:
            frame = write_query(LeafQuery(MODEL, codes()[0], 5, (3,), None, None, {3: 10**9}))
            call = channel.unary_unary(SEARCH).future(frame, timeout=30)
            deadline_s = time.monotonic() + 3  # before the leaf gives up by itself, after 5
            while not taken and time.monotonic() < deadline_s:
                time.sleep(0.01)
            call.cancel()
            while not taken[0].cancelled() and time.monotonic() < deadline_s:
                time.sleep(0.01)
            assert taken[0].cancelled()
    finally:
        del nodes[2].leaf.submit


def test_noise_is_refused_and_the_leaf_goes_on(cluster: tuple[Root, list[Node]]) -> None:
    _, nodes = cluster
    with grpc.insecure_channel(nodes[1].address) as channel:
        for noise in (b"", b"\0\0\0\2{}", bytes(range(256)), write_query(query(np.zeros(8, dtype=np.uint8)))):
            with pytest.raises(grpc.RpcError) as refused:
                channel.unary_unary(SEARCH)(noise, timeout=5)
            assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(SEARCH)(bytes(5 * 1024 * 1024), timeout=5)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as refused:
            channel.unary_unary(SEARCH)(
                write_query(LeafQuery(OTHER_MODEL, codes()[0], 5, (1,), None, None, {})), timeout=5
            )
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
        asked = LeafQuery(MODEL, codes()[0], 5, (1,), None, None, {})
        assert channel.unary_unary(SEARCH)(write_query(asked), timeout=5)
