"""Judges a new generation beside the live one: measures, asks the gates, and moves the registry on if all pass. Blocks.

Nothing of either generation is stopped or changed by the measuring.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from embedder.model.artifact import Artifact, default_artifact_path, load_artifact
from embedder.model.verify import verify_artifact
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, FatalError
from pinstream.kafka_clients import redis_url
from pinstream.settings import GateSettings, Settings
from rollout import gates
from rollout.code_health import code_health
from rollout.gates import Gate, GateResult
from rollout.generation import Application, Generation, Registry, State
from rollout.golden import read_golden
from rollout.http_nodes import GenerationNodes, Node, ask_nodes
from rollout.pin_pictures import PinPictures
from rollout.query_result import QueryResult
from rollout.query_runs import QueryRuns, Side, bits_that_differ, load_side
from rollout.query_sample import read_sample
from rollout.redis_replay import ReplayMirror
from rollout.shard_rows import Shadow, read_shadow
from rollout.store_registry import RegistryStore

log = logging.getLogger(__name__)

JUDGED_STATES: Final = (State.CAUGHT_UP, State.VALIDATED, State.LIVE, State.STANDBY)


@dataclass(frozen=True, slots=True)
class Validation:
    """What was judged, and everything that its page shows."""

    generation: Generation
    live: Mapping[Application, str]
    """Fingerprints."""
    applications: frozenset[Application]
    results: tuple[GateResult, ...]
    queries: tuple[QueryResult, ...]
    pictures: Mapping[int, bytes]
    """Of Pins: small JPEGs."""
    seconds: float

    @property
    def passed(self) -> bool:
        return not any(result.blocks for result in self.results)


def validate(
    settings: Settings, registry: Registry, model: str | None, urls: Sequence[str], applications: frozenset[Application]
) -> Validation:
    """Measure and judge; changes nothing.

    Args:
        model: fingerprint or its beginning; None: the one generation that has caught up.
        urls: the index workers of the new and of the live generations, in any order; none: those that Redis knows.

    Raises:
        FatalError: there is nothing to judge, or not with these workers, queries or settings.
        RetryableError: Kafka or a worker is away, or the generation has not caught up in time.
    """
    generation = chosen(registry, model)
    _check_required(settings.rollout.gates)
    started_s = time.monotonic()
    live_models = {
        application: name
        for application, name in registry.live.items()
        if application in applications and name != generation.model
    }
    with ExitStack() as stack:
        models = {generation.model, *live_models.values()}
        nodes = _by_model(ask_nodes(urls or _known_urls(settings, models)), registry, models)
        run = _Run(settings, generation, applications, stack)
        run.judge_model(nodes)
        if run.new is not None:
            live = {name: run.side(registry.generations[name], nodes[name]) for name in set(live_models.values())}
            run.judge_rest({application: live[name] for application, name in live_models.items()})
        results = gates.with_required(run.results, settings.rollout.gates.required, something_is_live=bool(live_models))
        return Validation(
            generation=generation,
            live=live_models,
            applications=applications,
            results=tuple(results),
            queries=tuple(run.queries),
            pictures=run.pictures,
            seconds=time.monotonic() - started_s,
        )


def conclude(store: RegistryStore, validation: Validation, *, by: str, at_ms: int) -> Registry:
    """Move the generation: to validated if all gates passed; back to caught_up if it was validated and one did not.

    Raises:
        RegistryConflictError: somebody else changed the registry: validate again.
    """

    def change(registry: Registry) -> Registry:
        generation = registry.generation(validation.generation.model)
        if validation.passed:
            judged = validation.applications | set(generation.judged)
            if generation.state is State.CAUGHT_UP:
                generation = generation.moved(State.VALIDATED, at_ms=at_ms, by=by, why="all gates passed")
            elif not generation.judged:
                return registry  # it has passed for all applications already
            generation = generation.model_copy(update={"judged": tuple(sorted(judged))})
        elif generation.state is State.VALIDATED:
            failed = ", ".join(result.name for result in validation.results if result.blocks)
            generation = generation.moved(State.CAUGHT_UP, at_ms=at_ms, by=by, why=f"stopped by: {failed}"[:500])
        return registry.with_generation(generation)

    return store.update(change, by=by, action=f"validate {validation.generation.model[:12]}", at_ms=at_ms)


def chosen(registry: Registry, model: str | None) -> Generation:
    """The generation to judge.

    Raises:
        FatalError: none or several have caught up, or the named one has not.
    """
    if model is None:
        ready = [one for one in registry.generations.values() if one.state in (State.CAUGHT_UP, State.VALIDATED)]
        if len(ready) != 1:
            raise FatalError(f"{len(ready)} generations have caught up, expected one: name the one to judge")
        return ready[0]
    generation = registry.generation(model)
    if generation.state not in JUDGED_STATES:
        raise FatalError(
            f"generation {generation.model[:12]} is {generation.state}: it can be judged when it has caught up"
        )
    return generation


class _Run:
    """One validation under way."""

    def __init__(
        self, settings: Settings, generation: Generation, applications: frozenset[Application], stack: ExitStack
    ) -> None:
        self.results: list[GateResult] = []
        self.queries: list[QueryResult] = []
        self.pictures: Mapping[int, bytes] = {}
        self.new: Side | None = None
        self._settings = settings
        self._bars = settings.rollout.gates
        self._generation = generation
        self._model = Fingerprint(generation.model)
        self._applications = applications
        self._stack = stack

    def judge_model(self, nodes: Mapping[str, list[Node]]) -> None:
        """Without the right model, nothing else is judged."""
        generation = self._generation
        own = nodes[generation.model]
        faults = [
            f"{node.url} holds codes of {node.bits} bits, the registry says {generation.bits}"
            for node in own
            if node.bits != generation.bits
        ]
        if not own:
            faults.append(f"no index worker of model {generation.model[:12]} is known: start some, or give their --url")
        artifact = None
        try:
            artifact = load_artifact(artifact_path(generation))
        except CorruptStateError as error:
            faults.append(str(error))
        if artifact is not None and (artifact.fingerprint.hex, artifact.bits) != (generation.model, generation.bits):
            faults.append(
                f"the artifact {generation.artifact} is {artifact.fingerprint.short} with {artifact.bits} bits, the "
                f"registry says {generation.model[:12]} with {generation.bits}"
            )
        self.results.append(gates.model_gate(faults, len(own)))
        if not faults and artifact is not None:
            self.new = self._open(artifact, own)

    def side(self, generation: Generation, nodes: list[Node]) -> Side:
        """Of a live generation.

        Raises:
            FatalError: none of its workers is known, or its artifact isn't here: there is none, or another model's.
        """
        if not nodes:
            raise FatalError(
                f"generation {generation.model[:12]} is live and none of its index workers is known: give their --url"
            )
        artifact = load_artifact(artifact_path(generation))
        if artifact.fingerprint.hex != generation.model:
            raise FatalError(
                f"generation {generation.model[:12]} is live, and its artifact {str(artifact.path)!r} is model "
                f"{artifact.fingerprint.short} here: put the live model's artifact there"
            )
        return self._open(artifact, nodes)

    def _open(self, artifact: Artifact, nodes: list[Node]) -> Side:
        opened = GenerationNodes(nodes, artifact.fingerprint.hex, artifact.bits)
        self._stack.callback(opened.close)
        return load_side(self._settings, artifact, opened)

    def judge_rest(self, live: Mapping[Application, Side]) -> None:
        new, bars = self.new, self._bars
        assert new is not None
        one_live = next(iter(live.values()), None)
        self._judge_golden_inputs()
        log.info("reading the Pins topic and the shards of %s", self._model.short)
        shadow = read_shadow(self._settings, self._model, new.nodes)
        before = [side.nodes.freshness() for side in (new, one_live) if side]  # no Pin of the replay is counted
        self.results.append(gates.coverage_gate(shadow.coverage, bars))
        self.results.append(gates.dead_letters_gate(shadow.coverage, bars))
        self.results.append(gates.code_health_gate(code_health(shadow.sample.code_NW), bars))
        with PinPictures(self._settings) as pictures:
            self._judge_codes(new, shadow, pictures)
            if shadow.is_whole:
                self._ask(new, live, shadow)
                self.pictures = pictures.of_queries(self.queries, new.nodes, live, bars.overlap_k)
            self._judge_queries()
        after = [side.nodes.freshness() for side in (new, one_live) if side]
        p99_s = [now.since(then).quantile(0.99) for now, then in zip(after, before, strict=True)]
        self.results.append(gates.freshness_gate(p99_s[0], p99_s[1] if one_live else None, bars))

    def _judge_golden_inputs(self) -> None:
        embed = self._settings.embed
        found = verify_artifact(artifact_path(self._generation), device=embed.device, precision=embed.precision)
        self.results.append(gates.golden_inputs_gate(found.differing, found.total, found.bound, found.sentence()))

    def _judge_codes(self, new: Side, shadow: Shadow, pictures: PinPictures) -> None:
        rows = shadow.sample.first(self._bars.reembed_pins)
        found = pictures.images(zip(rows.partition.tolist(), rows.source_offset.tolist(), strict=True))
        at = [row for row, place in enumerate(rows.places) if place in found]
        images = [found[rows.places[row]] for row in at]
        differing = bits_that_differ(new, images, rows.code_NW[at])
        pairs = [(int(rows.pin_id[row]), count) for row, count in zip(at, differing, strict=True) if count >= 0]
        self.results.append(gates.codes_gate(pairs, self._generation.bits, self._bars))

    def _ask(self, new: Side, live: Mapping[Application, Side], shadow: Shadow) -> None:
        settings, bars = self._settings, self._bars
        runs = QueryRuns(new, live, settings.rollout.profiles, bars.overlap_k, settings.fetch.max_bytes)
        if bars.queries is not None:
            golden = read_golden(bars.queries, self._applications)
            log.info("asking %d golden queries", len(golden))
            self.queries += runs.golden(golden, shadow.living)
        sampled = read_sample(redis_url(settings), settings.topics.pins, settings.redis.timeout_s, bars.live_queries)
        sampled = [query for query in sampled if query.application in self._applications]
        log.info("asking %d live queries again", len(sampled))
        self.queries += runs.sampled(sampled)

    def _judge_queries(self) -> None:
        for application in sorted(self._applications):
            for gate in (gates.p_at_1_gate, gates.recall_gate, gates.overlap_gate):
                self.results.append(gate(self.queries, application, self._bars))
        self.results.append(gates.latency_gate(self.queries, self._bars))


def artifact_path(generation: Generation) -> Path:
    """Where the generation's model is on this machine; none named: the one that ships."""
    return Path(generation.artifact) if generation.artifact else default_artifact_path()


def _by_model(nodes: Sequence[Node], registry: Registry, wanted: set[str]) -> dict[str, list[Node]]:
    found: dict[str, list[Node]] = {name: [] for name in wanted}
    for node in nodes:
        if node.model in found:
            found[node.model].append(node)
        elif node.model not in registry.generations:
            raise FatalError(f"{node.url} serves model {node.model[:12]}, which is no generation of this registry")
    return found


def _known_urls(settings: Settings, models: set[str]) -> list[str]:
    mirror = ReplayMirror(redis_url(settings), max(settings.redis.timeout_s, 1.0))
    try:
        return [lease.url for model in sorted(models) for lease in mirror.leases(model) if lease.url]
    finally:
        mirror.close()


def _check_required(settings: GateSettings) -> None:
    unknown = sorted(set(settings.required) - {str(gate) for gate in Gate})
    if unknown:
        known = ", ".join(Gate)
        raise FatalError(f"rollout.gates.required names {unknown[0]!r}, expected gates among: {known}")
