from __future__ import annotations

import subprocess
import sys

import pytest

import tangoflux


def test_public_names_are_sorted_resolve_and_are_all_that_dir_lists() -> None:
    assert tangoflux.__all__ == sorted(tangoflux.__all__) == dir(tangoflux)
    for name in tangoflux.__all__:
        assert getattr(tangoflux, name).__name__ == name
    with pytest.raises(ImportError, match="cannot import name 'Flux'"):
        exec("from tangoflux import Flux")


@pytest.mark.parametrize(
    "module", ["tangoflux", "tangoflux.errors", "tangoflux.cli", "tangoflux.seeding", "tangoflux.sampling_params"]
)
def test_what_command_lines_import_does_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
