"""Writes the lock of Kafka's jars anew: `python -m pinstream.local.lock_jars`. Needs the network; run it to move to
another Kafka, then run the integration tests and commit the lock.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Final

from jgo.env import LockFile
from jgo.maven import MavenContext

from pinstream.local.jars import KAFKA_VERSION, LOCK_PATH

LOG4J_VERSION: Final = "2.25.3"
"""The one that Kafka's own dependencies resolve to; its SLF4J binding is not among them and is named here."""


def write_lock(path: Path) -> int:
    """Resolve Kafka's broker and tools with all they need, and write coordinates and SHA-256 to `path`.

    Kafka Connect is left out: only tools that list its plugins use it, and it brings 40 more jars. Blocks.

    Returns:
        The number of jars.
    """
    with tempfile.TemporaryDirectory() as folder:
        context = MavenContext(repo_cache=Path(folder))
        connect = context.project("org.apache.kafka", "connect-runtime")
        roots = [
            context.create_dependency(f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"),
            context.create_dependency(f"org.apache.kafka:kafka-tools:{KAFKA_VERSION}", [connect]),
            context.create_dependency(f"org.apache.logging.log4j:log4j-slf4j-impl:{LOG4J_VERSION}!"),
        ]
        inputs, transitive = context.resolver.resolve(roots)
        jars = sorted([*inputs, *transitive], key=lambda jar: (jar.groupId, jar.artifactId))
        lock = LockFile.from_resolved_dependencies(jars, environment_name=f"kafka-{KAFKA_VERSION}")
        lock.save(path)
        return len(jars)


if __name__ == "__main__":
    sys.stdout.write(f"{write_lock(LOCK_PATH)} jars locked in {LOCK_PATH}\n")
