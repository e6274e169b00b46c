"""Ray started on this machine, and what keeps it from starting."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ray
from ray._common.utils import get_default_ray_temp_dir
from ray._private import ray_constants
from ray._private.utils import read_ray_address

from tangoflux.cli import Terminated, catch_sigterm
from tangoflux.errors import ResourceError

logger = logging.getLogger(__name__)

SHARED_MEMORY = Path("/dev/shm")
"""Where Ray keeps objects on Linux."""

LEAST_FILES = 128
"""Files that Ray's processes open before any worker starts, with a margin."""

LEAST_BYTES = 32 << 20
"""Ray's logs and sockets, with a margin."""

ANSWER_S = 1.0
"""Time within which a cluster on this machine answers."""


def start_ray(num_cpus: int, **options: Any) -> None:
    """Starts Ray on this machine, beside clusters that already run here.

    Args:
        num_cpus: processors that Ray counts.
        options: of ``ray.init``.

    Raises:
        ResourceError: Ray cannot start; says why, as far as known.
        Terminated: SIGTERM arrived meanwhile.
    """
    problems = list(_problems())
    if problems:
        raise ResourceError(f"Ray cannot start on this machine: {'; '.join(problems)}")
    say_if_another_runs()
    # Workers on this machine run this interpreter; Ray would build the project's environment again for them.
    ray_constants.RAY_ENABLE_UV_RUN_RUNTIME_ENV = False
    try:
        ray.init(
            "local",
            num_cpus=num_cpus,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **options,
        )
    except SystemExit:  # what Ray's own handler of SIGTERM does
        raise Terminated from None
    except Exception as error:  # Ray raises bare exceptions here
        raise ResourceError(_explain(error)) from error
    finally:
        catch_sigterm()


def _problems() -> Iterator[str]:
    """What Ray would wait for in vain, for half a minute or forever."""
    temporary = _existing(Path(get_default_ray_temp_dir()))
    if (free := shutil.disk_usage(temporary).free) < LEAST_BYTES:
        needed = LEAST_BYTES / 1e6
        yield f"{temporary} has {free / 1e6:.1f} MB left and Ray needs {needed:.0f}; free some or set RAY_TMPDIR"
    if SHARED_MEMORY.is_dir() and not os.access(SHARED_MEMORY, os.W_OK | os.X_OK):
        yield f"{SHARED_MEMORY} is not writable; mount it writable (docker run --shm-size 2g)"
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if files < LEAST_FILES:
        yield f"a process may open {files} files and Ray needs {LEAST_FILES}; raise it with ulimit -n"
    if not _loopback_answers():
        yield "the loopback interface is down; bring it up (ip link set lo up)"


def _loopback_answers() -> bool:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return _answers(*server.getsockname())


def _answers(host: str, port: int) -> bool:
    try:
        socket.create_connection((host, port), ANSWER_S).close()
    except OSError:
        return False
    return True


def say_if_another_runs() -> None:
    """One line about a cluster that ``ray start`` started here; its address file may be left from one that is gone."""
    try:
        address = read_ray_address() or ""
    except OSError:
        return  # another user's
    host, _, port = address.rpartition(":")
    if port.isdigit() and _answers(host, int(port)):
        logger.warning("Ray is started beside the cluster at %s; set RAY_ADDRESS=auto to join that one", address)


def _existing(directory: Path) -> Path:
    while not directory.exists():
        directory = directory.parent
    return directory


def _explain(error: Exception) -> str:
    if isinstance(error, OSError):
        reason = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        advice = "set HOME and RAY_TMPDIR to directories that can be written, RAY_TMPDIR with a short path"
    else:
        reason = str(error).partition("\n")[0].removesuffix(".")
        logs = f"{get_default_ray_temp_dir()}/session_latest/logs"
        advice = f"its logs are in {logs}; it needs address space (ulimit -v), processes (ulimit -u) and free ports"
    return f"Ray cannot start on this machine: {reason}; {advice}"
