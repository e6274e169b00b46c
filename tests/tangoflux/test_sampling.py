import pytest
import torch

from tangoflux.model.policy import Policy
from tangoflux.sampling import (
    Conditions,
    SampleRequest,
    batches_by_length,
    guided_velocity,
    initial_noise,
    sample_latents,
)
from tangoflux.sampling_params import SamplingParams
from tests.tiny import tiny_model

PARAMS = SamplingParams(num_steps=3, guidance_scale=3.0)
LONG = "first a drum is hit then a siren wails while a bird chirps and a dog barks"
REQUESTS = [
    SampleRequest("a dog barks", 1.0, 16, (1, 2)),
    SampleRequest(LONG, 1.25, 20, (3, 4, 5)),
    SampleRequest("a bell rings", 2.0, 32, (7,)),
    SampleRequest("", 1.1, 18, (6,)),
]


@pytest.fixture(scope="module")
def policy() -> Policy:
    return tiny_model().policy


@pytest.mark.parametrize(
    "params", [PARAMS, SamplingParams(3, 3.0, "a bell rings and rings and rings"), SamplingParams(3, 1.0)]
)
def test_a_prompt_gives_the_same_latents_alone_and_among_others(policy: Policy, params: SamplingParams) -> None:
    together = sample_latents(policy, REQUESTS, params)
    for request, group in zip(REQUESTS, together, strict=True):
        assert group.shape == (len(request.seeds), request.num_frames, 8)
        alone = torch.cat([sample_latents(policy, [one], params)[0] for one in split(request)])
        torch.testing.assert_close(group, alone, rtol=1e-4, atol=1e-5)


def split(request: SampleRequest) -> list[SampleRequest]:
    return [SampleRequest(request.prompt, request.duration_s, request.num_frames, (seed,)) for seed in request.seeds]


def test_the_same_seed_gives_the_same_latents_and_another_seed_others(policy: Policy) -> None:
    first, second, other = (
        sample_latents(policy, [SampleRequest("a bell rings", 1.0, 16, (seed,))], PARAMS)[0] for seed in (7, 7, 8)
    )
    assert torch.equal(first, second)
    assert not torch.allclose(first, other)


def test_guidance_one_is_the_conditional_velocity(policy: Policy) -> None:
    text = policy.encode_text(["a dog barks"])
    negative = policy.encode_unconditional([""], text)
    latents, mask, seconds = torch.randn(1, 16, 8), torch.ones(1, 16, dtype=torch.bool), torch.tensor([1.0])
    sigma = torch.tensor([0.5])
    conditions = Conditions(text, negative, torch.tensor([0]), torch.tensor([1.0]), seconds, mask)
    guided = guided_velocity(policy, latents, sigma, conditions)
    conditional = policy(latents, sigma, text, seconds, mask)
    torch.testing.assert_close(guided, conditional, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("negative_prompt", ["", "a bell rings"])
def test_guidance_moves_away_from_the_negative_prompt(policy: Policy, negative_prompt: str) -> None:
    """One Euler step starts at the noise and follows the guided velocity for a length of -1."""
    [request] = split(REQUESTS[0])[:1]
    noise, mask = initial_noise([request], 8), torch.ones(1, 16, dtype=torch.bool)
    text = policy.encode_text([request.prompt])
    with torch.no_grad():
        conditional, unconditional = (
            policy(noise, torch.ones(1), states, torch.tensor([request.duration_s]), mask)
            for states in (text, policy.encode_unconditional([negative_prompt], text))
        )
    toward_negative = unconditional - conditional
    assert toward_negative.norm() > 1e-3 * conditional.norm(), "the two prompts differ"
    guided = noise - sample_latents(policy, [request], SamplingParams(1, 3.0, negative_prompt))[0]
    torch.testing.assert_close(guided - conditional, -2 * toward_negative, rtol=1e-3, atol=1e-5)


def test_the_unconditional_branch_attends_to_as_many_tokens_as_its_prompt(policy: Policy) -> None:
    text = policy.encode_text(["a dog barks", LONG])
    for negative in ("", LONG + LONG):
        unconditional = policy.encode_unconditional([negative] * 2, text)
        assert torch.equal(unconditional.attend_mask, text.attend_mask)
    assert policy.encode_unconditional([""] * 2, text).token_mask.sum(dim=1).tolist() == [1, 1]


def test_only_rows_of_similar_length_share_a_batch() -> None:
    assert batches_by_length([16, 64, 20, 21, 16, 55]) == [[0, 4, 2], [3], [5, 1]]
    assert batches_by_length([645] * 3) == [[0, 1, 2]]
    assert batches_by_length([]) == []


def test_progress_is_told_after_every_step_of_every_batch(policy: Policy) -> None:
    shares: list[float] = []
    sample_latents(policy, REQUESTS, PARAMS, on_step=shares.append)
    assert shares == pytest.approx([1 / 6, 2 / 6, 3 / 6, 4 / 6, 5 / 6, 1])
