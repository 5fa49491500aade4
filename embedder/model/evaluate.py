"""What a model finds: every application, float and binary, and the domain-shift matrix, through real FAISS indexes.

Shapes: N items, D dimensions, W = D / 8 bytes, S pixels.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from embedder.model.artifact import Preprocessing
from embedder.model.domains import Application, View
from embedder.model.export import stretch
from embedder.model.ranking import Embedded, measure, rank_binary
from embedder.model.unified import UnifiedEmbedding
from embedder.torch_encoder import TorchEncoder
from pinstream.codes import Fingerprint

BATCH: Final = 64
_NO_FINGERPRINT: Final = Fingerprint("0" * 64)


@dataclass(frozen=True, slots=True)
class Example:
    """A query and its first answers, for a person to look at."""

    query: npt.NDArray[np.uint8]
    answers: list[npt.NDArray[np.uint8]]
    right: list[bool]


@dataclass(frozen=True, slots=True)
class Evaluation:
    applications: dict[str, dict[str, dict[str, float]]]
    """application → `float` | `binary` → metric → value."""
    sizes: dict[str, tuple[int, int]]
    """application → queries, indexed items."""
    domain_shift: dict[str, dict[str, float]]
    """`query→index` → {`float`: P@1, `binary`: P@1}."""
    examples: dict[str, list[Example]]

    def flat(self) -> dict[str, float]:
        """`application.kind.metric` → value, as manifests keep them."""
        return {
            f"{name}.{kind}.{metric}": round(value, 5)
            for name, kinds in self.applications.items()
            for kind, metrics in kinds.items()
            for metric, value in metrics.items()
        }

    def as_json(self) -> dict[str, Any]:
        return {"applications": self.applications, "sizes": self.sizes, "domain_shift": self.domain_shift}


def evaluate(
    encoder: TorchEncoder,
    preprocessing: Preprocessing,
    applications: Sequence[Application],
    pairs: Sequence[Application] = (),
    *,
    examples: int = 0,
) -> Evaluation:
    """Embed every view once, rank and measure. Blocking.

    Args:
        pairs: query domain × index domain, for the domain-shift matrix.
        examples: how many good and how many bad retrievals to keep per application.
    """
    embedded: dict[tuple[bytes, bool], Embedded] = {}

    def embed(view: View) -> Embedded:
        key = (view.items.tobytes(), view.crop)
        if key not in embedded:
            embedded[key] = embed_view(encoder, preprocessing, view)
        return embedded[key]

    found = {each.name: measure(each, embed(each.queries), embed(each.index)) for each in applications}
    shift = {}
    for pair in pairs:
        metrics = measure(pair, embed(pair.queries), embed(pair.index))
        shift[pair.name] = {kind: metrics[kind]["P@1"] for kind in metrics}
    return Evaluation(
        found,
        {each.name: (len(each.queries.items), len(each.index.items)) for each in applications},
        shift,
        {each.name: _examples(each, embed(each.queries), embed(each.index), examples) for each in applications},
    )


def embed_view(encoder: TorchEncoder, preprocessing: Preprocessing, view: View) -> Embedded:
    """Every item of a view → embeddings and the codes that they give."""
    embeddings = [encoder.embed(batch) for batch in view.batches(preprocessing, BATCH)]
    embedding_ND = np.concatenate(embeddings)
    return Embedded(embedding_ND, np.packbits(embedding_ND > 0, axis=1, bitorder="little"))


def encoder_of(network: UnifiedEmbedding, device: str = "cpu") -> TorchEncoder:
    """An encoder for a network in training: a fused copy in eval mode."""
    frozen = copy.deepcopy(network).eval()
    frozen.fuse()
    return TorchEncoder.of_program(
        frozen,
        bits=network.bits,
        preprocessing=stretch(network.input_size),
        fingerprint=_NO_FINGERPRINT,
        device=device,
        max_batch_size=BATCH,
    )


def score(evaluation: Evaluation) -> float:
    """What early stop looks at: the mean of the applications' binary P@1."""
    return float(np.mean([kinds["binary"]["P@1"] for kinds in evaluation.applications.values()]))


def _examples(application: Application, queries: Embedded, index: Embedded, count: int) -> list[Example]:
    """Up to `count` queries whose first answer is right and `count` whose isn't, spread over the set."""
    if not count:
        return []
    neighbours = rank_binary(queries.code_NW, index.code_NW, 6)
    labels, index_labels = application.queries.labels, application.index.labels
    if application.same_items:
        neighbours = np.stack([[n for n in row if n != i][:5] for i, row in enumerate(neighbours.tolist())])
    right_QK = index_labels[neighbours] == labels[:, None]
    chosen: list[int] = []
    for wanted in (True, False):
        rows = np.flatnonzero(right_QK[:, 0] == wanted)
        chosen += rows[np.linspace(0, len(rows) - 1, min(count, len(rows)), dtype=int)].tolist()
    return [
        Example(
            application.queries.image(row),
            [application.index.image(column) for column in neighbours[row, :5].tolist()],
            right_QK[row, :5].tolist(),
        )
        for row in chosen
    ]
