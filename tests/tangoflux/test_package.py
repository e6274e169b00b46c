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
    ("statement", "said"),
    [
        (
            "from tangoflux import TangoFluxInference",
            r"TangoFlux\.from_pretrained\('declare-lab/TangoFlux'\).*duration_s=",
        ),
        (
            "import tangoflux; tangoflux.TangoFluxInference(name='x')",
            r"in this one write: from tangoflux import TangoFlux",
        ),
        ("from tangoflux.model import TangoFlux", r"tangoflux\.model\.policy\.Policy"),
    ],
)
def test_names_of_the_published_package_say_what_ours_are_called(statement: str, said: str) -> None:
    with pytest.raises(ImportError, match=said):
        exec(statement)


def test_what_is_written_instead_of_the_published_names_works() -> None:
    with pytest.raises(ImportError) as caught:
        exec("from tangoflux import TangoFluxInference")
    code = str(caught.value).partition("write: ")[2].partition(" (see")[0]
    names: dict[str, object] = {"prompt": "a dog barks"}
    exec(code.replace("declare-lab/TangoFlux", "miniature").replace("10.0", "1.0").replace("50", "1"), names)
    assert getattr(names["waveform"], "shape", None) == (1, 16_000)


@pytest.mark.parametrize(
    "module", ["tangoflux", "tangoflux.errors", "tangoflux.cli", "tangoflux.seeding", "tangoflux.sampling_params"]
)
def test_what_command_lines_import_does_not_import_torch(module: str) -> None:
    program = f"import sys, {module}; print('torch' in sys.modules, 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["False", "False"]
