"""A full node says so at once, says when to come back, and is well again when the load is gone."""

from __future__ import annotations

import base64
import time
from concurrent.futures import ThreadPoolExecutor

import httpx

from pinstream.codes import Fingerprint
from pinstream.settings import Settings
from tests.conftest import wait_for
from tests.light_worker import BITS
from tests.pipeline import running

QUERY = {"code": base64.b64encode(bytes(BITS // 8)).decode(), "k": 3}


def test_one_search_too_many_is_429_with_an_honest_retry_after(settings: Settings, model: Fingerprint) -> None:
    http = settings.http.model_copy(update={"max_concurrent": 1, "max_waiting": 2})
    with running(settings.model_copy(update={"http": http}), model) as pipeline:
        pipeline.settle()
        url = f"{pipeline.index.http.url}/v1/search"
        held = QUERY | {"min_offset": {"0": 10**9}, "timeout_ms": 2000}

        def in_flight() -> float:
            lines = httpx.get(f"{pipeline.index.http.url}/metrics").text.splitlines()
            return next(float(x.split()[-1]) for x in lines if x.startswith("pinstream_searches_in_flight "))

        before = in_flight()
        assert httpx.post(url, json=held | {"timeout_ms": 1500}, timeout=30).status_code == 412
        with ThreadPoolExecutor(3) as pool:
            waiting = [pool.submit(httpx.post, url, json=held, timeout=30)]
            wait_for(lambda: in_flight() == before + 1, "one runs")
            for partial in (True, False):
                soon = QUERY | {"timeout_ms": 700, "allow_partial": partial}
                waiting.append(pool.submit(httpx.post, url, json=soon, timeout=30))
            wait_for(lambda: in_flight() == before + 3, "two wait")
            started_s = time.monotonic()
            refused = httpx.post(url, json=QUERY, timeout=30)
            assert time.monotonic() - started_s < 1
            assert refused.status_code == 429
            assert 4 <= int(refused.headers["retry-after"]) <= 6, "three times the 1.5 s that the last one took"
            behind, marked, whole_or_none = (one.result() for one in waiting)
        assert behind.status_code == 412
        # the two that waited had no time left when their turn came: nothing was begun, and all of it is missing
        assert marked.json()["missing_shards"] == [0, 1, 2]
        assert marked.json()["partial"] is True
        assert whole_or_none.status_code == 503
        assert "shards 0, 1, 2 do not answer" in whole_or_none.text
        assert whole_or_none.headers["retry-after"] == "1"
        assert in_flight() == before
        assert httpx.post(url, json=QUERY, timeout=30).json()["partial"] is False


def test_a_deadline_that_can_not_be_met_is_marked_or_503(settings: Settings, model: Fingerprint) -> None:
    away = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"})})
    with running(away, model) as pipeline:
        pipeline.settle()
        url = f"{pipeline.index.http.url}/v1/search"
        longer = httpx.post(url, json=QUERY | {"timeout_ms": 120_000}, timeout=30)
        assert longer.status_code == 200
        assert httpx.post(url, json=QUERY | {"timeout_ms": 0}).status_code == 422
        assert httpx.post(url, json=QUERY | {"timeout_ms": 120_001}).status_code == 422
