from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from tangoflux.in_flight import Row, RunningBatch, start_rows
from tangoflux.model.policy import Policy
from tangoflux.sampling import SampleRequest, sample_latents
from tangoflux.sampling_params import SamplingParams
from tests.tiny import tiny_model

LONG = "a dog barks then a bell rings and a whistle blows while rain falls on a tin roof"
SHORT = SampleRequest("a dog", 0.5, 8, (1, 2))
MIDDLE = SampleRequest("a bell rings twice", 1.0, 10, (3,))
WIDE = SampleRequest(LONG, 2.0, 32, (4,))


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_model().policy


def run(batch: RunningBatch, rows: Sequence[Row], joiners: dict[int, Sequence[Row]] | None = None) -> list[int]:
    """Steps until all rows are done; ``joiners`` are added before the step of that number. Returns rows per step."""
    batch.add(rows)
    sizes: list[int] = []
    while batch.rows:
        batch.add((joiners or {}).get(len(sizes), []))
        sizes.append(len(batch.rows))
        batch.step()
        batch.remove([row for row in batch.rows if row.is_done])
    return sizes


@pytest.mark.parametrize("guidance_scale", [3.3, 1.0])
def test_a_request_alone_is_sampled_bit_for_bit_as_by_sample_latents(policy: Policy, guidance_scale: float) -> None:
    params = SamplingParams(5, guidance_scale)
    rows = start_rows(policy, SHORT, params)
    run(RunningBatch(policy), rows)
    [expected] = sample_latents(policy, [SHORT], params)
    assert torch.equal(torch.stack([row.latents for row in rows]), expected)


def test_rows_of_all_kinds_share_batches_and_come_and_go(policy: Policy) -> None:
    """Prompts, lengths, guidance, negative prompts and numbers of steps differ, and so do the moments of joining."""
    cases = [
        (SHORT, SamplingParams(9, 3.0)),
        (MIDDLE, SamplingParams(4, 1.0)),
        (WIDE, SamplingParams(3, 4.5, "noise of the wind in the trees")),
        (SampleRequest("a horn", 0.5, 9, (5,)), SamplingParams(6, 2.0, "rain")),
    ]
    rows = [start_rows(policy, request, params) for request, params in cases]
    sizes = run(RunningBatch(policy), rows[0], {2: rows[1], 3: rows[2], 4: rows[3]})
    assert sizes == [2, 2, 3, 4, 5, 5, 3, 3, 3, 1], "each leaves after its own steps"
    for (request, params), found in zip(cases, rows, strict=True):
        [expected] = sample_latents(policy, [request], params)
        torch.testing.assert_close(torch.stack([row.latents for row in found]), expected, rtol=1e-4, atol=1e-5)


def test_rows_of_their_own_batch_do_not_depend_on_others_to_the_last_bit(policy: Policy) -> None:
    params = SamplingParams(5, 3.0)
    rows = start_rows(policy, SHORT, params, batch_key="mine")
    others = start_rows(policy, MIDDLE, SamplingParams(7, 2.0))
    run(RunningBatch(policy), others, {1: rows})
    assert torch.equal(torch.stack([row.latents for row in rows]), sample_latents(policy, [SHORT], params)[0])


def test_rows_that_leave_are_not_computed_any_more_and_disturb_nobody(policy: Policy) -> None:
    batch, params = RunningBatch(policy), SamplingParams(4, 3.0)
    stays, leaves = start_rows(policy, SHORT, params), start_rows(policy, WIDE, params)
    batch.add([*stays, *leaves])
    batch.step()
    batch.remove(leaves)
    run(batch, [])
    assert [row.step for row in leaves] == [1]
    [expected] = sample_latents(policy, [SHORT], params)
    torch.testing.assert_close(torch.stack([row.latents for row in stays]), expected, rtol=1e-4, atol=1e-5)
