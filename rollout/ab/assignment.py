"""Which arm of a test a requester is in, and under which name he is recorded. Pure.

Both follow from a hash, so that every front door decides alike without asking anybody, and a requester sees the same
generation for as long as the test runs.
"""

from __future__ import annotations

from enum import StrEnum
from hashlib import blake2b
from typing import Final

from rollout.generation import Split

MAX_KEY_BYTES: Final = 64
"""BLAKE2b's own limit."""


class Arm(StrEnum):
    CONTROL = "control"
    """Served by the generation that the alias names."""
    TREATMENT = "treatment"
    """Served by the generation that is tested."""


def position(salt: str, requester: str) -> float:
    """Where a requester stands in [0, 1): uniform over requesters, and unrelated under another salt."""
    digest = blake2b(_message(salt, requester), digest_size=8, person=b"pinstream-arm").digest()
    return (int.from_bytes(digest, "big") >> 11) * 2.0**-53


def assign(split: Split, requester: str) -> Arm:
    """The arm of a requester. Raising `share` moves requesters to the treatment only, lowering it back only."""
    return Arm.TREATMENT if position(split.salt, requester) < split.share else Arm.CONTROL


def pseudonym(salt: str, requester: str, key: str) -> str:
    """The name under which a requester is recorded: 32 hex digits, the same within one test only.

    Args:
        key: the secret of all front doors. Without one, whoever can list all requesters can find who is who.
    """
    secret = blake2b(key.encode("utf-8", "surrogatepass"), digest_size=MAX_KEY_BYTES).digest()
    return blake2b(_message(salt, requester), digest_size=16, key=secret, person=b"pinstream-name").hexdigest()


def _message(salt: str, requester: str) -> bytes:
    # a salt has no NUL, so no two pairs share a message; a header may bring lone surrogates
    return f"{salt}\0{requester}".encode("utf-8", "surrogatepass")
