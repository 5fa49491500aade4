"""Training curves as a picture: losses by task, and the held-out metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure


def write_curves(curves: Sequence[dict[str, Any]], file: Path) -> None:
    """Draw `curves.jsonl`'s entries to a PNG."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    losses, metrics = figure.subplots(1, 2)
    _lines(losses, [(entry["step"], entry["loss"]) for entry in curves if "loss" in entry])
    losses.set(title="loss", xlabel="step")
    _lines(metrics, [(entry["step"], entry["metrics"]) for entry in curves if "metrics" in entry])
    metrics.set(title="held-out products", xlabel="step", ylim=(0, 1))
    figure.savefig(file, dpi=110)


def _lines(axes: Any, points: Sequence[tuple[int, dict[str, float]]]) -> None:
    for name in points[0][1] if points else ():
        axes.plot([step for step, _ in points], [values[name] for _, values in points], label=name, linewidth=1)
    axes.grid(alpha=0.3)
    if points:
        axes.legend(fontsize=7)
