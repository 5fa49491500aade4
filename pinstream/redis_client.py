"""How every Redis client of ours is configured, and what it means that Redis does not answer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from redis import Redis
from redis.backoff import NoBackoff
from redis.exceptions import RedisError
from redis.retry import Retry

from pinstream.errors import RetryableError

REDIS_AWAY: Final = (RedisError, OSError)
"""What a client of ours raises while Redis is away, slow or refuses us."""


def connect(url: str, timeout_s: float, name: str) -> Redis:
    """A client that asks once and blocks at most `timeout_s`: who can do without Redis must not wait for it.

    Does not block: the first command connects.

    Args:
        name: as `CLIENT LIST` shows it to the operator.
    """
    return Redis.from_url(
        url,
        socket_timeout=timeout_s,
        socket_connect_timeout=timeout_s,
        retry=Retry(NoBackoff(), 0),
        client_name=f"pinstream-{name}",
    )


def connect_if_set(url: str, timeout_s: float, name: str) -> Redis | None:
    """As `connect`; None: no address is set."""
    return connect(url, timeout_s, name) if url else None


def required(client: Redis | None) -> Redis:
    """Raises RetryableError: no Redis is set."""
    if client is None:
        raise RetryableError("no Redis is set")
    return client


@contextmanager
def redis_errors() -> Iterator[None]:
    """As a block or a decorator: raises RetryableError when Redis does not answer in it."""
    try:
        yield
    except REDIS_AWAY as error:
        raise RetryableError(f"Redis is away: {error}") from error
