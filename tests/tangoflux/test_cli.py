from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

import pytest

from tangoflux.cli import Terminated, run_main
from tangoflux.errors import ConfigError, ResourceError, RewardError


def outcome(body: Callable[[], int], capsys: pytest.CaptureFixture[str]) -> tuple[object, str]:
    def main(argv: Sequence[str] | None) -> int:
        return body()

    with pytest.raises(SystemExit) as ended:
        run_main(main)
    return ended.value.code, capsys.readouterr().err


def raising(error: BaseException) -> Callable[[], int]:
    def body() -> int:
        raise error

    return body


def noted(error: BaseException, *notes: str) -> BaseException:
    for note in notes:
        error.add_note(note)
    return error


def test_status_of_the_command_is_the_status_of_the_process(capsys: pytest.CaptureFixture[str]) -> None:
    assert outcome(lambda: 0, capsys) == (0, "")


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (ConfigError("beta is -1"), 2, "error: beta is -1\n"),
        (ResourceError("two\n  lines"), 2, "error: two lines\n"),
        (RewardError("30% failed"), 1, "error: 30% failed\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
        (noted(Terminated(), "resume with: that"), 143, "interrupted; resume with: that\n"),
        (noted(ResourceError("full"), "kept in a", "resume"), 2, "error: full; kept in a; resume\n"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "a" * 9), 2, "error: aaaaaaaaa: File name too long\n"),
        (OSError(errno.EISDIR, "Is a directory", "/runs/a"), 2, "error: /runs/a: Is a directory\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/runs/a"), 2, "error: /runs/a: No space left on device\n"),
    ],
)
def test_errors_become_one_line_and_a_status(
    error: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert outcome(raising(error), capsys) == (status, line)


def test_error_of_another_process_is_told_by_its_cause(capsys: pytest.CaptureFixture[str]) -> None:
    class RemoteError(ConfigError):
        cause = ConfigError("no such reward")

    assert outcome(raising(RemoteError("Traceback ...")), capsys) == (2, "error: no such reward\n")


def test_bugs_keep_their_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    for bug in (ZeroDivisionError(), FileNotFoundError(errno.ENOENT, "gone")):
        with pytest.raises(type(bug)):
            run_main(lambda argv, bug=bug: raising(bug)())


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_names_are_told_in_any_encoding_of_the_terminal(encoding: str) -> None:
    code = "from tangoflux.cli import run_main\nrun_main(lambda argv: print('l\xe4uft \u72ac') or 0)"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    process = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=False)
    assert (process.returncode, process.stderr) == (0, b"")
    assert process.stdout.decode(encoding).startswith("l")


def test_a_reader_that_ends_ends_the_command_in_one_line() -> None:
    code = """
from tangoflux.cli import resumable, run_main
def main(argv):
    with resumable("the same again resumes"):
        while True:
            print("a line", flush=True)
run_main(main)
"""
    command = [sys.executable, "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout and process.stderr
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b"interrupted: nothing reads the output; the same again resumes\n"
    assert process.returncode == 1
