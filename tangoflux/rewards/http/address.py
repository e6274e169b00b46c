"""Addresses of rewards over HTTP: ``http://host/score``, ``openai:http://host/v1#model``."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

import httpx

from tangoflux.errors import ConfigError

SCHEMES = ("http://", "https://")
CHAT = "openai:"
MODEL_CHECKS = "checks=model"


@dataclass(frozen=True)
class Address:
    """Where a reward is computed.

    Attributes:
        url: without query and fragment.
        model: the name of a language model at an OpenAI-compatible server; None for the scoring protocol.
        model_checks: whether the model itself writes the checks of a caption.
    """

    url: str
    model: str | None = None
    model_checks: bool = False


def is_served(name: str) -> bool:
    """Whether a reward's name is an address."""
    return name.startswith((*SCHEMES, CHAT))


def parse_address(name: str) -> Address:
    """Parses the name of a reward.

    Raises:
        ConfigError: it is not an address that can be used, or contains a user name or password, which would be stored
            in every row.
    """
    url, is_chat = name.removeprefix(CHAT), name.startswith(CHAT)
    if "@" in url.partition("#")[0]:
        raise ConfigError(
            "the address of a reward contains a user name or password, which would be stored with the scores: leave it "
            "out, and put the server's key into TANGOFLUX_REWARD_API_KEY"
        )
    try:
        parts = urlsplit(url)
        usable = url.startswith(SCHEMES) and bool(httpx.URL(url).host) and parts.port != 0
    except (ValueError, httpx.InvalidURL):  # a port that is no number, an unfinished IPv6 address
        parts, usable = urlsplit(""), False
    if not usable or not url.isprintable() or " " in url:
        raise ConfigError(f"reward {name!r} is no address: write http://host:port/path, or {CHAT}http://host/v1#model")
    if parts.query and not (is_chat and parts.query == MODEL_CHECKS):
        raise ConfigError(f"reward {name!r}: its address may have no query" + f" but {MODEL_CHECKS}" * is_chat)
    if is_chat != bool(parts.fragment):
        raise ConfigError(
            f"reward {name!r}: " + (f"name the model, {CHAT}http://host/v1#model" if is_chat else "leave out the #...")
        )
    plain = parts._replace(query="", fragment="").geturl()
    return Address(plain, unquote(parts.fragment) if is_chat else None, parts.query == MODEL_CHECKS)
