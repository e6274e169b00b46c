"""ARCHITECTURE.md: its tree names every module once, its commands are the Makefile's, and git accepts its list."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

from tests.docs.pages import REPOSITORY, blocks, commands

PAGE = REPOSITORY / "ARCHITECTURE.md"
PACKAGES = ("tangoflux", "actors", "jobs", "serve")
IGNORED = REPOSITORY / ".git-blame-ignore-revs"


def described() -> list[str]:
    """The modules of the page's trees, by path: two spaces of indentation a folder."""
    modules: list[str] = []
    for block in blocks(PAGE):
        if not block.text.startswith(tuple(f"{package}/ " for package in PACKAGES)):
            continue
        folders: list[str] = []
        for line in block.text.splitlines():
            name, _, description = line.strip().partition(" ")
            assert description.strip(), f"{line!r} does not say what it is"
            depth = (len(line) - len(line.lstrip())) // 2
            folders[depth:] = [name]
            if not name.endswith("/"):
                modules.append("".join(folders))
    return modules


def test_the_tree_names_every_module_once() -> None:
    files = [
        file for package in PACKAGES for file in (REPOSITORY / package).rglob("*.py") if file.name != "__init__.py"
    ]
    assert sorted(described()) == sorted(str(file.relative_to(REPOSITORY)) for file in files)


def test_the_other_files_in_the_tree_exist() -> None:
    [others] = [block.text for block in blocks(PAGE) if "Makefile" in block.text]
    for line in others.splitlines():
        for name in re.split(r"\s{2,}", line)[0].split(", "):
            assert (REPOSITORY / name).exists(), name


def test_the_checks_by_hand_are_those_of_make_test() -> None:
    makefile = (
        (REPOSITORY / "Makefile").read_text(encoding="utf-8").replace("$(BIN)", ".venv/bin").replace(" $(ARGS)", "")
    )
    makefile = makefile.replace("$(VENV)", ".venv").replace("$(PYTHON)", "python3").replace("python -m pip", "pip")
    recipes = [
        shlex.split(line)
        for line in makefile.replace("--disable-pip-version-check ", "").splitlines()
        if re.match(r"\t(\.venv|python3)", line)
    ]
    for command in commands(PAGE):
        assert command.words[0] == "git" or list(command.words) in recipes


def test_git_accepts_the_list_of_ignored_commits(tmp_path: Path) -> None:
    shas = [line for line in IGNORED.read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert shas and all(re.fullmatch("[0-9a-f]{40}", sha) for sha in shas)
    (tmp_path / IGNORED.name).write_text(IGNORED.read_text(encoding="utf-8"))
    setting = next(list(command.words) for command in commands(PAGE) if command.words[0] == "git")
    author = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
    for arguments in (
        ["init", "-q"],
        ["add", "."],
        [*author, "commit", "-qm", "a"],
        setting[1:],
        ["blame", IGNORED.name],
    ):
        subprocess.run(["git", *arguments], cwd=tmp_path, check=True, capture_output=True)
