"""`pinstream embed` and `pinstream index`: the two kinds of worker, each a process that runs until SIGTERM."""

from __future__ import annotations

import signal
from typing import Annotated, Any, Protocol

import typer

from pinstream.interpreter import calm_garbage_collector, take_turns_sooner
from pinstream.kafka_clients import reachable_admin
from pinstream.logs import set_up_logs
from pinstream.settings import Settings, load_settings

Threads = Annotated[int, typer.Option(min=0, help="CPU threads of the model; 0 leaves it to torch.")]


class Worker(Protocol):
    def run(self) -> None: ...
    def stop(self) -> None: ...


def embed(threads: Threads = 0) -> None:
    """Run an embed worker: Pins in, codes out, until SIGTERM or Ctrl-C drains it."""
    settings = load_settings()
    set_up_logs(settings)
    reachable_admin(settings)  # before the model: whatever is away is said at once
    from embedder.worker import EmbedWorker  # noqa: PLC0415 (rooms are imported when a command runs)
    from rollout.start_plan import plan_at_start  # noqa: PLC0415

    encoder, image_input, fingerprint = _model(settings, threads, settings.embed.max_batch_size)
    _run(EmbedWorker(settings, encoder, image_input, fingerprint, plan=plan_at_start(settings, fingerprint)))


def index(
    threads: Threads = 1,
    images: Annotated[bool, typer.Option(help="Load the model, to take images as queries.")] = True,
) -> None:
    """Run an index worker: applies codes to its shards and answers searches, until SIGTERM or Ctrl-C."""
    settings = load_settings()
    set_up_logs(settings)
    reachable_admin(settings)
    from embedder.model.artifact import default_artifact_path, load_artifact  # noqa: PLC0415
    from index_sync.worker import IndexWorker  # noqa: PLC0415

    take_turns_sooner()
    if images:
        from embedder.image_input import QueryEncoder  # noqa: PLC0415

        encoder, image_input, fingerprint = _model(settings, threads, 1)
        _run(IndexWorker(settings, fingerprint, encoder.bits, QueryEncoder(image_input, encoder)))
    else:
        artifact = load_artifact(settings.model_path or default_artifact_path())
        _run(IndexWorker(settings, artifact.fingerprint, artifact.bits, None))


def _model(settings: Settings, threads: int, max_batch_size: int) -> tuple[Any, Any, Any]:
    """The model of the settings, on its device: encoder, image input, fingerprint."""
    import torch  # noqa: PLC0415

    from embedder.image_input import ImageInput  # noqa: PLC0415
    from embedder.model.artifact import default_artifact_path, load_artifact  # noqa: PLC0415
    from embedder.torch_encoder import TorchEncoder  # noqa: PLC0415

    if threads:
        torch.set_num_threads(threads)
    artifact = load_artifact(settings.model_path or default_artifact_path())
    encoder = TorchEncoder(
        artifact,
        device=settings.embed.device,
        precision=settings.embed.precision,
        max_batch_size=max_batch_size,
    )
    return encoder, ImageInput(artifact.manifest.preprocessing, settings.fetch.max_pixels), artifact.fingerprint


def _run(worker: Worker) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: worker.stop())
    calm_garbage_collector()
    worker.run()
