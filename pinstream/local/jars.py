"""Kafka's jars: pinned by a lock that ships with the package, fetched once per user, checked, then kept.

The lock has the format of jgo's own (`jgo.lock.toml`): exact coordinates and SHA-256, no address. jgo downloads from
the repositories that it is configured with; nothing is resolved at run time.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import tempfile
import tomllib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pinstream.errors import FatalError

KAFKA_VERSION: Final = "4.1.2"
LOCK_PATH: Final = Path(__file__).with_name("kafka-jars.lock.toml")
CACHE_VARIABLE: Final = "PINSTREAM_CACHE_DIR"
_DOWNLOADS_AT_ONCE: Final = 4
_DOWNLOAD_TIMEOUT_S: Final = 30
_FREE_BYTES: Final = 200 * 1024 * 1024
"""45 MB of jars, and room for the rest of the machine."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class LockedJar:
    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def path(self) -> Path:
        """Where it lies under a repository's root: Maven's layout."""
        return Path(*self.group.split("."), self.artifact, self.version, f"{self.artifact}-{self.version}.jar")


def read_lock(path: Path = LOCK_PATH) -> tuple[LockedJar, ...]:
    """The locked jars, in the order of the file."""
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["dependencies"]
    return tuple(LockedJar(jar["groupId"], jar["artifactId"], jar["version"], jar["sha256"]) for jar in entries)


def cache_dir() -> Path:
    """`$PINSTREAM_CACHE_DIR`, else `pinstream` in the user's cache folder."""
    chosen = os.environ.get(CACHE_VARIABLE)
    if chosen:
        return Path(chosen).expanduser().absolute()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pinstream"


def kafka_classpath(lock_path: Path = LOCK_PATH) -> str:
    """Java's class path of Kafka's broker and tools; downloads what the cache lacks.

    Blocks: a few milliseconds when cached, else as long as 45 MB take. Safe when several processes ask at once: one
    fetches into a folder of its own and renames it, the others wait.

    Raises:
        FatalError: a jar can't be fetched or is not the one that was locked, or the disk is full.
    """
    jars = read_lock(lock_path)
    home = cache_dir() / f"kafka-{_digest(lock_path)[:16]}"
    if not _is_complete(home, jars):
        with locked_folder(home.parent):
            if not _is_complete(home, jars):
                _fetch(home, jars)
    return os.pathsep.join(str(home / jar.path) for jar in jars)


@contextmanager
def locked_folder(folder: Path) -> Iterator[None]:
    """Hold `folder` (made if missing) against other processes that do the same. Blocks until it is free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        raise FatalError(f"folder {folder} can't be used: {error.strerror}; choose another") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _is_complete(home: Path, jars: tuple[LockedJar, ...]) -> bool:
    return all((home / jar.path).is_file() for jar in jars)


def _fetch(home: Path, jars: tuple[LockedJar, ...]) -> None:
    free = shutil.disk_usage(home.parent).free
    if free < _FREE_BYTES:
        raise FatalError(
            f"{home.parent} has {free >> 20} MiB free, expected at least {_FREE_BYTES >> 20} for Kafka's jars: "
            f"free some, or set {CACHE_VARIABLE} to another folder"
        )
    for abandoned in home.parent.glob("fetch-*"):
        shutil.rmtree(abandoned, ignore_errors=True)
    _log.info("fetching Kafka %s: %d jars, once", KAFKA_VERSION, len(jars))
    staging = Path(tempfile.mkdtemp(prefix="fetch-", dir=home.parent))
    try:
        _download(staging, jars)
        for jar in jars:
            _verify(staging / jar.path, jar)
        shutil.rmtree(home, ignore_errors=True)
        staging.rename(home)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _download(into: Path, jars: tuple[LockedJar, ...]) -> None:
    try:
        from jgo.config import GlobalSettings  # noqa: PLC0415 (0.7 s, and only the first start needs it)
        from jgo.maven import MavenContext  # noqa: PLC0415
    except ImportError as error:
        raise FatalError("jgo is not installed, which fetches Kafka's jars: install pinstream[local]") from error
    context = MavenContext(repo_cache=into, timeout=_DOWNLOAD_TIMEOUT_S)
    context.remote_repos.update(GlobalSettings.load().repositories)

    def download(jar: LockedJar) -> None:
        context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()

    with ThreadPoolExecutor(_DOWNLOADS_AT_ONCE) as pool:
        downloads = [pool.submit(download, jar) for jar in jars]
        for jar, done in zip(jars, downloads, strict=True):
            try:
                done.result()
            except (OSError, RuntimeError) as error:  # requests' errors are OSErrors
                pool.shutdown(cancel_futures=True)
                raise FatalError(
                    f"{jar.artifact} {jar.version} can't be fetched ({type(error).__name__}): Kafka's jars are not in "
                    f"{into.parent} yet, so the first start needs the network"
                ) from error


def _verify(path: Path, jar: LockedJar) -> None:
    found = _digest(path)
    if found != jar.sha256:
        raise FatalError(
            f"{path.name} has SHA-256 {found}, expected {jar.sha256} (the lock): the repository it came from is not "
            "to be trusted"
        )


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
