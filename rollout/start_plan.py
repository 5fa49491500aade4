"""What an embed worker knows of its generation's replay when it starts."""

from __future__ import annotations

import logging

from consumers.redis_plan import mirrored_plan
from consumers.replay_plan import ReplayPlan
from pinstream.codes import Fingerprint
from pinstream.errors import CorruptStateError, RetryableError
from pinstream.kafka_clients import redis_url
from pinstream.settings import Settings
from rollout.front_door import registry_store
from rollout.replay_plan import plan_of

log = logging.getLogger(__name__)


def plan_at_start(settings: Settings, model: Fingerprint) -> ReplayPlan:
    """From the registry; while that can't be read, from its mirror in Redis. Blocks.

    A model that is no generation has the default plan: a worker as there is without any rollout.

    Raises:
        RetryableError: neither can be read. A guess could embed at full speed what was paused or left out.
    """
    try:
        registry = registry_store(settings).read()
    except (RetryableError, CorruptStateError) as error:
        plan = _mirrored(settings, model, error)
        log.warning("%s: the plan in Redis is used", error)
        return plan
    generation = registry.generations.get(model.hex)
    return ReplayPlan() if generation is None else plan_of(generation, None)


def _mirrored(settings: Settings, model: Fingerprint, why: Exception) -> ReplayPlan:
    unknown = f"whether model {model.short} replays is not known ({why}"
    try:
        plan = mirrored_plan(redis_url(settings), model, settings.redis.timeout_s)
    except RetryableError as error:
        raise RetryableError(f"{unknown}; {error}): start again when either answers") from error
    if plan is None:
        raise RetryableError(f"{unknown}; Redis has no plan): start again when the registry can be read")
    return plan
