"""Kafka's jars are exactly those of the lock, and are fetched once, however many ask at the same time.

jgo downloads them from a repository on loopback.
"""

import hashlib
import http.server
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from pinstream.errors import FatalError
from pinstream.local.jars import LOCK_PATH, kafka_classpath, read_lock

FETCH = (
    "import sys; from pathlib import Path; from pinstream.local.jars import kafka_classpath as k; k(Path(sys.argv[1]))"
)


class Repository:
    """A Maven repository on loopback that counts what is asked of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.asked: Counter[str] = Counter()
        repository = self

        class Handler(http.server.SimpleHTTPRequestHandler):
            def do_GET(self) -> None:
                repository.asked[self.path] += 1
                super().do_GET()

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class names it so)
                pass

        def handler(*args: object) -> Handler:
            return Handler(*args, directory=str(folder))  # type: ignore[arg-type]  # what the server passes on

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, artifact: str, content: bytes) -> str:
        path = self.folder / "org/example" / artifact / "1.0" / f"{artifact}-1.0.jar"
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        return (
            f'[[dependencies]]\ngroupId = "org.example"\nartifactId = "{artifact}"\nversion = "1.0"\n'
            f'packaging = "jar"\nsha256 = "{hashlib.sha256(content).hexdigest()}"\n'
        )


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Repository]:
    (tmp_path / "repository").mkdir()
    repository = Repository(tmp_path / "repository")
    config = tmp_path / "jgo.conf"
    config.write_text(f"[repositories]\ncentral = http://127.0.0.1:{repository.server.server_port}\n")
    monkeypatch.setenv("JGO_CONFIG_FILE", str(config))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PINSTREAM_CACHE_DIR", str(tmp_path / "cache"))
    yield repository
    repository.server.shutdown()
    repository.server.server_close()


@pytest.fixture
def lock(tmp_path: Path, repository: Repository) -> Path:
    path = tmp_path / "some.lock.toml"
    path.write_text("\n".join(repository.publish(name, name.encode() * 1000) for name in ("one", "two", "three")))
    return path


def test_the_shipped_lock_pins_everything_and_names_no_address() -> None:
    jars = read_lock()
    assert {"kafka_2.13", "kafka-tools", "kafka-clients", "log4j-slf4j-impl"} <= {jar.artifact for jar in jars}
    assert all(len(bytes.fromhex(jar.sha256)) == 32 for jar in jars)
    assert len({(jar.group, jar.artifact) for jar in jars}) == len(jars)
    assert "://" not in LOCK_PATH.read_text(encoding="utf-8")


def test_a_second_start_needs_no_repository(lock: Path, repository: Repository, tmp_path: Path) -> None:
    classpath = kafka_classpath(lock)
    assert [Path(entry).name for entry in classpath.split(":")] == ["one-1.0.jar", "two-1.0.jar", "three-1.0.jar"]
    assert all(Path(entry).is_file() and (tmp_path / "cache") in Path(entry).parents for entry in classpath.split(":"))
    repository.server.shutdown()
    repository.server.server_close()
    assert kafka_classpath(lock) == classpath


def test_a_lost_jar_is_fetched_again(lock: Path) -> None:
    first = Path(kafka_classpath(lock).split(":")[0])
    first.unlink()
    kafka_classpath(lock)
    assert first.read_bytes() == b"one" * 1000


def test_two_processes_fetch_once(lock: Path, repository: Repository) -> None:
    fetchers = [subprocess.Popen([sys.executable, "-c", FETCH, str(lock)]) for _ in range(2)]
    assert [fetcher.wait(60) for fetcher in fetchers] == [0, 0]
    jars = {path: count for path, count in repository.asked.items() if path.endswith(".jar")}
    assert len(jars) == 3
    assert set(jars.values()) == {1}


def test_another_jar_than_the_locked_one_is_refused(lock: Path, repository: Repository, tmp_path: Path) -> None:
    (repository.folder / "org/example/two/1.0/two-1.0.jar").write_bytes(b"not the one")
    with pytest.raises(FatalError, match=r"two-1\.0\.jar has SHA-256 [0-9a-f]{64}, expected [0-9a-f]{64}"):
        kafka_classpath(lock)
    assert list((tmp_path / "cache").iterdir()) == []


def test_no_network_and_nothing_cached_says_so(lock: Path, repository: Repository, tmp_path: Path) -> None:
    repository.server.shutdown()
    repository.server.server_close()
    with pytest.raises(
        FatalError, match=r"can't be fetched .*: Kafka's jars are not in .*cache yet, so the first start"
    ):
        kafka_classpath(lock)
    assert list((tmp_path / "cache").iterdir()) == []


def test_what_an_interrupted_fetch_left_is_removed(lock: Path, tmp_path: Path) -> None:
    left = tmp_path / "cache" / "fetch-of-a-killed-process"
    left.mkdir(parents=True)
    (left / "half.jar").write_bytes(b"half")
    kafka_classpath(lock)
    assert not left.exists()
