"""The three applications of the one embedding, and which generation answers a request. Pure.

An application's profile says what is searched; its alias, and an A/B test if there is one, say by which generation.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from index_sync.search_protocol import BadQueryError, SearchAnswer, SearchRequest
from pinstream.events import Domain
from pinstream.settings import ProfileSettings, ProfilesSettings
from rollout.ab.assignment import Arm, assign
from rollout.generation import Application, Registry


class FrontRequest(SearchRequest):
    """A search of one application."""

    application: Application
    generation: Annotated[str, Field(pattern=r"^[0-9a-f]{6,64}$")] | None = None
    """Fingerprint, or its beginning, of the generation to ask; None: the one that serves this application. A `code`
    and a `min_offset` belong to one generation, so they need it."""
    requester: Annotated[str, Field(min_length=1, max_length=200)] | None = None
    """Who searches, for A/B tests: the same one always gets the same arm. None: takes part in none."""


class FrontAnswer(SearchAnswer):
    application: Application
    arm: Arm | None
    """None: this requester takes part in no test."""
    test: str | None
    """The test's name, to be sent back with impressions and engagements."""


@dataclass(frozen=True, slots=True)
class Route:
    """What answers one request, wholly."""

    model: str
    arm: Arm | None = None
    test: str | None = None


class NoGenerationError(Exception):
    """Nothing serves this application yet: HTTP 503."""


def choose(registry: Registry, application: Application, generation: str | None, requester: str | None) -> Route:
    """The generation for a request, from one registry.

    Raises:
        NoGenerationError: nothing is live for the application.
        BadQueryError: `generation` names none or several.
    """
    if generation is not None:
        named = [model for model in registry.generations if model.startswith(generation)]
        if len(named) != 1:
            raise BadQueryError(f"generation is {generation!r}, which names {len(named)} generations, expected one")
        return Route(named[0])
    control = registry.live.get(application)
    if control is None:
        raise NoGenerationError(f"no generation serves {application} yet: see `pinstream rollout adopt`")
    split = next((one for one in registry.splits if one.application is application), None)
    if split is None or requester is None:
        return Route(control)
    arm = assign(split, requester)
    return Route(split.model if arm is Arm.TREATMENT else control, arm, split.salt)


def narrowed(request: FrontRequest, profiles: ProfilesSettings) -> SearchRequest:
    """The search that the index is asked: the request within its application's profile.

    Raises:
        BadQueryError: it asks for what the profile does not allow, or for a code or offset of no named generation.
    """
    profile: ProfileSettings = getattr(profiles, request.application.value)
    for name in ("code", "min_offset"):
        if getattr(request, name) and request.generation is None:
            raise BadQueryError(f"{name} is given without generation: it is of one generation only, say which")
    if request.image is not None:
        check_box(request.application, profile, request.box is not None)
    fields: dict[str, Any] = {
        name: getattr(request, name) for name in SearchRequest.model_fields if name in request.model_fields_set
    }
    fields["domains"] = _domains(request.application, profile, request.domains)
    fields["flags"] = tuple(dict.fromkeys((*profile.flags, *request.flags)))
    fields.setdefault("k", profile.k)
    return SearchRequest(**fields)


def check_box(application: Application, profile: ProfileSettings, has_box: bool) -> None:
    """Raises BadQueryError: a query image of this application comes with, or without, a box."""
    if profile.box == "required" and not has_box:
        raise BadQueryError(f"box is missing: {application} searches for a part of the image")
    if profile.box == "refused" and has_box:
        raise BadQueryError(f"box is given, and {application} searches for whole images")


def _domains(application: Application, profile: ProfileSettings, asked: tuple[Domain, ...]) -> tuple[Domain, ...]:
    if not profile.domains or not asked:
        return asked or profile.domains
    both = tuple(domain for domain in asked if domain in profile.domains)
    if not both:
        raise BadQueryError(
            f"domains are {', '.join(asked)}, and {application} searches {', '.join(profile.domains)} only"
        )
    return both
