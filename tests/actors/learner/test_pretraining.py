"""Pretraining: what a step sees, what it computes, and that an interruption changes nothing."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from safetensors.torch import load_file

from actors.learner.batches import epoch_order, grouped_by_length
from actors.learner.checkpoint import Progress, checkpoint_moments, latest_checkpoint, load_tensors, save_checkpoint
from actors.learner.clips import ClipData
from actors.learner.launch import pretrain
from actors.learner.mailbox import EventLog
from actors.learner.moments import own_moments, set_moments
from actors.learner.pretraining import SIGMAS, FlowMatching
from actors.learner.rank import Rank
from actors.learner.settings import LearnerJob, PretrainingSettings
from actors.storage.shards import ShardWriter
from tangoflux.data.records import build_table, latent_schema
from tangoflux.errors import DataError
from tangoflux.flow import interpolate, velocity_target
from tangoflux.model.layout import load_policy, policy_weights
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import SamplingParams
from tests.actors.learner.settings import alignment_settings, pretraining_settings
from tests.tiny import WORDS

KEY = (0, 0, 1)


def clips(count: int, first: int = 0, channels: int = 8, scale: float = 0.1) -> Any:
    """A table of random clips, 16 to 32 frames a row; every second one has two captions."""
    random = np.random.default_rng(first)
    frames = [16 + 8 * (index % 3) for index in range(count)]
    columns: dict[str, Any] = {
        "id": [f"c{first + index:04d}" for index in range(count)],
        "captions": [[WORDS[index % 3], "a drum"][: 1 + index % 2] for index in range(count)],
        "duration_s": [n / 15.625 for n in frames],
        "num_frames": frames,
        "source": ["clip.wav"] * count,
        "start_s": [0.0] * count,
        "mean": [random.normal(size=(n, channels)).astype(np.float32) for n in frames],
        "scale": [np.full((n, channels), scale, np.float32) for n in frames],
    }
    return build_table(columns, latent_schema(32, channels))


@pytest.fixture(scope="module")
def clips_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """16 clips in four shards."""
    directory = tmp_path_factory.mktemp("prepared")
    for part in range(4):
        ShardWriter(directory / "latents").write(part, clips(4, first=4 * part))
    return directory


def settings_for(clips_dir: Path, output: Path, **changes: Any) -> PretrainingSettings:
    """Three micro-steps, clipping, an average, and a last batch of 2 clips."""
    values: dict[str, Any] = {
        "batch_size": 6,
        "micro_batch_size": 2,
        "epochs": 2,
        "learning_rate": 1e-3,
        "schedule": "linear",
        "warmup_steps": 2,
        "max_grad_norm": 0.5,
        "ema_decay": 0.5,
        "checkpoint_every": 3,
        "heldout_clips": 2,
        "validate_every": 3,
        "sample_every": 100,
    }
    return pretraining_settings(clips_dir, output, **{**values, **changes})


def lone_rank(policy_dir: Path, clips_dir: Path, tmp_path: Path, kind: type[Rank] = Rank, **changes: Any) -> Rank:
    """Six steps, unless ``changes`` of the settings say otherwise."""
    settings = settings_for(clips_dir, tmp_path, **changes)
    weights, checkpoints = tmp_path / "weights.safetensors", tmp_path / "checkpoints"
    tmp_path.mkdir(exist_ok=True)
    job = LearnerJob(policy_dir, weights, checkpoints, settings, 0, 0)
    return kind(job, ClipData(clips_dir / "latents"), 0, torch.device("cpu"), EventLog())


class Interrupted(Rank):
    """Dies in its fifth step."""

    def _step(self, engine: Any, rows: list[int], key: Any, step: int, rate: float) -> dict[str, Any]:
        if step == 5:
            raise KeyboardInterrupt
        return super()._step(engine, rows, key, step, rate)


# What a step sees


def test_an_epoch_sees_every_clip_once_in_an_order_of_its_own(clips_dir: Path):
    data = ClipData(clips_dir / "latents")
    first, second = data.order(range(16), KEY), data.order(range(16), (0, 0, 2))
    assert sorted(first) == sorted(second) == list(range(16))
    assert first != second and first == data.order(range(16), KEY)


def test_batches_of_similar_length_have_less_padding_and_lose_no_clip():
    lengths = np.random.default_rng(0).integers(16, 64, size=2_050)
    order = epoch_order(range(2_050), KEY)

    def padded(rows: list[int]) -> int:
        return sum(len(part) * lengths[part].max() for part in np.split(rows, range(32, len(rows), 32)))

    grouped = grouped_by_length(order, lambda row: int(lengths[row]), 32, KEY)
    assert sorted(grouped) == list(range(2_050)) and grouped != order
    assert padded(order) > 1.4 * lengths.sum() and padded(grouped) < 1.1 * lengths.sum()
    assert grouped == grouped_by_length(order, lambda row: int(lengths[row]), 32, KEY)


def test_batches_of_similar_length_come_in_no_order_of_length(clips_dir: Path, tiny_policy_dir: Path, tmp_path: Path):
    settings = settings_for(clips_dir, tmp_path, group_by_length=True, batch_size=2)
    task = FlowMatching(settings, 0, 0, ClipData(clips_dir / "latents"), load_policy(tiny_policy_dir))
    first, second = ([task.num_frames(row) for row in task.order((0, 0, epoch))] for epoch in (1, 2))
    assert first != sorted(first) and first != second


def test_no_more_shards_are_in_memory_than_two_windows_hold(clips_dir: Path):
    data = ClipData(clips_dir / "latents", window_bytes=1)
    order = data.order(range(16), KEY)
    shards = [row // 4 for row in order]
    assert [shards[4 * n : 4 * n + 4] for n in range(4)] == [[shards[4 * n]] * 4 for n in range(4)]
    for row in order:
        data.batch([row], [data.draw(row, KEY, 0.0, True)])
        assert len(data._loaded) <= 2  # pyright: ignore[reportPrivateUsage]


def test_what_is_drawn_for_a_clip_depends_on_seed_epoch_and_clip_only(clips_dir: Path):
    data = ClipData(clips_dir / "latents")
    once, again, other = (data.draw(3, key, 0.0, True) for key in (KEY, KEY, (0, 0, 2)))
    assert torch.equal(once.noise, again.noise) and torch.equal(once.sigma, again.sigma)
    assert not torch.equal(once.noise, other.noise)
    assert {data.draw(3, (0, 0, epoch), 0.0, True).caption for epoch in range(20)} == {0, 1}


def test_latents_are_drawn_from_the_posterior_or_are_its_mean(clips_dir: Path):
    data = ClipData(clips_dir / "latents")
    mean = data.batch([3], [data.draw(3, KEY, 0.0, False)]).latents
    drawn = torch.cat([data.batch([3], [data.draw(3, (0, 0, n), 0.0, True)]).latents for n in range(50)])
    assert torch.allclose((drawn - mean).std(), torch.tensor(0.1), rtol=0.1)
    assert (drawn.mean(dim=0) - mean).abs().max() < 0.1


def test_the_asked_share_of_clips_is_trained_without_its_caption(clips_dir: Path):
    data = ClipData(clips_dir / "latents")
    dropped = [data.draw(3, (0, 0, epoch), 0.25, True).is_dropped for epoch in range(400)]
    assert 0.2 < sum(dropped) / 400 < 0.3
    assert data.batch(
        [1, 2], [dataclasses.replace(data.draw(row, KEY, 0, True), is_dropped=row == 2) for row in (1, 2)]
    )


def test_without_a_caption_a_clip_is_trained_as_guidance_will_read_it(tiny_policy_dir: Path):
    policy = load_policy(tiny_policy_dir)
    text = policy.encode_text(WORDS, 64)
    dropped = policy.drop_captions(text, [2])
    expected = policy.encode_unconditional([""], text.select([2]))
    length = int(expected.attend_mask.sum())
    torch.testing.assert_close(dropped.states[2, :length], expected.states[0, :length])
    assert dropped.token_mask[2].sum() == 1 and torch.equal(dropped.attend_mask, text.attend_mask)
    assert torch.equal(dropped.states[:2], text.states[:2])


# What a step computes


@pytest.mark.usefixtures("process_group")
def test_the_loss_of_a_clip_is_that_of_flow_matching(tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path):
    rank = lone_rank(tiny_policy_dir, clips_dir, tmp_path)
    task = rank.task
    assert isinstance(task, FlowMatching)
    draw = task.data.draw(1, KEY, 0.1, True)
    batch = task.data.batch([1], [dataclasses.replace(draw, is_dropped=False)])
    loss, sums = task.losses(rank.policy, [1], KEY)
    text = rank.policy.encode_text(batch.captions, 64)
    noisy = interpolate(batch.latents, batch.noise, batch.sigma)
    velocity = rank.policy(noisy, batch.sigma, text, batch.duration_s, batch.frame_mask)
    assert not draw.is_dropped
    torch.testing.assert_close(loss[0], (velocity - velocity_target(batch.latents, batch.noise)).square().mean())
    assert task.means(sums) == {"loss": pytest.approx(loss.item())}


def test_the_rate_rises_and_then_falls_to_the_last_step():
    settings = alignment_settings(schedule="linear", warmup_steps=2)
    rates = [settings.rate(step, 6) / settings.learning_rate for step in range(1, 7)]
    assert rates == pytest.approx([0.5, 1, 1, 0.75, 0.5, 0.25])


# What a training changes


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize(("zero_stage", "precision"), [(0, "fp32"), (1, "fp32"), (2, "fp32"), (1, "bf16"), (2, "bf16")])
def test_after_an_interruption_the_same_policy_is_trained(
    tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path, zero_stage: int, precision: str
):
    options: dict[str, Any] = {"zero_stage": zero_stage, "precision": precision}
    lone_rank(tiny_policy_dir, clips_dir, tmp_path / "a", **options).run()
    with pytest.raises(KeyboardInterrupt):
        lone_rank(tiny_policy_dir, clips_dir, tmp_path / "b", Interrupted, **options).run()
    resumed = lone_rank(tiny_policy_dir, clips_dir, tmp_path / "b", **options)
    assert resumed.progress.step == 3
    resumed.run()
    expected, found = (load_file(tmp_path / name / "weights.safetensors") for name in "ab")
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    checkpoint = latest_checkpoint(tmp_path / "b" / "checkpoints")
    assert checkpoint and os.listdir(str(checkpoint.parent)) == ["step-00000006"]


@pytest.mark.usefixtures("process_group")
def test_moments_go_to_another_number_of_ranks(tiny_policy_dir: Path, tmp_path: Path):
    whole = torch.nn.Parameter(torch.zeros(5))
    written = torch.optim.AdamW([whole])
    whole.grad = torch.arange(5.0)
    written.step()
    policy, settings = load_policy(tiny_policy_dir), alignment_settings(zero_stage=1)
    moments = own_moments(SimpleNamespace(basic_optimizer=written), policy, settings, 0)
    save_checkpoint(tmp_path, Progress(1), 0, moments, {"w": whole.detach()}, {})
    checkpoint = latest_checkpoint(tmp_path)
    assert isinstance(checkpoint, Path)
    found: list[torch.Tensor] = []
    for part in range(2):
        padded = torch.nn.Parameter(torch.zeros(3))
        read = torch.optim.AdamW([padded])
        parts = checkpoint_moments(checkpoint)
        set_moments(SimpleNamespace(basic_optimizer=read), policy, settings, part, parts)
        found.append(read.state[padded]["exp_avg"])
        assert read.state[padded]["step"] == 1
    torch.testing.assert_close(torch.cat(found)[:5], written.state[whole]["exp_avg"])


@pytest.mark.usefixtures("process_group")
def test_training_from_scratch_keeps_the_text_encoder_alone(tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path):
    rank = lone_rank(tiny_policy_dir, clips_dir, tmp_path, from_scratch=True)
    old, new = policy_weights(load_policy(tiny_policy_dir)), policy_weights(rank.policy)
    assert all(torch.equal(new[name], old[name]) for name in old if name.startswith("text_encoder."))
    assert not torch.equal(new["fc.0.weight"], old["fc.0.weight"])
    again = lone_rank(tiny_policy_dir, clips_dir, tmp_path, from_scratch=True)
    assert torch.equal(policy_weights(again.policy)["fc.0.weight"], new["fc.0.weight"])


@pytest.mark.usefixtures("process_group")
@pytest.mark.parametrize("trained", [False, True])
def test_the_text_encoder_is_trained_where_asked(tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path, trained: bool):
    rank = lone_rank(tiny_policy_dir, clips_dir, tmp_path, train_text_encoder=trained)
    rank.run()
    old, new = policy_weights(load_policy(tiny_policy_dir)), load_tensors(rank.job.weights)
    changed = [name for name in new if name.startswith("text_encoder.") and not torch.equal(new[name], old[name])]
    assert bool(changed) == trained


@pytest.mark.usefixtures("process_group")
def test_validation_and_samples_use_the_average_and_leave_the_training_alone(
    tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path
):
    prompts = (("a dog barks", 1.0), ("a bell", 2.0))
    sampling = SamplingParams(num_steps=2, guidance_scale=50.0, negative_prompt="a drum")
    stored: list[dict[str, torch.Tensor]] = []
    for name, every in (("rare", 100), ("often", 1)):
        changes: dict[str, Any] = {"validate_every": every, "sample_every": every, "prompts": prompts}
        lone_rank(tiny_policy_dir, clips_dir, tmp_path / name, **changes, sampling=sampling).run()
        stored.append(load_file(tmp_path / name / "weights.safetensors"))
    assert all(torch.equal(stored[0][key], stored[1][key]) for key in stored[0])
    files = sorted((tmp_path / "often" / "samples" / "step-00000006").iterdir())
    assert [file.name for file in files] == ["00-a-dog-barks.flac", "01-a-bell.flac"]
    heard, rate = soundfile.read(files[0], dtype="float32")
    policy = load_policy(tiny_policy_dir)
    policy.load_state_dict(stored[1], strict=False)
    model = TangoFlux(policy, TangoFlux.from_pretrained(tiny_policy_dir).autoencoder)
    captions, durations = [text for text, _ in prompts], [seconds for _, seconds in prompts]
    expected = model.generate(captions, durations, **dataclasses.asdict(sampling))[0][0]
    assert rate == 16_000 and np.abs(heard - expected[0]).max() < 1e-3
    other = model.generate(captions, durations, num_steps=2, guidance_scale=50.0)[0][0]
    assert np.abs(heard - other[0]).max() > 1e-3, "the negative prompt changes nothing"


@pytest.mark.usefixtures("process_group")
def test_the_validation_loss_of_a_policy_is_always_the_same(tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path):
    first, second = (lone_rank(tiny_policy_dir, clips_dir, tmp_path).task for _ in range(2))
    assert isinstance(first, FlowMatching) and isinstance(second, FlowMatching)
    losses = first.validate()
    assert losses is not None and losses == second.validate() and len(losses) == 1 + len(SIGMAS)
    assert not set(first.heldout_rows) & set(first.rows) and len(first.heldout_rows) == 2


@pytest.mark.usefixtures("process_group")
def test_clips_of_another_codec_are_refused(tiny_policy_dir: Path, tmp_path: Path):
    ShardWriter(tmp_path / "latents").write(0, clips(4, channels=4))
    with pytest.raises(DataError, match="latents of 4 channels, the policy 8"):
        lone_rank(tiny_policy_dir, tmp_path, tmp_path)


# The whole, on Ray


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.usefixtures("ray_session", "process_group")
def test_two_ranks_train_what_one_trains(tiny_policy_dir: Path, clips_dir: Path, tmp_path: Path):
    lone_rank(tiny_policy_dir, clips_dir, tmp_path / "one").run()
    output, events = tmp_path / "two", list[dict[str, Any]]()
    settings = settings_for(clips_dir, output, workers=2)
    result = pretrain(tiny_policy_dir, output, settings, 0, events.append)
    assert (result.clips, result.steps) == (14, 6)
    half = ["step"] * 3 + ["validation"]
    assert [event["event"] for event in events] == half + half
    one, two = (load_file(tmp_path / name / "weights.safetensors") for name in ("one", "two"))
    for name in one:
        torch.testing.assert_close(two[name], one[name], rtol=0, atol=2e-5, msg=name)
