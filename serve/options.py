"""Options of the endpoint: for `python serve/run.py`, ``serve run`` and Serve's config files."""

from __future__ import annotations

import hashlib
import ipaddress
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BeforeValidator, PlainSerializer, model_validator

from actors.options.command_line import Command
from actors.options.pool_size import PoolSize
from actors.options.reward_combination import RewardCombination
from actors.options.scheduling import (
    ANY_NODE,
    CustomResources,
    ElasticNumWorkers,
    LabelSelector,
    NumCpus,
    NumGpus,
    Threads,
)
from actors.options.schema import Options, build, option, option_fields
from actors.storage.object_store import ObjectStorePath, parse_path
from tangoflux.errors import ConfigError
from tangoflux.sampling_params import MAX_NUM_STEPS, Precision

DESCRIPTION = "Serves the latest policy over HTTP, with a web page to try it on, until Ctrl-C."

EXAMPLES = """\
examples:
  python serve/run.py                                   the miniature, on http://127.0.0.1:8000
  python serve/run.py --run-dir runs/a                  each new policy of a run of jobs/crpo.py
  python serve/run.py --policy declare-lab/TangoFlux --num-gpus 1 --precision auto --reward 630k-audioset-best
  curl -s 127.0.0.1:8000/v1/audio/generate -H 'Content-Type: application/json' \\
      -d '{"input": "a dog barks twice", "response_format": "flac"}' -o dog.flac
"""

KEY_VARIABLE = "TANGOFLUX_API_KEY"

RunDir = Annotated[
    Path | ObjectStorePath | None,
    BeforeValidator(lambda value: None if value is None else parse_path(str(value))),
    PlainSerializer(lambda value: None if value is None else str(value), return_type=str | None),
]


class Limits(Options):
    """Limits of one request, and of all requests together."""

    max_prompt_chars: int = option(1000, "longest prompt and negative prompt", unit="characters", ge=1, le=100_000)
    max_steps: int = option(200, "largest number of Euler steps", unit="steps", ge=1, le=MAX_NUM_STEPS)
    max_samples: int = option(8, "largest number of samples (n, best_of)", unit="samples", ge=1, le=100)
    max_seconds: float | None = option(
        None, "longest audio", unit="seconds", default_text="the policy's longest", gt=0, le=3600
    )
    max_body_bytes: int = option(65_536, "largest request body", unit="bytes", ge=1024, le=2**24)
    max_body_s: float = option(10.0, "longest time for a request body to arrive", unit="seconds", gt=0, le=3600)
    max_reward_s: float = option(
        120.0,
        "longest time of the reward for a request's samples; then the request fails",
        unit="seconds",
        gt=0,
        le=3600,
    )
    max_waiting: int = option(
        64, "samples that may wait for the engine; beyond this, requests get 503", unit="samples", ge=1, le=10_000
    )
    retry_after_s: int = option(2, "Retry-After of these answers", unit="seconds", ge=1, le=3600)


class ReplicaOptions(Options):
    """Replicas: the processes that hold the policies."""

    replicas: ElasticNumWorkers = PoolSize(1, 1)
    target_requests: int = option(
        8, "requests in flight per replica at which a range of replicas scales", unit="requests", ge=1, le=10_000
    )
    num_cpus: NumCpus = 1.0
    num_gpus: NumGpus = 0.0
    resources: CustomResources = ANY_NODE
    label_selector: LabelSelector = ANY_NODE
    threads: Threads = 2
    precision: Precision = option("fp32", "precision of the sampling; auto: bf16 if the device has instructions for it")
    batch_memory_gb: float = option(2.0, "memory for a batch of samples", unit="GB", gt=0, le=1000)
    kept_policies: int = option(3, "largest number of policy versions in memory", unit="versions", ge=1, le=100)


class ServeOptions(Options):
    """All options of the endpoint."""

    run_dir: RunDir = option(
        None,
        "run of jobs/crpo.py whose latest policy is served: a directory or URI",
        allowed="a directory, or s3://bucket/prefix, gs://bucket/prefix or az://container/prefix",
    )
    policy: str = option(
        "miniature", "policy to serve without --run-dir: a directory, a name or owner/name on the hub", min_length=1
    )
    reward: str = option("miniature-clap", "reward model that ranks best_of and scores samples", min_length=1)
    reward_combination: RewardCombination = "sum"
    host: str = option("127.0.0.1", "address to listen on")
    port: int = option(8000, "port to listen on", ge=1, le=65535)
    api_key_file: Path | None = option(
        None, "file with the API key that requests must send", default_text=f"the key in ${KEY_VARIABLE}, if any"
    )
    open_to_all: bool = option(False, "listen on an address other than loopback without an API key")
    cors_origins: str = option("", "origins whose pages may call the endpoint, separated by commas; *: all")
    log_prompts: bool = option(False, "write prompts to the log")
    metrics_port: int | None = option(
        None, "port of Ray's /metrics, on all addresses, if Ray is started here", ge=1, le=65535
    )
    poll_s: float = option(1.0, "time between checks for a new policy", unit="seconds", gt=0, le=60)
    limits: Limits = Limits()
    replica: ReplicaOptions = ReplicaOptions()

    @property
    def reward_model(self) -> str:
        """What answers name their rewards after."""
        return self.reward if self.reward_combination == "sum" else f"{self.reward_combination}({self.reward})"

    @model_validator(mode="after")
    def _ports_differ(self) -> ServeOptions:
        if self.port == self.metrics_port:
            raise ValueError(f"--port and --metrics-port are both {self.port}; pass another --metrics-port")
        return self


COMMAND = Command("python serve/run.py", DESCRIPTION, EXAMPLES)


def options_of(arguments: Mapping[str, Any]) -> ServeOptions:
    """The options from the arguments of ``serve run serve.app:app name=value`` or a Serve config, by name.

    Raises:
        ConfigError: an unknown name, or a value that is not allowed.
    """
    keys = {option.name: option.key for option in option_fields(ServeOptions)}
    unknown = [name for name in arguments if name not in keys]
    if unknown:
        raise ConfigError(f"unknown option {unknown[0]}; known are {', '.join(keys)}")
    values = {keys[name]: value for name, value in arguments.items()}
    return build(ServeOptions, values, {keys[name]: name for name in arguments})


def key_hash(options: ServeOptions) -> str | None:
    """SHA-256 of the API key, so that the key itself stays in this process; None without a key.

    Raises:
        ConfigError: the key's file cannot be read or is empty.
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
    """Checks that an endpoint without a key listens on loopback only.

    Raises:
        ConfigError: other machines could reach it.
    """
    if key or open_to_all or host == "localhost":
        return
    try:
        if ipaddress.ip_address(host).is_loopback:
            return
    except ValueError:
        pass  # a host name, which may resolve to any address
    raise ConfigError(
        f"--host {host} can be reached from other machines and there is no key; set {KEY_VARIABLE} or "
        "--api-key-file, or pass --open-to-all"
    )
