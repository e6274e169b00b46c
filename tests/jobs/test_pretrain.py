"""jobs/pretrain.py: recordings of the sound world through preparation and pretraining to a policy, by the real jobs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import soundfile

from actors.options.schema import build
from actors.options.yaml_files import read_values
from actors.storage.metrics import MetricsLog
from jobs import prepare, pretrain
from jobs.capacity.model_facts import read_model_facts
from jobs.options.pretrain import PretrainJob
from jobs.options.sections import CONFIGS
from jobs.stages.pretrain import bytes_of, validation_line
from tangoflux.cli import REFUSALS
from tangoflux.miniature_training.quality import directory_size
from tangoflux.model.layout import EMBEDDED
from tangoflux.pipeline import TangoFlux
from tangoflux.soundworld.recordings import write_recordings

CLIPS = 24
FAST = ["--learner-threads", "1", "--warmup-steps", "1", "--batch-size", "8", "--heldout-clips", "2"]


@pytest.fixture(scope="module")
def clips_dir(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The latents of 24 recordings, made by jobs/prepare.py."""
    directory = tmp_path_factory.mktemp("clips")
    manifest = write_recordings(directory / "recordings", CLIPS, seed=0)
    prepare.main(["--manifest", str(manifest), "--output", str(directory / "prepared")])
    return directory / "prepared"


def error_of(arguments: Sequence[str]) -> str:
    with pytest.raises(REFUSALS) as refused:
        pretrain.main(arguments)
    return str(refused.value)


@pytest.mark.ray
def test_clips_become_a_policy_that_generates(
    clips_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "pretrained"
    arguments = ["--clips", str(clips_dir), "--output", str(output), *FAST, "--epochs", "2", "--num-audio-samples", "1"]
    arguments += ["--learning-rate", "1e-4", "--sample-every", "3", "--validate-every", "3", "--num-steps", "2"]
    assert pretrain.main(arguments) == 0
    events = MetricsLog(output / "metrics.jsonl").read()
    assert [event["step"] for event in events if event["event"] == "step"] == [1, 2, 3, 4, 5, 6]
    assert [event["step"] for event in events if event["event"] == "validation"] == [3, 6]
    (first,), (last,) = (sorted((output / "samples" / f"step-0000000{n}").iterdir()) for n in (3, 6))
    assert soundfile.info(first).duration >= 1 and first.name == last.name
    model = TangoFlux.from_pretrained(output / "policy")
    assert model.generate("a dog barks", 1.0, num_steps=2)[0][0].shape == (1, 16_000)
    said = capsys.readouterr().out
    assert (output / "report.html").read_text().count("<audio") == 2
    assert f"policy       {output / 'policy'}" in said and "validation loss" in said
    job = PretrainJob(clips=clips_dir, output=output, init_policy="miniature")
    foreseen = bytes_of(job, read_model_facts(EMBEDDED["miniature"]))
    checkpoint, policy = (directory_size(output / name) for name in ("learner/checkpoints", "policy"))
    assert 2 * checkpoint + policy <= foreseen < 3 * checkpoint + 2 * policy
    pretrain.main(arguments)
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["pretrain-wavcaps", "finetune-audiocaps"])
def test_the_shipped_configs_are_found_by_name(name: str, tmp_path: Path) -> None:
    file = CONFIGS / f"{name}.yaml"
    values = {**read_values(PretrainJob, file), "clips": tmp_path, "output": tmp_path / "new"}
    job = build(PretrainJob, values, dict.fromkeys(values, str(file)))
    assert (job.learner.workers * job.learner.micro_batch_size, job.learner.batch_size) == (80, 80)
    error = error_of(["--config", name, "--clips", str(tmp_path), "--output", str(tmp_path / "new")])
    assert f"--clips {tmp_path} has no prepared.json: run jobs/prepare.py" in error


@pytest.mark.ray
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--warmup-steps", "99"], "--warmup-steps 99 is not below the 30 steps of the training"),
        (["--zero-stage", "3"], "--zero-stage is 3: it must be a whole number from 0 to 2"),
        (["--caption-dropout", "1.5"], "--caption-dropout is 1.5: it must be a number from 0 to 1"),
        (["--init-policy", "no/such/policy"], "no/such/policy is not a model directory"),
    ],
)
def test_what_cannot_be_trained_is_refused_before_anything_starts(
    arguments: list[str], message: str, clips_dir: Path, tmp_path: Path
) -> None:
    given = ["--clips", str(clips_dir), "--output", str(tmp_path / "new"), *FAST, *arguments]
    assert message in error_of(given)
    assert not (tmp_path / "new").exists()


@pytest.mark.ray
def test_clips_of_another_codec_are_refused(clips_dir: Path, tiny_policy_dir: Path, tmp_path: Path) -> None:
    given = ["--clips", str(clips_dir), "--output", str(tmp_path / "new"), "--init-policy", str(tiny_policy_dir)]
    assert "were encoded by another codec than that of" in error_of(given)


@pytest.mark.ray
def test_another_training_in_the_same_directory_is_refused(clips_dir: Path, tmp_path: Path) -> None:
    output = tmp_path / "begun"
    output.mkdir()
    job = PretrainJob(clips=clips_dir, output=output, seed=1)
    (output / "config.yaml").write_text(job.to_yaml())
    error = error_of(["--clips", str(clips_dir), "--output", str(output)])
    assert "was started with other options: seed is 1 there and 0 now" in error
    assert [path.name for path in output.iterdir()] == ["config.yaml"]


@pytest.mark.parametrize(
    ("losses", "line"),
    [
        ({}, ""),
        ({40: 0.469}, "validation loss 0.469 at step 40, measured only once\n"),
        ({20: 0.5, 40: 0.469}, "validation loss 0.500 -> 0.469\n"),
        ({40: 0.4, 20: 0.5, 30: 0.6}, "validation loss 0.500 -> 0.400\n"),
    ],
)
def test_a_single_validation_is_not_shown_as_a_change(losses: dict[int, float], line: str) -> None:
    assert validation_line(losses) == line
