from __future__ import annotations

import pytest

from serve.negotiation import Form, preferred_form


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "audio"),
        ("*/*", "audio"),
        ("application/json, text/plain, */*", "audio"),  # axios
        ("text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,*/*;q=0.8", "audio"),  # browsers
        ("audio/wav, application/json;q=0.1", "audio"),
        ("application/json;q=0.1, audio/wav", "audio"),
        ("application/json, audio/flac", "audio"),
        ("AUDIO/*;q=0.5, application/json;q=0.5", "audio"),
        ("application/json;q=0", "audio"),
        ("application/json;q=high, audio/wav;q=0.1", "audio"),
        ("image/png", "audio"),
        (", ;;q=,", "audio"),
        ("application/json", "json"),
        ("application/json;q=0.2", "json"),
        ("application/json, */*;q=0.1", "json"),
        ("Application/JSON; charset=utf-8, audio/wav;q=0.9", "json"),
        ("application/*, audio/*;q=0.9", "json"),
        ("audio/*;q=0, */*", "json"),
        ('audio/wav;note="a, b";q=0.1, application/json;q=0.2', "json"),
        ("text/event-stream", "events"),
        ("text/event-stream, application/json", "events"),
        ("text/event-stream, */*;q=0.1", "events"),
        ("text/event-stream;q=0, application/json", "json"),
        ("text/event-stream;q=0.5, audio/wav", "audio"),
        ("text/*", "audio"),
    ],
)
def test_the_form_is_the_one_with_the_highest_quality_and_audio_among_equals(accept: str, form: Form) -> None:
    assert preferred_form([accept]) == form


def test_several_header_lines_are_one_list() -> None:
    assert preferred_form(["audio/wav;q=0.1", "application/json"]) == "json"
    assert preferred_form([]) == "audio"
