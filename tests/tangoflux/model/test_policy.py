from pathlib import Path

import pytest
import torch
from diffusers.models.embeddings import CombinedTimestepTextProjEmbeddings

from tangoflux.errors import CheckpointError
from tangoflux.model.conditioning import SigmaEmbedding
from tangoflux.model.layout import load_policy
from tangoflux.model.policy import PolicyConfig
from tests.tiny import tiny_model


def velocity(latents: torch.Tensor, padded: int, texts: list[str]) -> torch.Tensor:
    """Velocities of the same latents for every text, with ``padded`` frames in all."""
    policy = tiny_model().policy
    frames, count = len(latents), len(texts)
    batch = torch.full((count, padded, 8), 1e3)  # what stands in padding must not matter
    batch[:, :frames] = latents
    mask = torch.zeros(count, padded, dtype=torch.bool)
    mask[:, :frames] = True
    with torch.no_grad():
        result = policy(batch, torch.full((count,), 0.5), policy.encode_text(texts), torch.ones(count), mask)
    return result[:, :frames]


def test_padding_frames_are_not_attended_to() -> None:
    latents = torch.randn(8, 8)
    alone, padded = (velocity(latents, width, ["a dog barks"]) for width in (8, 20))
    torch.testing.assert_close(alone, padded, rtol=1e-4, atol=1e-5)


def test_the_padding_that_a_longer_caption_brings_is_not_attended_to() -> None:
    latents, texts = torch.randn(8, 8), ["a dog barks", "a siren wails while a bird chirps then a drum is hit"]
    together = velocity(latents, 8, texts)
    for row, text in enumerate(texts):
        torch.testing.assert_close(together[row], velocity(latents, 8, [text])[0], rtol=1e-4, atol=1e-5)


def test_a_frozen_text_encoder_stays_in_evaluation_mode_and_gets_no_gradient(tiny_policy_dir: Path) -> None:
    policy = load_policy(tiny_policy_dir).train()
    assert not policy.text_encoder.training
    assert policy.transformer.training
    mask = torch.ones(1, 8, dtype=torch.bool)
    policy(torch.randn(1, 8, 8), torch.ones(1), policy.encode_text(["a dog"]), torch.ones(1), mask).sum().backward()
    assert all(parameter.grad is None for parameter in policy.text_encoder.parameters())
    assert all(parameter.grad is not None for parameter in policy.trainable_parameters())


def test_published_defaults_are_the_papers_and_foreign_keys_are_ignored() -> None:
    config = PolicyConfig.from_dict({"num_layers": 6, "some_future_key": 1})
    assert (config.num_layers, config.num_single_layers, config.audio_seq_len) == (6, 18, 645)
    assert config.latent_frames == "full"


def test_rope_axes_that_do_not_fit_the_heads_are_refused() -> None:
    with pytest.raises(CheckpointError, match="axes_dims_rope"):
        PolicyConfig.from_dict({"attention_head_dim": 64})


@pytest.mark.parametrize("autocast", [False, True])
def test_a_policy_in_bf16_sees_sigma_in_float32(autocast: bool) -> None:
    policy = tiny_model().policy
    policy = policy if autocast else policy.bfloat16()
    sigma, seen = torch.tensor([0.999, 1.0]), list[torch.Tensor]()
    policy.transformer.time_text_embed.time_proj.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        text, mask = policy.encode_text(["a dog", "a bell"]), torch.ones(2, 8, dtype=torch.bool)
        policy(torch.randn(2, 8, 8), sigma, text, torch.ones(2), mask)
    (timestep,) = seen
    assert torch.equal(timestep, 1000 * sigma) and sigma.bfloat16()[0] == 1


def test_in_float32_the_embedding_of_sigma_is_that_of_flux() -> None:
    flux = CombinedTimestepTextProjEmbeddings(16, 8)
    sigma, pooled = torch.rand(5), torch.randn(5, 8)
    assert torch.equal(SigmaEmbedding(flux)(sigma, (sigma, pooled)), flux(1000 * sigma, pooled))
