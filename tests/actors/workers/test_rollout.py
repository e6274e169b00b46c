from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray

from actors.options.pool_size import PoolSize
from actors.pools.pool import Pool
from actors.storage.policy_files import is_trained
from actors.storage.policy_store import PolicyStore
from actors.storage.shards import ShardWriter
from actors.workers.chunk import Chunk, heldout_chunks, rollout_chunks
from actors.workers.messages import RolloutBatch, ShardRows
from actors.workers.reward import RewardActor, RewardWorker
from actors.workers.rollout import RolloutActor, RolloutWorker
from tangoflux.data.preferences import group_bounds, make_pairs
from tangoflux.data.prompts import Prompt
from tangoflux.data.records import canonical_sha256, latents_array
from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.layout import load_policy
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling_params import SamplingParams
from tangoflux.seeding import derive_seed
from tests.tiny import LORA, tiny_lora

PROMPTS = [Prompt(f"p{n}", text, 0.4 + 0.1 * n) for n, text in enumerate(["a dog barks", "a bell", "hiss", "bird", ""])]
PARAMS = SamplingParams(num_steps=2, guidance_scale=3.0)


@pytest.fixture(scope="module")
def worker(tiny_policy_dir: Path) -> Iterator[RolloutWorker]:
    threads = torch.get_num_threads()
    yield RolloutWorker(tiny_policy_dir, PARAMS)
    torch.set_num_threads(threads)


def same(a: RolloutBatch, b: RolloutBatch) -> bool:
    def arrays(batch: RolloutBatch) -> list[NDArray[Any]]:
        return [latents_array(batch.rows["latents"]), *(waveform for group in batch.waveforms for waveform in group)]

    return all(np.array_equal(x, y) for x, y in zip(arrays(a), arrays(b), strict=True))


def latents_of(batch: RolloutBatch) -> list[NDArray[Any]]:
    """For each prompt (samples, frames, channels), without padding."""
    latents, frames = latents_array(batch.rows["latents"]), batch.rows["num_frames"].to_pylist()
    return [latents[first:last, : frames[first]] for first, last in group_bounds(batch.rows)]


def test_chunks_are_cut_from_the_sorted_prompts_and_number_themselves() -> None:
    chunks = rollout_chunks(PROMPTS[::-1], 3, run_seed=7, num_samples=2, chunk_prompts=2)
    assert [[prompt.id for prompt in chunk.prompts] for chunk in chunks] == [["p0", "p1"], ["p2", "p3"], ["p4"]]
    assert [(chunk.index, chunk.iteration) for chunk in chunks] == [(0, 3), (1, 3), (2, 3)]
    assert str(chunks[1]) == "chunk 1 of iteration 3"


def test_noise_depends_on_run_iteration_prompt_and_sample_and_on_nothing_else() -> None:
    def seeds(chunks: list[Chunk]) -> dict[tuple[str, int], int]:
        return {
            (prompt.id, k): seed
            for chunk in chunks
            for prompt, of_prompt in zip(chunk.prompts, chunk.seeds, strict=True)
            for k, seed in enumerate(of_prompt)
        }

    base = seeds(rollout_chunks(PROMPTS, 3, 7, 2, 2))
    assert base["p1", 1] == derive_seed(7, "rollout", 3, "p1", 1)
    assert len(set(base.values())) == 10
    assert seeds(rollout_chunks(PROMPTS[1:3], 3, 7, 2, 1)).items() <= base.items()
    assert base.items() <= seeds(rollout_chunks(PROMPTS, 3, 7, 4, 5)).items()
    for other in (rollout_chunks(PROMPTS, 4, 7, 2, 2), rollout_chunks(PROMPTS, 3, 8, 2, 2)):
        assert not set(seeds(other).values()) & set(base.values())


def test_heldout_noise_is_the_same_for_every_policy() -> None:
    one, other = heldout_chunks(PROMPTS, 0, 7, 2, 2), heldout_chunks(PROMPTS, 3, 7, 2, 2)
    assert [chunk.seeds for chunk in one] == [chunk.seeds for chunk in other]
    assert one[0].seeds[1][1] == derive_seed(7, "heldout", "p1", 1)
    assert one[0].seeds != rollout_chunks(PROMPTS, 0, 7, 2, 2)[0].seeds


def test_a_batch_holds_every_sample_at_its_own_duration(worker: RolloutWorker) -> None:
    (chunk,) = rollout_chunks(PROMPTS, 1, 0, num_samples=3, chunk_prompts=8)
    batch = worker.sample(chunk)
    assert [group.shape for group in latents_of(batch)] == [(3, frames, 8) for frames in (7, 8, 10, 11, 13)]
    assert [[w.shape for w in group] for group in batch.waveforms] == [
        [(1, round(prompt.duration_s * 16_000))] * 3 for prompt in PROMPTS
    ]
    assert {group.dtype for group in latents_of(batch)} == {np.dtype("float32")}
    assert not np.array_equal(*latents_of(batch)[0][:2])


def test_the_same_chunk_gives_the_same_samples_whatever_was_sampled_before(worker: RolloutWorker) -> None:
    first, second = rollout_chunks(PROMPTS, 1, 0, 2, 3)
    before = worker.sample(first)
    worker.sample(second)
    assert same(worker.sample(first), before)


def test_the_waveforms_are_those_of_the_latents_as_stored(tiny_policy_dir: Path, worker: RolloutWorker) -> None:
    (chunk,) = rollout_chunks(PROMPTS[:1], 1, 0, 2, 1)
    half = RolloutWorker(tiny_policy_dir, PARAMS, latents_dtype="float16").sample(chunk)
    assert latents_of(half)[0].dtype == np.dtype("float16")
    full = worker.sample(chunk)
    np.testing.assert_array_equal(latents_of(half)[0], latents_of(full)[0].astype(np.float16))
    stored = torch.from_numpy(latents_of(half)[0].copy()).float()
    decoded = TangoFlux.from_pretrained(tiny_policy_dir).decode(list(stored), [PROMPTS[0].duration_s] * 2)
    assert all(np.array_equal(a, b) for a, b in zip(half.waveforms[0], decoded, strict=True))
    assert not np.array_equal(half.waveforms[0][0], full.waveforms[0][0])


def test_in_bf16_the_latents_are_nearly_those_of_fp32(tiny_policy_dir: Path, worker: RolloutWorker) -> None:
    (chunk,) = rollout_chunks(PROMPTS[:2], 1, 0, 2, 2)
    full = np.concatenate([group.ravel() for group in latents_of(worker.sample(chunk))])
    batch = RolloutWorker(tiny_policy_dir, PARAMS, precision="bf16").sample(chunk)
    half = np.concatenate([group.ravel() for group in latents_of(batch)])
    assert half.dtype == np.float32
    assert 0 < np.abs(half - full).max() < 0.05 * np.abs(full).max()


def test_a_new_policy_is_taken_over_whole_and_named(tiny_policy_dir: Path, tmp_path: Path) -> None:
    worker = RolloutWorker(tiny_policy_dir, PARAMS)
    store = PolicyStore(tmp_path)
    store.publish(0, tiny_policy_dir)
    store.publish(1, store.path(0), {key: value * 1.5 for key, value in store.state(0).items()})
    (chunk,) = rollout_chunks(PROMPTS[:2], 1, 0, 2, 2)
    old = worker.sample(chunk)
    worker.set_policy(1, store.state(1))
    new = worker.sample(chunk)
    assert [set(batch.rows["policy_version"].to_pylist()) for batch in (old, new)] == [{0}, {1}]
    assert not same(old, new)
    assert same(new, RolloutWorker(store.path(1), PARAMS).sample(chunk))
    worker.set_policy(0, store.state(0))
    assert same(worker.sample(chunk), old)


def test_a_lora_version_samples_the_same_whatever_policy_the_worker_had(tiny_policy_dir: Path, tmp_path: Path) -> None:
    store = PolicyStore(tmp_path)
    store.publish(0, tiny_policy_dir)
    for version in (1, 2):
        store.publish(version, store.path(version - 1), tiny_lora(tiny_policy_dir, seed=version), LORA)
    (chunk,) = rollout_chunks(PROMPTS[:1], 1, 0, 1, 1)
    expected = [RolloutWorker(store.path(version), PARAMS).sample(chunk) for version in range(3)]
    assert not same(expected[0], expected[1]) and not same(expected[1], expected[2])
    for begun_with, order in ((0, (1, 2, 0, 1)), (2, (0, 1, 0, 2))):
        worker = RolloutWorker(store.path(begun_with), PARAMS)
        for version in order:
            worker.set_policy(version, store.state(version))
            assert same(worker.sample(chunk), expected[version]), (begun_with, version)


def test_a_state_that_is_not_whole_is_refused(worker: RolloutWorker, tiny_policy_dir: Path) -> None:
    state = {key: value for key, value in load_policy(tiny_policy_dir).state_dict().items() if is_trained(key)}
    first, *_ = sorted(state)
    with pytest.raises(CheckpointError, match=f"policy version 3 is of another model: {first}"):
        worker.set_policy(3, {key: value for key, value in state.items() if key != first})


def test_a_duration_that_the_model_cannot_make_is_refused(worker: RolloutWorker) -> None:
    (chunk,) = rollout_chunks([Prompt("p0", "too long", 9.0)], 1, 0, 1, 1)
    with pytest.raises(ConfigError, match=r"duration_s 9\.0"):
        worker.sample(chunk)


def hashes(directory: Path, shards: Iterable[ShardRows]) -> tuple[str, str]:
    """Writes shards as they arrive; returns the hashes of the rollouts and of their pairs."""
    writer = ShardWriter(directory)
    for shard in shards:
        writer.write(shard.part, shard.rows)
    table = writer.read(verify=True)
    assert len(table) == 30
    return canonical_sha256(table), canonical_sha256(make_pairs(table)[0])


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.usefixtures("ray_session")
def test_an_iteration_is_the_same_to_the_last_bit_for_one_and_two_workers(
    tmp_path: Path, tiny_policy_dir: Path, worker: RolloutWorker
) -> None:
    chunks = rollout_chunks([replace(p, id=f"{p.id}-{n}") for p in PROMPTS for n in range(2)], 1, 0, 3, 2)
    roles = {"reward": "0.5*tests.actors.fake_rewards:Loudness+0.5*tests.actors.fake_rewards:Moody"}
    combined = (roles, 1, "cpu", "normalised")
    rollouts = Pool(RolloutActor, (tiny_policy_dir, PARAMS), PoolSize(2, 2), {"num_cpus": 0.5}, "rollout worker")
    rewards = Pool(RewardActor, combined, PoolSize(1, 1), {"num_cpus": 0.5}, "reward worker")
    sampled = rollouts.stream("sample", chunks[::-1])
    two = hashes(tmp_path / "two", (ray.get(rows) for _, rows in rewards.stream("score_to_rows", sampled)))
    rollouts.close()
    rewards.close()
    scorer = RewardWorker(*combined)
    one = hashes(tmp_path / "one", (scorer.score_to_rows(worker.sample(chunk)) for chunk in chunks))
    assert one == two
