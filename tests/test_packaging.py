from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tangoflux", "actors", "jobs", "serve")
NOT_IMPORTED = {"accelerate", "tensorboard"}
"""What transformers and diffusers load weights through, and torch's TensorBoard writer."""


@cache
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared() -> set[str]:
    return {canonical(re.split(r"[\[<>=!~; ]", line)[0]) for line in pyproject()["project"]["dependencies"]}


def imported_modules() -> Iterator[str]:
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    yield from (alias.name.split(".")[0] for alias in node.names)
                elif isinstance(node, ast.ImportFrom) and node.module:
                    yield node.module.split(".")[0]


def imported_distributions() -> set[str]:
    providers = packages_distributions()
    modules = set(imported_modules()) - set(PACKAGES) - sys.stdlib_module_names
    extra = {"laion_clap", "wandb"}
    return {canonical(providers[module][0]) for module in modules - extra}


def test_dependencies_are_what_the_packages_import() -> None:
    assert imported_distributions() == declared() - NOT_IMPORTED


def test_every_package_stands_under_the_layer_contracts() -> None:
    present = {name for name in PACKAGES if (ROOT / name / "__init__.py").exists()}
    assert set(pyproject()["tool"]["importlinter"]["root_packages"]) == present


def test_no_file_or_folder_of_the_jobs_hides_a_module_when_a_job_is_started_by_its_path() -> None:
    # `python jobs/crpo.py` puts jobs/ first on the path, so each file and folder there is also a top-level module.
    names = {path.stem for path in (ROOT / "jobs").iterdir() if path.is_dir() or path.suffix == ".py"}
    names -= {"__init__", "__pycache__"}
    assert {"crpo", "options", "stages"} <= names
    assert names.isdisjoint(sys.stdlib_module_names)
    assert names.isdisjoint(packages_distributions())


def test_a_driver_imports_no_model_before_its_workers_do() -> None:
    program = "import jobs.stages.iteration, jobs.stages.preflight, sys; print(*sys.modules)"
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert "jobs.stages.iteration" in result.stdout.split()
    assert not {"diffusers", "transformers.modeling_utils", "deepspeed"} & set(result.stdout.split())


@pytest.mark.slow
def test_wheel_holds_every_file_of_the_packages(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", str(tmp_path), str(ROOT)], check=True)
    listed = subprocess.run(["git", "ls-files", *PACKAGES], cwd=ROOT, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(tmp_path.glob("tangoflux-*.whl"))) as wheel:
        assert set(listed.stdout.split()) <= set(wheel.namelist())
