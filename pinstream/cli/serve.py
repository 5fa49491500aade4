"""`pinstream serve`: the front door of the three applications, a process that runs until SIGTERM."""

from __future__ import annotations

import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pinstream.errors import FatalError, RetryableError
from pinstream.interpreter import calm_garbage_collector, take_turns_sooner
from pinstream.logs import set_up_logs
from pinstream.settings import Settings, load_settings

if TYPE_CHECKING:
    from rollout.ab.events import Engagement
    from rollout.ab.kafka_engagements import EngagementProducer
    from rollout.front import LoadModel
    from rollout.generation import Generation


def serve(
    threads: Annotated[int, typer.Option(min=0, help="CPU threads of a model; 0 leaves it to torch.")] = 1,
    images: Annotated[bool, typer.Option(help="Load the models, to take images as queries.")] = True,
) -> None:
    """Run a front door: answers each search from the generation that is live for its application."""
    settings = load_settings()
    set_up_logs(settings)
    from rollout.front_door import FrontDoor  # noqa: PLC0415 (rooms are imported when a command runs)
    from rollout.http_ab import EventIntake, add_ab  # noqa: PLC0415
    from rollout.http_front import add_front  # noqa: PLC0415

    front = FrontDoor(settings, _models(settings, threads) if images else _no_model)
    add_front(front, settings)
    add_ab(front.app, EventIntake(_Engagements(settings), front.watch.registry, settings.rollout.requester_key))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: front.stop())
    calm_garbage_collector()
    take_turns_sooner()
    front.run()


class _Engagements:
    """Publishes what requesters did; connects when the first comes, for searches need no Kafka. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._producer: EngagementProducer | None = None

    def publish(self, engagements: list[Engagement], /) -> None:
        """Blocks until they are kept. Raises RetryableError: perhaps they are not."""
        from rollout.ab.kafka_engagements import EngagementProducer  # noqa: PLC0415

        with self._lock:
            if self._producer is None:
                try:
                    self._producer = EngagementProducer(self._settings)
                except FatalError as error:
                    raise RetryableError(str(error)) from error
        self._producer.publish(engagements)


def _models(settings: Settings, threads: int) -> LoadModel:
    """Loads a generation's model from its artifact, on the device of the settings."""
    import torch  # noqa: PLC0415 (costs seconds)

    from embedder.image_input import ImageInput, QueryEncoder  # noqa: PLC0415
    from embedder.model.artifact import load_artifact  # noqa: PLC0415
    from embedder.torch_encoder import TorchEncoder  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)

    def load(generation: Generation) -> QueryEncoder:
        artifact = load_artifact(Path(generation.artifact))
        if artifact.fingerprint.hex != generation.model:
            raise FatalError(
                f"{generation.artifact} holds model {artifact.fingerprint.short}, expected {generation.model[:12]}: "
                "models never mix, put the generation's own artifact there"
            )
        encoder = TorchEncoder(
            artifact, device=settings.embed.device, precision=settings.embed.precision, max_batch_size=1
        )
        return QueryEncoder(ImageInput(artifact.manifest.preprocessing, settings.fetch.max_pixels), encoder)

    return load


def _no_model(_generation: Generation) -> None:
    return None
