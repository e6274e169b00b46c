"""Every command in the documents: its options are valid, and a test runs its program or a marker says what it needs."""

from __future__ import annotations

import argparse
import importlib
import inspect
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from actors.options import command_line
from serve.options import options_of
from tests.docs.pages import PAGES, REPOSITORY, Command, commands

NO_MODULE = {"curl": "tests/serve/test_clients.py", "git": "tests/docs/test_architecture.py"}
"""The tests that run programs which are not the project's."""

ALL = [command for page in PAGES for command in commands(page)]


NEEDS = {
    "gpu": r"GPU",
    "hub": r"\bhub\b",
    "cloud": r"account|cluster|Kubernetes",
    "download": r"clone",
    "hours": r"hours",
}
"""What a marker may name, and the words that tell readers so."""


class Parsed(Exception):  # noqa: N818
    """The command has read its options, and would start its work now."""


def stop_after(function: Callable[..., Any]) -> Callable[..., Any]:
    def stopped(*args: Any, **kwargs: Any) -> Any:
        result = function(*args, **kwargs)
        frame = inspect.currentframe()
        caller = frame.f_back if frame else None
        if caller and caller.f_globals["__name__"] in ("argparse", command_line.__name__):
            return result  # an inner call of the one that the command makes
        raise Parsed

    return stopped


def parse(module_name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the command's own ``main`` until it has read its options."""
    main = importlib.import_module(module_name).main
    for name in ("parse_args", "parse_known_args"):
        monkeypatch.setattr(argparse.ArgumentParser, name, stop_after(getattr(argparse.ArgumentParser, name)))
    for name in ("load_options", "load_known_options"):
        if original := getattr(command_line, name, None):
            for module in list(sys.modules.values()):
                if vars(module).get(name) is original:
                    monkeypatch.setattr(module, name, stop_after(original))
    try:
        main(list(arguments))
    except Parsed:
        return
    except SystemExit as ended:
        assert ended.code == 0 and "--help" in arguments
        return
    pytest.fail(f"{module_name} did not read its options")


def program(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A command's program, as ``RUN_BY`` names it, and its arguments."""
    match words:
        case ("python", "-m", module, *arguments):
            return module, tuple(arguments)
        case ("python", script, *arguments):
            return script, tuple(arguments)
        case ("tangoflux", "generate", *arguments):
            return "jobs/generate.py", tuple(arguments)
        case ("make", "crpo" | "serve" as target, *arguments):
            given = arguments[0].removeprefix("ARGS=") if arguments else ""
            return {"crpo": "jobs/crpo.py", "serve": "serve/run.py"}[target], tuple(shlex.split(given))
        case ("ray", "job", "submit", *rest) if "--" in rest:
            return program(rest[rest.index("--") + 1 :])
        case ("ray", "exec", _, text):
            return program(shlex.split(text.split("&&")[-1]))
        case _:
            return words[0], tuple(words[1:])


def test_there_are_commands_to_check() -> None:
    assert len(ALL) > 60


@pytest.mark.parametrize("command", ALL, ids=str)
def test_a_documented_command_has_valid_options(
    command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "my.yaml").write_text("seed: 1\n")
    name, arguments = program(command.words)
    arguments = tuple(word.replace("s3://BUCKET", str(tmp_path)).replace("$seed", "0") for word in arguments)
    if name == "serve":
        assert arguments[0] in ("run", "deploy")
        assert options_of(dict(word.split("=") for word in arguments[2:])) if arguments[0] == "run" else True
    elif name == "make":
        assert re.search(rf"^{arguments[0]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE)
    elif name.endswith(".py") or name.startswith("tangoflux."):
        assert (REPOSITORY / name.replace(".", "/" if not name.endswith(".py") else ".")).with_suffix(".py").is_file()
        parse(name.removesuffix(".py").replace("/", "."), arguments, monkeypatch)


@pytest.mark.parametrize("name", sorted({program(command.words)[0] for command in ALL if not command.block.needs}))
def test_a_documented_program_is_run_by_a_test_or_a_marker_says_what_it_needs(name: str) -> None:
    if name == "make" or name.startswith((".venv/", "python3")):
        return  # test_architecture.py holds these against the Makefile, whose targets run what other tests run
    if name in NO_MODULE:
        assert (REPOSITORY / NO_MODULE[name]).is_file()
        return
    module = name.removesuffix(".py").replace("/", ".")
    package, _, last = module.rpartition(".")
    forms = (
        rf"from {re.escape(module)} import [^#\n]*\bmain\b",
        rf"from {re.escape(package)} import [^#\n]*\b{last}\b",
        rf'"(?:{re.escape(name)}|{last}\.py)"',
    )
    tests = (file.read_text(encoding="utf-8") for file in (REPOSITORY / "tests").rglob("test_*.py"))
    assert any(re.search(form, text) for text in tests for form in forms)


@pytest.mark.parametrize("command", [command for command in ALL if command.block.needs], ids=str)
def test_readers_see_what_a_marked_command_needs(command: Command) -> None:
    lines = command.block.page.read_text(encoding="utf-8").splitlines()
    section = "\n".join(lines[: command.block.line]).rpartition("\n#")[2]
    for need in command.block.needs:
        assert re.search(NEEDS[need], section), f"say in words that it needs: {need}"
