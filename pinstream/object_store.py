"""How every object store of ours is opened: local disk, S3 and its likes, Google Cloud Storage; through obstore."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final
from urllib.parse import urlsplit

from obstore.exceptions import BaseError
from obstore.store import ObjectStore, from_url

from pinstream.errors import FatalError

CLIENT_OPTIONS: Final = frozenset(
    {
        "allow_http",
        "allow_invalid_certificates",
        "connect_timeout",
        "default_content_type",
        "http1_only",
        "http2_keep_alive_interval",
        "http2_keep_alive_timeout",
        "http2_keep_alive_while_idle",
        "http2_only",
        "pool_idle_timeout",
        "pool_max_idle_per_host",
        "proxy_ca_certificate",
        "proxy_excludes",
        "proxy_url",
        "randomize_addresses",
        "read_timeout",
        "root_certificate",
        "timeout",
        "user_agent",
    }
)
"""obstore takes these apart from a store's own options, and panics (0.12) when it finds one among them."""


def open_store(
    url: str, options: Mapping[str, str], *, setting: str, timeout_s: float | None = None, retries: int = 0
) -> ObjectStore:
    """The store behind `file:///folder`, `s3://bucket/prefix` or `gs://bucket/prefix`. Connects to nothing yet.

    Args:
        options: obstore's own, such as `endpoint`; none for `file`, whose folder is made.
        setting: what to name in an error.
        timeout_s: of one request; None leaves it to obstore and the options.
        retries: how often obstore itself repeats a request, within 15 s.

    Raises:
        FatalError: the URL or an option isn't understood.
    """
    try:
        if urlsplit(url).scheme == "file":
            return from_url(url, mkdir=True)
        client_options: dict[str, Any] = {}
        config: dict[str, Any] = {}
        for key, value in options.items():
            name = key.lower().removeprefix("aws_").removeprefix("google_")
            if name in CLIENT_OPTIONS:
                client_options[name] = value
            else:
                config[key] = value
        if timeout_s is not None:
            client_options["timeout"] = timedelta(seconds=timeout_s)
        arguments: dict[str, Any] = {
            "client_options": client_options,
            "retry_config": {"max_retries": retries, "retry_timeout": timedelta(seconds=15)},
        }
        if config:
            arguments["config"] = config
        return from_url(url, **arguments)
    except (BaseError, ValueError, TypeError, OSError) as error:
        said = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise FatalError(
            f"{setting} is {url!r}, which can't be opened with options ({', '.join(sorted(options)) or 'none'}): {said}"
        ) from error
