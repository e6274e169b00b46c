from __future__ import annotations

import pytest

from tangoflux.errors import ConfigError
from tangoflux.rewards import check_reward
from tangoflux.rewards.http.address import Address, parse_address


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("http://host/score", Address("http://host/score")),
        ("https://[::1]:8443/a%2Bb", Address("https://[::1]:8443/a%2Bb")),
        ("openai:http://host:8000/v1#Qwen/Qwen2.5-Omni-7B", Address("http://host:8000/v1", "Qwen/Qwen2.5-Omni-7B")),
        ("openai:https://host/v1?checks=model#a%2Bb", Address("https://host/v1", "a+b", model_checks=True)),
    ],
)
def test_an_address_names_the_server_and_a_model(name: str, address: Address) -> None:
    assert parse_address(name) == address


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("http://", "is no address: write http://host:port/path"),
        ("http:///score", "is no address"),
        ("http://host:port/score", "is no address"),
        ("http://host:99999/score", "is no address"),
        ("http://[::1/score", "is no address"),
        ("http://a host/score", "is no address"),
        ("openai:ftp://host/v1#m", "is no address"),
        ("http://host/score?key=1", "its address may have no query$"),
        ("openai:http://host/v1?checks=all#m", "its address may have no query but checks=model"),
        ("openai:http://host/v1", "name the model, openai:http://host/v1#model"),
        ("http://host/score#m", "leave out the #"),
    ],
)
def test_an_address_that_cannot_be_used_is_refused_in_one_line(name: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        check_reward(name)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["http://me:hush@host/score", "openai:https://hush@host/v1#m"])
def test_a_password_in_an_address_is_refused_and_not_repeated(name: str) -> None:
    with pytest.raises(ConfigError, match="put the server's key into TANGOFLUX_REWARD_API_KEY") as caught:
        check_reward(name)
    assert "hush" not in str(caught.value)
