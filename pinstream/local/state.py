"""What `pinstream local` remembers between two commands: `state.json` in its data folder, written atomically."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError, computed_field

from pinstream.errors import FatalError
from pinstream.kafka_clients import LOCAL_STATE
from pinstream.local.process import LOOPBACK


class ServerState(BaseModel):
    """One server: its ports, which it keeps, and its process, if it was started and not stopped."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    port: int
    controller_port: int | None = None
    pid: int | None = None
    started_s: float | None = None
    """Start time of the process (epoch seconds): tells it from a later one that was given the same pid."""


class ClusterState(BaseModel):
    """All servers. `bootstrap_servers` and `redis_url` are empty while nothing was started to answer there."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    format: Literal[1] = 1
    cluster_id: str
    brokers: tuple[ServerState, ...]
    redis: ServerState | None = None

    @computed_field  # type: ignore[prop-decorator]  # mypy has no case for a decorated property
    @property
    def bootstrap_servers(self) -> str:
        """host:port of the brokers that were started, comma-separated."""
        return ",".join(f"{LOOPBACK}:{broker.port}" for broker in self.brokers if broker.pid is not None)

    @computed_field  # type: ignore[prop-decorator]  # the same
    @property
    def redis_url(self) -> str:
        return f"redis://{LOOPBACK}:{self.redis.port}/0" if self.redis and self.redis.pid is not None else ""


def load_state(data_dir: Path) -> ClusterState | None:
    """The servers of `data_dir`, or None if there never were any.

    Raises:
        FatalError: the file is there but can't be read.
    """
    path = data_dir / LOCAL_STATE
    try:
        return ClusterState.model_validate_json(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, ValidationError, UnicodeDecodeError) as error:
        raise FatalError(
            f"{path} can't be read ({type(error).__name__}), expected what 'pinstream local up' wrote: end the servers "
            "that it names, then remove it"
        ) from error


def save_state(data_dir: Path, state: ClusterState) -> None:
    """Replace the file in one step: a reader sees the old state or the new, never half of one."""
    staged = data_dir / f"{LOCAL_STATE}.new"
    staged.write_text(state.model_dump_json(indent=2) + "\n", encoding="utf-8")
    staged.replace(data_dir / LOCAL_STATE)
