"""A Pin from Kafka to a search result, on a real Kafka and a real Redis."""

from __future__ import annotations

import base64
import json
import re
import time
import zlib
from pathlib import Path

import fastavro
import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage

from consumers.topic_fold import read_topic
from pinstream.codes import Fingerprint, avro_schema
from pinstream.events import Domain, Image, Op, PinEvent
from pinstream.kafka_clients import client_config, reachable_admin
from pinstream.local import LocalServers, kafka_tool
from pinstream.settings import Settings
from producers.pin_source import data_uri
from tests.light_worker import BITS, expected_code
from tests.oracle import check_codes, check_dead_letters, check_index, fold_pins
from tests.pipeline import Pipeline, running
from tests.workload import Workload, jpeg


def upsert(pin_id: int, uri: str, **changes: object) -> tuple[bytes, bytes]:
    """A record as anybody could write it with kcat: JSON by hand."""
    event = {
        "pin_id": pin_id,
        "op": "upsert",
        "event_time": time.time_ns() // 1_000_000,
        "image": {"uri": uri},
        "domain": "pin",
    }
    return b"%d" % pin_id, json.dumps(event | changes).encode()


def dead_letters(settings: Settings) -> dict[bytes, tuple[bytes | None, dict[str, bytes]]]:
    """Key → value and headers of each dead letter."""
    letters = {}
    for message in read_topic(settings, settings.topics.dead_letters, settings.topics.partitions):
        headers = {name: value or b"" for name, value in message.headers() or []}
        letters[message.key() or b""] = (message.value(), headers)
    return letters


def search(pipeline: Pipeline, **body: object) -> dict[str, object]:
    answer = httpx.post(f"{pipeline.index.http.url}/v1/search", json=body, timeout=30)
    assert answer.status_code == 200, answer.text
    found: dict[str, object] = answer.json()
    return found


def test_random_events_end_as_their_fold(settings: Settings, model: Fingerprint) -> None:
    workload = Workload(seed=1, pins=150)
    with running(settings, model) as pipeline:
        pipeline.send([workload.next() for _ in range(1500)])
        pipeline.settle()
        expected, bad = fold_pins(settings)
        assert bad.unreadable
        check_codes(settings, model, expected, exactly_once=True)
        check_dead_letters(settings, bad, exactly_once=True)
        check_index([pipeline.index.http.url], expected)


def test_a_pin_is_found_by_image_box_id_and_code(settings: Settings, model: Fingerprint) -> None:
    image = jpeg(1)
    with running(settings, model) as pipeline:
        pipeline.send([upsert(i, data_uri(jpeg(i)), domain="product" if i % 2 else "pin") for i in range(1, 30)])
        pipeline.settle()
        by_image = search(pipeline, image=base64.b64encode(image).decode(), k=3)
        assert by_image["hits"][0] == {"pin_id": 1, "distance": 0, "domain": "product", "flags": []}  # type: ignore[index]
        assert by_image["generation"] == model.hex
        assert by_image["partial"] is False
        assert len(by_image["shards"]) == settings.topics.partitions  # type: ignore[arg-type]
        by_code = search(pipeline, code=base64.b64encode(expected_code(image)).decode(), k=3)
        assert by_code["hits"] == by_image["hits"]
        by_pin = search(pipeline, pin_id=1, k=2)
        assert by_pin["hits"] == by_image["hits"][1:]  # type: ignore[index]
        only_pins = search(pipeline, image=base64.b64encode(image).decode(), k=50, domains=["pin"])
        assert {hit["domain"] for hit in only_pins["hits"]} == {"pin"}  # type: ignore[attr-defined]
        assert len(only_pins["hits"]) == 14  # type: ignore[arg-type]
        upload = httpx.post(
            f"{pipeline.index.http.url}/v1/search/image?k=3&box=0,0,1,1", files={"image": image}, timeout=30
        )
        assert upload.json()["hits"] == by_image["hits"]


@pytest.mark.parametrize(
    ("body", "status", "named"),
    [
        ({}, 422, "exactly one of"),
        ({"pin_id": 1, "code": "AA=="}, 422, "exactly one of"),
        ({"pin_id": 4711}, 404, "4711"),
        ({"pin_id": 2**63}, 422, "pin_id"),
        ({"code": "AA=="}, 400, f"8 bits, expected {BITS}"),
        ({"code": "%%%"}, 400, "not base64"),
        ({"image": base64.b64encode(b"<svg/>").decode()}, 400, "SVG"),
        ({"pin_id": 1, "k": 0}, 422, "k"),
        ({"pin_id": 1, "surprise": 1}, 422, "surprise"),
    ],
)
def test_a_bad_query_is_told_what_is_wrong(
    searchable: Pipeline, body: dict[str, object], status: int, named: str
) -> None:
    answer = httpx.post(f"{searchable.index.http.url}/v1/search", json=body, timeout=30)
    assert answer.status_code == status, answer.text
    assert named in answer.text


@pytest.fixture(scope="module")
def searchable(servers: LocalServers, tmp_path_factory: pytest.TempPathFactory) -> object:
    """One running pipeline for all bad queries."""
    from pinstream.settings import load_settings  # noqa: PLC0415 (the module's own settings)

    settings = load_settings(
        kafka={"bootstrap_servers": servers.bootstrap_servers},
        topics={"pins": "pins.bad-queries", "partitions": 1},
        index={"snapshot_url": f"file://{tmp_path_factory.mktemp('snapshots')}"},
    )
    with running(settings, Fingerprint("bad0" * 16)) as pipeline:
        yield pipeline


def hostile_records(folder: Path) -> dict[bytes, tuple[bytes, str]]:
    """Key → value, and what the dead letter's reason must say."""
    good = jpeg(0)
    (folder / "page.jpg").write_bytes(b"<!doctype html><html><body>404</body></html>")
    (folder / "empty.jpg").write_bytes(b"")
    (folder / "cut.jpg").write_bytes(good[: len(good) // 2])
    (folder / "huge.jpg").write_bytes(b"\xff\xd8\xff" + bytes(200 * 1024 * 1024))
    chunk = b"IHDR" + (50_000).to_bytes(4, "big") * 2 + b"\x08\x02\0\0\0"
    header = b"\x89PNG\r\n\x1a\n\0\0\0\r" + chunk + zlib.crc32(chunk).to_bytes(4, "big")
    uris = {
        101: ("file://" + str(folder / "cut.jpg"), "truncated|damaged|incomplete|corrupt|ends"),
        102: (data_uri(header), "50000"),
        103: ("file://" + str(folder / "empty.jpg"), "0 bytes|empty|no bytes"),
        104: ("file://" + str(folder / "page.jpg"), "HTML"),
        105: (data_uri(b'<svg xmlns="http://www.w3.org/2000/svg"/>'), "SVG"),
        106: ("gopher://example.com/x", "expected a URI"),
        107: ("file:///etc/passwd", "allowed_folders"),
        108: ("http://127.0.0.1/x.jpg", "allow_http|allowed_hosts"),
        109: ("https://127.0.0.1/x.jpg", "allowed_hosts"),
        110: ("file://" + str(folder / "huge.jpg"), "larger than"),
        111: ("file://" + str(folder / "absent.jpg"), "absent.jpg"),
    }
    records = {b"%d" % pin: (upsert(pin, uri)[1], reason) for pin, (uri, reason) in uris.items()}
    records |= {
        b"201": (b"{not json", "Invalid JSON"),
        b"202": (upsert(202, data_uri(good), surprise=1)[1], "surprise"),
        b"203": (upsert(203, data_uri(good), domain=7)[1], "domain"),
        b"0": (upsert(0, data_uri(good))[1], "key is b'0'"),
        b"-5": (upsert(-5, data_uri(good))[1], "key is b'-5'"),
        b"9223372036854775808": (upsert(2**63, data_uri(good))[1], "expected a Pin id"),
        b"204": (upsert(205, data_uri(good))[1], "key says pin 204 and the value says pin 205"),
    }
    return records


def test_hostile_events_are_dead_letters_and_everything_else_goes_on(
    settings: Settings, model: Fingerprint, tmp_path: Path
) -> None:
    hostile = hostile_records(tmp_path)
    good = [upsert(i, data_uri(jpeg(i))) for i in range(1, 60)]
    mixed: list[tuple[bytes | None, bytes | None]] = [
        *good[:30],
        *((k, v) for k, (v, _) in hostile.items()),
        *good[30:],
    ]
    with running(settings, model) as pipeline:
        pipeline.send(mixed)
        pipeline.settle()
        letters = dead_letters(settings)
        assert letters.keys() == hostile.keys()
        for key, (value, reason) in hostile.items():
            sent, headers = letters[key]
            assert sent == value
            message = headers["__connect.errors.exception.message"].decode()
            assert re.search(reason, message), f"{key!r}: {message}"
            assert headers["__connect.errors.topic"].decode() == settings.topics.pins
        info = httpx.get(f"{pipeline.index.http.url}/info").json()
        assert sum(info["shards"].values()) == len(good)


def test_any_avro_reader_reads_the_codes(settings: Settings, model: Fingerprint) -> None:
    import io  # noqa: PLC0415 (only here)

    with running(settings, model) as pipeline:
        pipeline.send([upsert(5, data_uri(jpeg(5)), flags=["shoppable"])])
        pipeline.settle()
        (message,) = read_topic(settings, model.codes_topic, settings.topics.partitions)
        value = message.value()
        assert value is not None
        record = fastavro.schemaless_reader(io.BytesIO(value[5:]), avro_schema(BITS), None)
        assert int.from_bytes(record["pin_id"], "big") == 5
        assert record["code"] == expected_code(jpeg(5))
        assert record["flags"] == b"\0\0\1"


def test_kafkas_own_tool_sees_the_same_lag(settings: Settings, model: Fingerprint) -> None:
    with running(settings, model) as pipeline:
        pipeline.send([upsert(i, data_uri(jpeg(i % 7))) for i in range(1, 200)])
        pipeline.settle()
        for worker, topic in ((pipeline.embed, settings.topics.pins), (pipeline.index, model.codes_topic)):
            output = kafka_tool(
                "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
                *("--bootstrap-server", settings.kafka.bootstrap_servers, "--describe", "--group", worker.group_id),
            ).stdout
            rows = [line.split() for line in output.splitlines() if topic in line.split()]
            assert len(rows) == settings.topics.partitions, output
            lags = {int(row[2]): int(row[5]) for row in rows}
            assert lags == {partition: lag.records for partition, lag in worker.lag.lags().items()}
            assert sum(int(row[3]) for row in rows) > 0, output


def test_an_image_that_was_embedded_before_is_answered_by_the_cache(settings: Settings, model: Fingerprint) -> None:
    import hashlib  # noqa: PLC0415 (only here)

    signed = {"uri": data_uri(jpeg(9)), "signature": hashlib.sha256(jpeg(9)).hexdigest()}
    gone = {"uri": "https://gone.example.com/9.jpg", "signature": signed["signature"]}
    with running(settings, model) as pipeline:
        pipeline.send([upsert(1, "", image=signed)])
        pipeline.settle()
        pipeline.send([upsert(2, "", image=gone)])
        pipeline.settle()
        held = httpx.get(f"{pipeline.index.http.url}/v1/pins/2").json()
        assert base64.b64decode(held["code"]) == expected_code(jpeg(9))
    assert not dead_letters(settings)


def test_a_restart_comes_back_from_its_snapshot(settings: Settings, model: Fingerprint) -> None:
    workload = Workload(seed=2, pins=100, bad_share=0)
    with running(settings, model) as pipeline:
        pipeline.send([workload.next() for _ in range(400)])
        pipeline.settle()
    with running(settings, model) as pipeline:
        pipeline.send([workload.next() for _ in range(100)])
        pipeline.settle()
        expected, _ = fold_pins(settings)
        check_codes(settings, model, expected, exactly_once=True)
        check_index([pipeline.index.http.url], expected)
    assert list((Path(settings.index.snapshot_url.removeprefix("file://"))).rglob("manifest-*.json"))


def test_work_goes_on_without_redis(settings: Settings, model: Fingerprint) -> None:
    away = settings.model_copy(update={"redis": settings.redis.model_copy(update={"url": "redis://127.0.0.1:1/0"})})
    with running(away, model) as pipeline:
        pipeline.send([upsert(i, data_uri(jpeg(i))) for i in range(1, 50)])
        pipeline.settle()
        assert search(pipeline, pin_id=1, k=1)["hits"]
        assert "pinstream_redis_up 0.0" in httpx.get(f"{pipeline.embed.http.url}/metrics").text


def test_a_library_user_produces_pins(settings: Settings, model: Fingerprint, tmp_path: Path) -> None:
    from producers.kafka_pins import PinProducer  # noqa: PLC0415 (what such a user imports)

    pixels = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    path = tmp_path / "a picture.png"
    PillowImage.fromarray(pixels).save(path)
    with running(settings, model) as pipeline:
        with PinProducer(settings) as pins:
            pins.send(PinEvent(pin_id=3, op=Op.UPSERT, event_time=1, image=Image(uri=path.as_uri()), domain=Domain.PIN))
            pins.send(PinEvent(pin_id=4, op=Op.UPSERT, event_time=1, image=Image(uri=path.as_uri()), domain=Domain.PIN))
            pins.tombstone(4)
        pipeline.settle()
        held = httpx.get(f"{pipeline.index.http.url}/v1/pins/3").json()
        assert base64.b64decode(held["code"]) == expected_code(path.read_bytes())
        assert httpx.get(f"{pipeline.index.http.url}/v1/pins/4").status_code == 404


def test_topics_are_made_as_designed(settings: Settings, model: Fingerprint) -> None:
    with running(settings, model):
        found = reachable_admin(settings).list_topics(timeout=10).topics
        for topic in (settings.topics.pins, settings.topics.dead_letters, model.codes_topic):
            assert len(found[topic].partitions) == settings.topics.partitions
    assert client_config(settings)["bootstrap.servers"] == settings.kafka.bootstrap_servers
