"""One self-contained HTML page: figures, the freshness plot, and queries beside their results as pictures."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import cv2
import matplotlib as mpl
import numpy as np
import simplejpeg

from pinstream.cli.demo.searches import Example, Query, Score
from pinstream.worker_metrics import Buckets
from producers.generated_pins import GeneratedPin
from producers.world import World

mpl.use("Agg")
from matplotlib import pyplot as plt

_STYLE = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1080px;color:#1b1b1f}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse}td,th{padding:.25rem .9rem .25rem 0;text-align:left;vertical-align:top}
td.n{text-align:right;font-variant-numeric:tabular-nums}
.row{display:flex;gap:10px;align-items:flex-start;margin:.5rem 0;padding-bottom:.5rem;border-bottom:1px solid #eee}
figure{margin:0;width:128px}figure img{width:128px;height:128px;object-fit:contain;border-radius:6px;background:#f6f6f6}
figcaption{font-size:12px;color:#555}.query img{outline:3px solid #3355cc}.right img{outline:3px solid #2a9d4a}
.wrong img{outline:3px solid #d5433a}.bad{color:#b3261e}.good{color:#1d7a38}
"""


def write_report(
    path: Path,
    world: World,
    figures: Sequence[tuple[str, str]],
    stages: dict[str, Buckets],
    scores: Sequence[Score],
    faults: Sequence[str],
) -> None:
    """Write the page. Blocks: it renders the pictures that it shows."""
    verdict = (
        '<p class="good">Every surviving Pin is searchable with exactly its newest code; no deleted one is.</p>'
        if not faults
        else f'<p class="bad">{len(faults)} faults: {html.escape("; ".join(faults[:20]))}</p>'
    )
    rows = "".join(f"<tr><td>{html.escape(n)}</td><td class=n>{html.escape(v)}</td></tr>" for n, v in figures)
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>pinstream demo</title><style>{_STYLE}</style>",
        f"<h1>pinstream demo</h1>{verdict}<table>{rows}</table>",
        "<h2>Freshness: from a Pin's event time, while events arrive at a steady rate</h2>",
        f'<img src="data:image/png;base64,{_plot(stages)}" alt="freshness by stage" width=820>',
    ]
    for score in scores:
        title = f"{score.application.name}: {score.application.what}"
        parts.append(f"<h2>{html.escape(title)} — P@1 {score.p_at_1:.3f} of {score.asked} searches</h2>")
        parts += [_example(world, example) for example in score.examples]
    path.write_text("\n".join(parts) + "</html>\n", encoding="utf-8")


def _plot(stages: dict[str, Buckets]) -> str:
    """The cumulative distribution of each stage as a PNG in base64."""
    figure, axes = plt.subplots(figsize=(8.2, 3.6), dpi=130)
    for stage in ("polled", "encoded", "published", "searchable"):
        buckets = stages.get(stage)
        if buckets is None or not buckets.total:
            continue
        points = [
            (bound, count / buckets.total) for bound, count in sorted(buckets.counts.items()) if np.isfinite(bound)
        ]
        axes.plot([1000 * b for b, _ in points], [100 * share for _, share in points], marker="o", ms=3, label=stage)
    axes.axvline(500, color="#999", lw=1, ls="--")
    axes.set(xscale="log", xlim=(5, 5000), ylim=(0, 101), xlabel="ms since the event time", ylabel="% of Pins done")
    axes.grid(alpha=0.25)
    axes.legend(loc="lower right", frameon=False)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _example(world: World, example: Example) -> str:
    cells = [_figure("query", _with_box(example.query), "query")]
    for pin, distance in example.hits:
        kind = "right" if pin.product == example.query.product else "wrong"
        cells.append(_figure(kind, _image(world, pin), f"{pin.domain.value} · distance {distance}"))
    return f'<div class="row">{"".join(cells)}</div>'


def _figure(kind: str, jpeg: bytes, caption: str) -> str:
    source = base64.b64encode(jpeg).decode()
    return (
        f'<figure class="{kind}"><img src="data:image/jpeg;base64,{source}" alt="{kind}">'
        f"<figcaption>{html.escape(caption)}</figcaption></figure>"
    )


def _image(world: World, pin: GeneratedPin) -> bytes:
    return world.render(pin.product, pin.domain, pin.view).jpeg


def _with_box(query: Query) -> bytes:
    if query.box is None:
        return query.jpeg
    rgb = np.ascontiguousarray(simplejpeg.decode_jpeg(query.jpeg, "RGB"))
    height, width = rgb.shape[:2]
    box = query.box
    corners = (
        (int(box.x * width), int(box.y * height)),
        (
            int((box.x + box.width) * width) - 1,
            int((box.y + box.height) * height) - 1,
        ),
    )
    cv2.rectangle(rgb, *corners, (51, 85, 204), 3)
    jpeg: bytes = simplejpeg.encode_jpeg(rgb, quality=85)
    return jpeg
