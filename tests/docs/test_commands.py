"""Every command in the documents: its options are valid, and a test runs its program or a marker says what it needs."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from actors.options import command_line
from actors.options.schema import Options, option_fields
from jobs.options.crpo import load_config
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


def parse(module_name: str, arguments: Sequence[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs the command's own ``main`` until it has read its options."""

    read, read_known = command_line.load_options, command_line.load_known_options

    def stop(*args: Any) -> NoReturn:
        read(*args)
        raise Parsed

    def stop_with_others(*args: Any) -> NoReturn:
        _, others = read_known(*args)
        with pytest.raises(Parsed):
            load_config(others)  # the command passes them on to jobs/crpo.py
        raise Parsed

    main = importlib.import_module(module_name).main
    for original, stopped in ((read, stop), (read_known, stop_with_others)):
        name = original.__name__
        for module in [module for module in list(sys.modules.values()) if vars(module).get(name) is original]:
            monkeypatch.setattr(module, name, stopped)
    if "--help" in arguments:
        with pytest.raises(SystemExit, match="0"):
            main(list(arguments))
    else:
        with pytest.raises(Parsed):
            main(list(arguments))


def program(words: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """A command's script, or its program if it has none, and its arguments."""
    match words:
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
    elif name.endswith(".py"):
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


OF_ALL = {"--help", "--config"}
"""Options that every command has."""


def declared_flags() -> set[str]:
    modules = [f"jobs.options.{file.stem}" for file in (REPOSITORY / "jobs" / "options").glob("[a-z]*.py")]
    models = [
        value
        for module in [*modules, "serve.options"]
        for value in vars(importlib.import_module(module)).values()
        if isinstance(value, type) and issubclass(value, Options)
    ]
    return {option.flag for model in models for option in option_fields(model)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_an_option_that_the_text_names_exists(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    named = set(re.findall(r"`(?:[^`\n]* )?(--[a-z][a-z0-9-]+)", text))
    assert named <= declared_flags() | OF_ALL
