from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest
import torch

from actors.learner.alignment.groups import GroupBatch
from actors.learner.alignment.losses import group_losses
from actors.learner.objectives import make_objective
from jobs.bench import main
from jobs.benchmarks.published_code import published_latents
from jobs.benchmarks.speed.audio import one_audio
from jobs.benchmarks.speed.published_steps import PublishedSteps
from jobs.benchmarks.speed.results import section
from jobs.benchmarks.speed.rollouts import rollout_sides
from jobs.benchmarks.speed.settings import Settings
from jobs.benchmarks.speed.sizes import SIZES, random_model
from jobs.benchmarks.speed.timing import Lap, Laps, Measured, Side, time_sides
from tangoflux.errors import ConfigError, DataError, TangoFluxError
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import sample_latents
from tangoflux.sampling_params import SamplingParams

TINY = Settings("tiny", "cpu", "fp32", compiled=False, rounds=1, num_steps=2, batches=(1, 2), repository=None)


@pytest.fixture(scope="module")
def model() -> TangoFlux:
    return random_model(SIZES["tiny"])


def test_both_sides_make_the_same_latents(model: TangoFlux) -> None:
    request = model.request("a dog barks, then a bell rings", 0.5, [7])
    expected = published_latents(PublishedSteps(model.policy), request.prompt, 0.5, 3, 4.5, seed=7)
    [ours] = sample_latents(model.policy, [request], SamplingParams(3, 4.5))
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-5)


def test_both_sides_have_the_same_loss_of_the_same_pairs(model: TangoFlux) -> None:
    captions, duration_s = ["a bell rings"] * 2, torch.tensor([1.0, 0.5])
    reference = random_model(SIZES["tiny"]).policy
    with torch.no_grad():
        for parameter in reference.transformer.parameters():
            parameter += 1e-3 * torch.randn_like(parameter)
    # The published reference shares all but the transformer.
    published = PublishedSteps(model.policy)
    published.ref_transformer = copy.deepcopy(published.transformer)
    published.ref_transformer.load_state_dict(reference.transformer.state_dict())
    latents = torch.randn(4, 22, 64)
    sigmas: list[torch.Tensor] = []
    published.transformer.register_forward_pre_hook(
        lambda module, args, inputs: sigmas.append(inputs["timestep"]), with_kwargs=True
    )
    torch.manual_seed(3)
    [expected] = published(latents, captions, duration_s)
    torch.manual_seed(3)
    noise = torch.randn_like(latents)[:2]
    frames = torch.ones(2, 22, dtype=torch.bool)
    rewards = torch.tensor([[1.0, 1.0], [-1.0, -1.0]])
    batch = GroupBatch(
        captions, [1.0] * 2, [""] * 2, duration_s, latents.view(2, 2, 22, 64), rewards, noise, sigmas[0][:2], frames
    )
    losses = group_losses(
        model.policy, reference, batch, make_objective("crpo", {"beta": published.beta_dpo, "winner_weight": 1.0})
    )
    torch.testing.assert_close(losses.loss.mean(), expected, rtol=1e-4, atol=1e-5)
    assert losses.metrics["margin"].abs().min() > 1e-3


def test_sides_take_turns() -> None:
    turns: list[str] = []

    def run(name: str, lap: Lap) -> None:
        turns.append(name)
        torch.mm(torch.ones(10, 20), torch.ones(20, 30))
        lap("half")
        torch.mm(torch.ones(10, 20), torch.ones(20, 30))
        lap("all")

    sides = [(Side(name, "runs", 1, "fp32"), lambda lap, name=name: run(name, lap)) for name in "ab"]
    measured = time_sides(sides, 2, "cpu", lambda line: None, ())
    assert turns == ["a", "b"] * 3  # the first is not timed
    for result in measured:
        assert result.laps["half"].tflop == pytest.approx(12_000e-12)
        assert result.laps["all"].tflop == pytest.approx(24_000e-12)
        assert [len(laps.seconds) for laps in result.laps.values()] == [2, 2]


def test_ratios_are_those_of_the_rounds_and_count_the_work() -> None:
    slow = Measured(Side("published", "samples", 5, "fp32"), {"latents": Laps(1.0, [5.0, 10.0, 20.0])}, [])
    ours = Side("ours", "samples", 10, "bf16", against=("published",))
    fast = Measured(ours, {"latents": Laps(2.0, [5.0, 10.0, 10.0])}, [])
    values = section([slow, fast], {"fp32": 0.2, "bf16": 0.4})
    [comparison] = values["comparisons"]
    assert comparison["times_as_good"] == {"median": 2.0, "min": 2.0, "max": 4.0}
    assert (comparison["ours_median"], comparison["published_median"], comparison["unit"]) == (1.0, 0.5, "samples/s")
    assert values["sides"]["ours"]["latents"]["share_of_ceiling"] == pytest.approx(0.5)


def test_of_an_audio_seconds_and_peak_memory_are_compared() -> None:
    theirs = Measured(Side("published, 10 s", "s", 1, "fp32"), {"audio": Laps(1.0, [4.0])}, [6.0])
    ours = Measured(Side("ours, 10 s", "s", 1, "fp32", ("published, 10 s",)), {"audio": Laps(1.0, [2.0])}, [3.0])
    seconds, memory = section([theirs, ours], {"fp32": 1.0})["comparisons"]
    assert (seconds["ours_median"], seconds["unit"], seconds["times_as_good"]["median"]) == (2.0, "s", 2.0)
    assert (memory["ours_median"], memory["unit"], memory["times_as_good"]["median"]) == (3.0, "GB", 2.0)


def test_rollouts_compare_equal_frames_first_and_the_prompts_own_frames_last(model: TangoFlux) -> None:
    sides, _ = rollout_sides(model, TINY)
    names = ["published, 1x5", "ours, 1x5", "ours, 2x5", "ours, 2x5, 8 of 22 frames"]
    assert [side.name for side, _ in sides] == names
    assert [side.work for side, _ in sides] == [5, 5, 10, 10]


def test_an_audio_has_a_time_and_a_peak_above_the_weights() -> None:
    for ours in (True, False):
        tflop, seconds, peak_gb = one_audio(TINY, ours, 0.5)
        assert tflop > 0
        assert seconds > 0
        assert 0.01 < peak_gb < 100


def test_a_run_writes_what_its_table_is_made_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "new" / "tiny.json"
    options = ["--size", "tiny", "--precision", "fp32", "--rounds", "2", "--only", "training"]
    assert main([*options, "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    report = json.loads(output.read_text())
    assert set(report["sections"]) == {"training"}
    assert len(report["sections"]["training"]["sides"]["ours"]["step"]["seconds"]) == 2
    assert report["matmul_tflops"]["fp32"] > 0
    assert "| training, step |" in printed
    assert main(["--table", str(output)]) == 0
    assert capsys.readouterr().out == printed


@pytest.mark.slow
def test_audio_runs_in_processes_of_its_own(tmp_path: Path) -> None:
    output = tmp_path / "tiny.json"
    assert main(["--size", "tiny", "--rounds", "1", "--only", "audio", "--output", str(output)]) == 0
    sides = json.loads(output.read_text())["sections"]["audio"]["sides"]
    assert list(sides) == ["published, 0.33 s", "ours, 0.33 s", "published, 1 s", "ours, 1 s"]
    assert all(side["peak_gb"][0] > 0 for side in sides.values())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        (["--rounds", "0"], ConfigError, "--rounds is 0: it must be a whole number of at least 1"),
        (["--num-steps", "0"], ConfigError, "--num-steps is 0: it must be a whole number from 1 to 1000"),
        (["--batches", "4", "0"], ConfigError, "--batches is 4 0: it must be whole numbers of at least 1"),
        (["--published", "{tmp}"], ConfigError, "is not there: give the folder of a clone"),
        (["--output", "{tmp}"], ConfigError, "is a directory; name a file in it"),
        (["--table", "{tmp}/none.json"], DataError, "is not a file of --output"),
    ],
)
def test_what_cannot_be_measured_is_refused_at_once(
    options: list[str], error: type[TangoFluxError], message: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=message):
        main([option.format(tmp=tmp_path) for option in options])


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match="torch finds no GPU on this machine"):
        main(["--device", "cuda"])
