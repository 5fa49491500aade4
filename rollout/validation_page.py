"""A validation as one HTML page that needs no other file: the gates, then old and new results side by side."""

from __future__ import annotations

import base64
import html
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from rollout.gates import GateResult, Verdict
from rollout.generation import Application
from rollout.pin_pictures import thumbnail
from rollout.query_result import SHOWN_HITS, Answer, QueryResult
from rollout.shown_queries import shown_queries
from rollout.validate import Validation

_STYLE: Final = """
body{font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1180px;padding:0 1rem;color:#1b1b1f}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem}
table{border-collapse:collapse;width:100%}td,th{padding:.35rem .9rem .35rem 0;text-align:left;vertical-align:top;
border-bottom:1px solid #e4e4e8}.worst{color:#555;font-size:13px}
.failed,.bad{color:#b3261e}.passed,.good{color:#1d7a38}.open{color:#8a6100}td:nth-child(2){white-space:nowrap}
.query{display:grid;grid-template-columns:132px 1fr 1fr;gap:14px;margin:.6rem 0;padding-bottom:.6rem;
border-bottom:1px solid #e4e4e8}.hits{display:flex;gap:6px;flex-wrap:wrap}.side{font-size:12px;color:#555}
figure{margin:0;width:88px;font-size:11px;color:#555}figure.asked{width:128px}
img,.none{width:82px;height:82px;object-fit:contain;border-radius:5px;background:#f4f4f6;border:3px solid #c9c9d2}
.asked img,.asked .none{width:118px;height:118px;border-color:#35c}.right img,.right .none{border-color:#2a9d4a}
.wrong img,.wrong .none{border-color:#d5433a}.none{display:flex;align-items:center;justify-content:center}
.lost img{border-style:dashed}figcaption{overflow-wrap:anywhere}
"""
_CLASS: Final = {Verdict.PASSED: "passed", Verdict.FAILED: "failed", Verdict.NOT_JUDGED: "open"}
_TITLE: Final = {
    Application.FLASHLIGHT: "Flashlight",
    Application.LENS: "Lens",
    Application.SHOP_THE_LOOK: "Shop the Look",
}


def write_page(validation: Validation, file: Path, *, k: int, max_pixels: int) -> None:
    """Write the page; pictures are inside it. Blocks."""
    short = validation.generation.model[:12]
    title = f"Validation of generation {short}"
    parts = [
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title><style>{_STYLE}</style>",
        f"<h1>{title}</h1>{_verdict(validation)}",
        "<table><tr><th>gate<th>verdict<th>measured<th>expected",
        *(_gate(result) for result in sorted(validation.results, key=lambda one: not one.blocks)),
        "</table>",
    ]
    shown = shown_queries(validation.queries, k)
    for application in Application:
        queries = [query for query in shown if query.application is application]
        if queries:
            live = validation.live.get(application)
            parts.append(
                f"<h2>{_TITLE[application]}: {'live ' + live[:12] if live else 'nothing else live'} | new {short}</h2>"
                "<p class=side>The first queries are those that lost most. Frames: green right, red wrong, grey not "
                "known; dashed: the other generation does not find it.</p>"
            )
            parts += [_query(query, validation.pictures, max_pixels) for query in queries]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(parts) + "</html>\n", encoding="utf-8")


def _verdict(validation: Validation) -> str:
    blocking = [result.name for result in validation.results if result.blocks]
    applications = ", ".join(_TITLE[one] for one in sorted(validation.applications))
    if blocking:
        text = f"Stopped by: {', '.join(blocking)}. The flip is refused."
        return f"<p class=bad><b>{html.escape(text)}</b><p>For {applications}, {validation.seconds:.1f} s."
    return f"<p class=good><b>All gates passed.</b><p>For {applications}, {validation.seconds:.1f} s."


def _gate(result: GateResult) -> str:
    worst = f"<div class=worst>Worst: {html.escape(' · '.join(result.worst))}</div>" if result.worst else ""
    needed = ", required" if result.required and result.verdict is Verdict.NOT_JUDGED else ""
    kind = "failed" if result.blocks else _CLASS[result.verdict]
    return (
        f"<tr><td>{html.escape(result.name)}<td class={kind}>{result.verdict}{needed}"
        f"<td>{html.escape(result.figure)}{worst}<td>{html.escape(result.bar)}"
    )


def _query(query: QueryResult, pictures: Mapping[int, bytes], max_pixels: int) -> str:
    if query.image is not None:
        asked = thumbnail(query.image, query.box, max_pixels)
    else:
        asked = pictures.get(query.pin_id or 0)
    sides = (
        _hits("live", query.live, query.new, query, pictures) if query.live else "<div class=side>live: nothing</div>"
    )
    return (
        f"<div class=query>{_figure('asked', asked, query.name)}{sides}"
        f"{_hits('new', query.new, query.live, query, pictures)}</div>"
    )


def _hits(name: str, answer: Answer, other: Answer | None, query: QueryResult, pictures: Mapping[int, bytes]) -> str:
    there = other.pin_ids(len(other.hits)) if other else frozenset()
    figures = []
    for pin_id, distance in answer.hits[:SHOWN_HITS]:
        kind = ("right" if pin_id in query.expected else "wrong") if query.expected else "unknown"
        lost = " lost" if other and pin_id not in there else ""
        figures.append(_figure(kind + lost, pictures.get(pin_id), f"{pin_id} · {distance}"))
    side = f"<div class=side>{name}, {1000 * answer.seconds:.0f} ms</div>"
    return f"<div>{side}<div class=hits>{''.join(figures)}</div></div>"


def _figure(kind: str, jpeg: bytes | None, caption: str) -> str:
    if jpeg is None:
        picture = "<div class=none>no picture</div>"
    else:
        source = base64.b64encode(jpeg).decode()
        picture = f'<img alt="{html.escape(caption)}" src="data:image/jpeg;base64,{source}">'
    return f'<figure class="{kind}">{picture}<figcaption>{html.escape(caption)}</figcaption></figure>'
