"""An evaluation as one HTML page that needs no other file: tables, plots, and retrievals to look at."""

from __future__ import annotations

import base64
import html
import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from PIL import Image

from embedder.model.evaluate import Evaluation, Example

_THUMBNAIL = 96
_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .7rem;border-bottom:1px solid #ddd;text-align:right}
td:first-child,th:first-child{text-align:left}.row{display:flex;gap:.4rem;align-items:center;margin:.4rem 0}
.row img{width:96px;height:96px;border:3px solid #888}.right img{border-color:#2a8}.wrong img{border-color:#c44}
"""


def write_page(found: Evaluation, title: str, file: Path) -> None:
    """Write the page; pictures are inside it."""
    parts = [
        f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{_STYLE}</style>",
        f"<h1>{html.escape(title)}</h1>",
        _table(found),
        f'<p><img alt="metrics by application" src="{_plot_applications(found)}">',
    ]
    if found.domain_shift:
        parts += [
            "<h2>Domain shift</h2><p>P@1 of whole pictures, query domain (rows) × index domain (columns), binary.</p>",
            f'<p><img alt="domain-shift matrix" src="{_plot_shift(found)}">',
        ]
    for name, examples in found.examples.items():
        if examples:
            parts.append(f"<h2>{html.escape(name)}</h2><p>Query, then its five nearest codes.</p>")
            parts += [_example(example) for example in examples]
    file.write_text("\n".join(parts), encoding="utf-8")


def _table(found: Evaluation) -> str:
    metrics = list(next(iter(next(iter(found.applications.values())).values())))
    rows = ["<tr><th>application<th>" + "".join(f"<th>{html.escape(metric)}" for metric in metrics)]
    for name, kinds in found.applications.items():
        for kind, values in kinds.items():
            cells = "".join(f"<td>{values[metric]:.3f}" for metric in metrics)
            rows.append(f"<tr><td>{html.escape(name)}<td>{kind}{cells}")
    return f"<table>{''.join(rows)}</table>"


def _plot_applications(found: Evaluation) -> str:
    figure = Figure(figsize=(8, 3), layout="constrained")
    axes = figure.subplots()
    places = np.arange(len(found.applications))
    for shift, kind in ((-0.2, "float"), (0.2, "binary")):
        values = [kinds[kind]["P@1"] for kinds in found.applications.values()]
        bars = axes.bar(places + shift, values, 0.38, label=kind)
        axes.bar_label(bars, fmt="%.3f", fontsize=8)
    axes.set_xticks(places, list(found.applications))
    axes.set(ylabel="P@1", ylim=(0, 1.08))
    axes.legend()
    return _inline(figure)


def _plot_shift(found: Evaluation) -> str:
    asked = list(dict.fromkeys(name.split("→")[0] for name in found.domain_shift))
    indexed = list(dict.fromkeys(name.split("→")[1] for name in found.domain_shift))
    matrix = np.array([[found.domain_shift[f"{row}→{column}"]["binary"] for column in indexed] for row in asked])
    figure = Figure(figsize=(4.5, 3.5), layout="constrained")
    axes = figure.subplots()
    axes.imshow(matrix, vmin=0, vmax=1, cmap="viridis")
    axes.set_xticks(range(len(indexed)), indexed)
    axes.set_yticks(range(len(asked)), asked)
    for row, column in np.ndindex(matrix.shape):
        colour = "black" if matrix[row, column] > 0.6 else "white"
        axes.text(column, row, f"{matrix[row, column]:.3f}", ha="center", va="center", color=colour)
    return _inline(figure)


def _example(example: Example) -> str:
    answers = "".join(
        f'<span class="{"right" if right else "wrong"}"><img alt="answer" src="{_thumbnail(answer)}"></span>'
        for answer, right in zip(example.answers, example.right, strict=True)
    )
    return f'<div class=row><img alt="query" src="{_thumbnail(example.query)}">→{answers}</div>'


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> str:
    picture = Image.fromarray(np.ascontiguousarray(pixels)).resize((_THUMBNAIL, _THUMBNAIL))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=80)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _inline(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
