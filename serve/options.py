"""All options of the endpoint, declared once: for the command line, ``serve run`` and Serve's config files."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, PlainSerializer

from actors.options.pool_size import ALLOWED, PoolSize
from actors.options.scheduling import CustomResources, LabelSelector, label_selector_option, resources_option
from actors.options.schema import Options, build, leaves, option
from actors.storage.object_store import ObjectStorePath, parse_path
from tangoflux.errors import ConfigError
from tangoflux.sampling_params import MAX_NUM_STEPS, Precision

KEY_VARIABLE = "TANGOFLUX_API_KEY"

RunDir = Annotated[
    Path | ObjectStorePath | None,
    BeforeValidator(lambda value: None if value is None else parse_path(str(value))),
    PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None),
]

Replicas = Annotated[PoolSize, BeforeValidator(PoolSize.parse), PlainSerializer(str, return_type=str)]


class Limits(Options):
    """what one request may ask for, and all together"""

    max_prompt_chars: int = option(1000, "longest prompt and negative prompt", unit="characters", ge=1, le=100_000)
    max_steps: int = option(200, "most Euler steps", flag="max-steps", ge=1, le=MAX_NUM_STEPS)
    max_samples: int = option(8, "most samples of a request (n, best_of)", ge=1, le=100)
    max_seconds: float | None = option(None, "longest audio; none is the policy's longest", unit="s", gt=0, le=3600)
    max_body_bytes: int = option(65_536, "largest request body", unit="bytes", ge=1024, le=2**24)
    max_body_s: float = option(10.0, "in which it must have come", unit="s", gt=0, le=3600)
    max_waiting: int = option(64, "samples that wait for the engine; more are told to come back", ge=1, le=10_000)
    retry_after_s: int = option(2, "after which they are told to", unit="s", ge=1, le=3600)


class ReplicaOptions(Options):
    """the processes that hold the policies"""

    replicas: Replicas = option(
        PoolSize(1, 1), "how many, or a range that follows the load (1:4)", allowed=ALLOWED, default_text="1"
    )
    target_requests: int = option(8, "requests under way in each that such a range aims at", ge=1, le=10_000)
    num_cpus: float = option(1.0, "CPUs that each asks of Ray", ge=0, le=1024)
    num_gpus: float = option(0.0, "GPUs, or a share of one, of each; with any it computes there", ge=0, le=8)
    resources: CustomResources = resources_option("resources")
    label_selector: LabelSelector = label_selector_option("label-selector")
    threads: int = option(2, "CPU threads of the sampling in each", ge=1, le=1024)
    precision: Precision = option("fp32", "in which policies compute; auto takes bf16 where the device has it")
    batch_memory_gb: float = option(2.0, "memory for the rows that are sampled at once", unit="GB", gt=0, le=1000)
    kept_policies: int = option(3, "versions of the policy in memory at most", ge=1, le=100)


class ServeOptions(Options):
    """All options of the endpoint."""

    model_config = ConfigDict(arbitrary_types_allowed=True)

    run_dir: RunDir = option(
        None,
        "a run of jobs/crpo.py to follow: a directory or URI; none serves --model",
        allowed="a directory, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    )
    model: str = option("miniature", "the policy without --run-dir: a directory, a name, or owner/name on the hub")
    reward: str = option("miniature-clap", "reward model that ranks best_of and scores samples")
    host: str = option("127.0.0.1", "address that is listened on")
    port: int = option(8000, "port that is listened on", ge=1, le=65535)
    api_key_file: Path | None = option(None, f"file with the key that requests must have; else ${KEY_VARIABLE}")
    open_to_all: bool = option(False, "listen on another address than loopback although there is no key")
    cors_origins: str = option("", "origins whose pages may call the endpoint, separated by commas; * is all")
    log_prompts: bool = option(False, "write prompts to the log")
    metrics_port: int | None = option(
        None, "port of Ray's /metrics on all addresses, when Ray is started here; none has none", ge=1, le=65535
    )
    poll_s: float = option(1.0, "between two looks for a new policy", unit="s", gt=0, le=60)
    limits: Limits = Limits()
    replica: ReplicaOptions = ReplicaOptions()


def options_of(arguments: Mapping[str, Any]) -> ServeOptions:
    """From what ``serve run serve.app:app name=value`` or a Serve config gives, by name.

    Raises:
        ConfigError: an unknown name, or a value that is not allowed.
    """
    by_name = {leaf.name: leaf for leaf in leaves(ServeOptions)}
    unknown = [name for name in arguments if name not in by_name]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]}; there are: {', '.join(by_name)}")
    values: dict[str, Any] = {}
    for name, value in arguments.items():
        leaf = by_name[name]
        if leaf.type is bool and isinstance(value, str):
            value = {"true": True, "false": False}.get(value.lower(), value)
        values[leaf.path] = None if value == "none" and leaf.is_optional else value
    return build(ServeOptions, values, {by_name[name].path: name for name in arguments})


def key_hash(options: ServeOptions) -> str | None:
    """SHA-256 of the API key, which alone is passed on; None without a key.

    Raises:
        ConfigError: the file with it cannot be read, or holds none.
    """
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if options.api_key_file:
        try:
            key = options.api_key_file.expanduser().read_text().strip()
        except OSError as error:
            raise ConfigError(f"--api-key-file {options.api_key_file} cannot be read: {error.strerror}") from None
        if not key:
            raise ConfigError(f"--api-key-file {options.api_key_file} is empty; write the key into it")
    return hashlib.sha256(key.encode()).hexdigest() if key else None


def check_reachable(host: str, key: str | None, open_to_all: bool) -> None:
    """Whether an endpoint without a key may listen there.

    Raises:
        ConfigError: others could reach it.
    """
    if key or open_to_all or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass  # a name, which may be anybody's
    raise ConfigError(
        f"--host {host} can be reached from elsewhere and there is no key; set {KEY_VARIABLE} or --api-key-file, "
        "or say --open-to-all"
    )
