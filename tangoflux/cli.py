"""What every command of the project does with errors: one clear line, and an exit status that scripts can rely on."""

from __future__ import annotations

import errno
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from tangoflux.errors import CheckpointError, ConfigError, DataError, ResourceError, TangoFluxError

EXIT_FAILED = 1
"""A run that began well failed: a reward model or a worker gave up, or there is a bug (which prints its traceback)."""

EXIT_REFUSED = 2
"""What was asked for cannot be done: options, data, weights or the machine must change first."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C."""

EXIT_TERMINATED = 143
"""Ended by SIGTERM, as by ``ray job stop``."""

REFUSALS = (CheckpointError, ConfigError, DataError, ResourceError)

MACHINE_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM}
"""Errors of the file system that the user can mend; others are bugs."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command as Ctrl-C does."""


@contextmanager
def resumable(how: str) -> Generator[None]:
    """A part of a command that goes on after an interruption; ``how`` is said then."""
    try:
        yield
    except KeyboardInterrupt as interruption:
        raise type(interruption)(how) from None


def catch_sigterm() -> None:
    """Makes SIGTERM raise ``Terminated`` in the main thread; to be called again after what takes the signal over."""

    def terminate(signum: int, frame: object) -> None:
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def run_main(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Runs a command on this process's arguments and exits with its status.

    An error that was raised on purpose becomes ``error: ...`` on stderr, without a traceback.
    """
    catch_sigterm()
    try:
        status = main(None)
    except KeyboardInterrupt as interruption:
        _say("; ".join(["interrupted", *map(str, interruption.args)]))
        status = EXIT_TERMINATED if isinstance(interruption, Terminated) else EXIT_INTERRUPTED
    except TangoFluxError as error:
        _say(_message(error))
        status = EXIT_REFUSED if isinstance(error, REFUSALS) else EXIT_FAILED
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        _say(f"error: {error.filename or 'the disk'}: {error.strerror}")
        status = EXIT_REFUSED
    sys.exit(status)


def _say(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def _message(error: TangoFluxError) -> str:
    # An error from another process (Ray) is of both types and carries the one that was raised there; its own text is a
    # traceback.
    return f"error: {getattr(error, 'cause', error)}"
