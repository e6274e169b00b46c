"""Which form of a response a client prefers, by its Accept header (RFC 9110, 12.5.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from werkzeug.http import parse_accept_header

EVENTS = "text/event-stream"
JSON = "application/json"

Form = Literal["audio", "events", "json"]


def preferred_form(accept: Sequence[str]) -> Form:
    """The form with the highest quality. Among equals audio comes first, as HTTP clients accept JSON by default.

    Events are for clients that name them: a wildcard does not include them. Which audio format it is the request
    says, not the header. If nothing is accepted, as without a header, it is audio.

    Args:
        accept: the header's lines. Entries with an invalid quality do not count.
    """
    qualities: dict[str, float] = {}
    for kind, quality in parse_accept_header(", ".join(accept)):
        name = kind.partition(";")[0].strip().lower()
        name = "audio/*" if name.startswith("audio/") else name
        qualities[name] = max(quality, qualities.get(name, 0.0))
    anything = qualities.get("*/*", 0.0)
    by_form: dict[Form, float] = {
        "audio": qualities.get("audio/*", anything),
        "events": qualities.get(EVENTS, 0.0),
        "json": qualities.get(JSON, qualities.get("application/*", anything)),
    }
    return max(by_form, key=lambda form: by_form[form])
