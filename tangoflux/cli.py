"""Error handling of all commands: a one-line message, and an exit status that scripts can rely on."""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from typing import NoReturn

from tangoflux.errors import CheckpointError, ConfigError, DataError, ResourceError, TangoFluxError

EXIT_FAILED = 1
"""The run failed: a reward model or a worker gave up, or there is a bug (which prints its traceback)."""

EXIT_REFUSED = 2
"""The command was refused: options, data, weights or the machine must change first."""

EXIT_INTERRUPTED = 130
"""Ended by Ctrl-C."""

EXIT_TERMINATED = 143
"""Ended by SIGTERM, as by ``ray job stop``."""

REFUSALS = (CheckpointError, ConfigError, DataError, ResourceError)

MACHINE_ERRORS = {
    *(errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM),
    *(errno.ENAMETOOLONG, errno.ELOOP, errno.EMFILE, errno.ENFILE, errno.EISDIR, errno.ENOTDIR),
}
"""File system errors that the user can fix; others are bugs."""


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command like Ctrl-C."""


_terminated = threading.Event()
"""Set by SIGTERM: where Ray waits, it turns ``Terminated`` into a KeyboardInterrupt of its own."""


@contextmanager
def resumable(how: str) -> Generator[None]:
    """A part of a command that can be resumed; the message says ``how`` after an interruption or a full disk."""
    try:
        yield
    except (KeyboardInterrupt, ResourceError, BrokenPipeError) as error:
        error.add_note(how)
        raise


def catch_sigterm() -> None:
    """Makes SIGTERM raise ``Terminated`` in the main thread; call again after libraries that replace the handler."""

    def terminate(signum: int, frame: object) -> None:
        _terminated.set()
        raise Terminated

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, terminate)


def run_main(main: Callable[[Sequence[str] | None], int]) -> NoReturn:
    """Runs a command on this process's arguments and exits with its status.

    A ``TangoFluxError`` becomes ``error: ...`` on stderr with its notes, without a traceback.
    """
    catch_sigterm()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(
            errors="backslashreplace"
        )  # names of files, where the terminal's encoding lacks a letter
    try:
        status = main(None)
    except KeyboardInterrupt as interruption:
        _print(_with_notes("interrupted", interruption))
        terminated = isinstance(interruption, Terminated) or _terminated.is_set()
        status = EXIT_TERMINATED if terminated else EXIT_INTERRUPTED
    except TangoFluxError as error:
        _print(_message(error))
        status = EXIT_REFUSED if isinstance(error, REFUSALS) else EXIT_FAILED
    except BrokenPipeError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python would complain of it again
        _print(_with_notes("interrupted: nothing reads the output", error))
        status = EXIT_FAILED
    except OSError as error:
        if error.errno not in MACHINE_ERRORS:
            raise
        _print(f"error: {error.filename or 'the disk'}: {error.strerror}")
        status = EXIT_REFUSED
    sys.exit(status)


def _print(text: str) -> None:
    print(" ".join(text.split()), file=sys.stderr, flush=True)


def _message(error: TangoFluxError) -> str:
    # An error from another process (Ray) has both types, its text is a traceback, and its cause is the original error.
    return _with_notes(f"error: {getattr(error, 'cause', error)}", error)


def _with_notes(message: str, error: BaseException) -> str:
    return "; ".join([message, *getattr(error, "__notes__", ())])
