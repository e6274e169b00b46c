from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.layout import load_lora_policy, load_policy
from tangoflux.model.lora import LoraSettings, add_lora, lora_of, merge, merged_state, trained_shapes
from tangoflux.model.policy import Policy
from tangoflux.pipeline import TangoFlux
from tests.tiny import LORA, tiny_lora, tiny_model


@torch.no_grad()
def velocity(policy: Policy) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 8, 8, generator=generator)
    mask = torch.ones(2, 8, dtype=torch.bool)
    text = policy.encode_text(["a dog barks", "a bell rings twice"])
    return policy(latents, torch.tensor([0.3, 0.9]), text, torch.tensor([1.0, 3.0]), mask)


def with_lora(directory: Path, trained: dict[str, Tensor]) -> Policy:
    policy = load_lora_policy(directory, LORA)
    policy.load_state_dict(trained, strict=False)
    return policy


def shapes(weights: dict[str, Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in weights.items()}


def test_a_fresh_adapter_changes_nothing_and_is_the_same_everywhere() -> None:
    plain, first, second = (tiny_model().policy for _ in range(3))
    state = torch.random.get_rng_state()
    add_lora(first, LORA)
    assert torch.equal(torch.random.get_rng_state(), state)
    torch.manual_seed(1)
    add_lora(second, LORA)
    assert torch.equal(velocity(first), velocity(plain))
    for (name, value), other in zip(first.named_parameters(), second.parameters(), strict=True):
        assert torch.equal(value, other), name
    assert (lora_of(plain), lora_of(first)) == (None, LORA)


def test_the_adapter_and_the_conditioning_are_trained_and_nothing_else() -> None:
    policy = tiny_model().policy
    expected = trained_shapes(shapes(policy.state_dict()), LORA.rank)
    add_lora(policy, LORA)
    trained = {name: tuple(value.shape) for name, value in policy.named_parameters() if value.requires_grad}
    assert trained == expected
    assert {name.split(".")[0] for name in trained} == {"transformer", "fc", "duration_emebdder"}
    assert not policy.training and not any(module.training for module in policy.modules())


def test_attention_and_mlps_of_all_blocks_are_adapted_and_modulations_are_not() -> None:
    adapted = {
        name.removeprefix("transformer.").removesuffix(".lora_A.default.weight")
        for name in trained_shapes(shapes(tiny_model().policy.state_dict()), 1)
        if "lora_A" in name
    }
    double = ("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    single = ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp", "proj_out")
    assert adapted == {
        *(f"transformer_blocks.0.attn.{name}" for name in double),
        *(f"transformer_blocks.0.{ff}.net.{name}" for ff in ("ff", "ff_context") for name in ("0.proj", "2")),
        *(f"single_transformer_blocks.{block}.{name}" for block in (0, 1) for name in single),
    }


def test_merged_and_unmerged_velocities_agree(tiny_policy_dir: Path) -> None:
    trained = tiny_lora(tiny_policy_dir)
    merged = load_policy(tiny_policy_dir)
    base = velocity(merged)
    merged.load_state_dict(merge(merged.state_dict(), trained, LORA, "x"))
    torch.testing.assert_close(velocity(merged), velocity(with_lora(tiny_policy_dir, trained)), rtol=1e-4, atol=1e-5)
    assert (velocity(merged) - base).abs().max() > 0.05


def test_a_policy_with_an_adapter_is_saved_as_a_whole_one_and_stays_as_it_is(
    tiny_policy_dir: Path, tmp_path: Path
) -> None:
    policy = with_lora(tiny_policy_dir, tiny_lora(tiny_policy_dir))
    before = {name: value.clone() for name, value in policy.state_dict().items()}
    TangoFlux(policy, tiny_model().autoencoder).save_pretrained(tmp_path)
    published, ours = (load_file(path / "tangoflux.safetensors") for path in (tiny_policy_dir, tmp_path))
    assert shapes(ours) == shapes(published)
    assert all(torch.equal(value, before[name]) for name, value in policy.state_dict().items())
    loaded = TangoFlux.from_pretrained(tmp_path).policy
    torch.testing.assert_close(velocity(loaded), velocity(policy), rtol=1e-4, atol=1e-5)


def test_a_merge_depends_on_nothing_but_the_tensors(tiny_policy_dir: Path) -> None:
    trained = tiny_lora(tiny_policy_dir)
    policy = with_lora(tiny_policy_dir, trained)
    first, second = merged_state(policy), merge(load_policy(tiny_policy_dir).state_dict(), trained, LORA, "x")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_what_was_trained_of_another_model_is_refused(tiny_policy_dir: Path) -> None:
    base, trained = load_policy(tiny_policy_dir).state_dict(), tiny_lora(tiny_policy_dir)
    first = next(name for name in sorted(trained) if "lora_A" in name)
    for broken in (
        {name: value for name, value in trained.items() if name != first},
        {**trained, first: torch.zeros(5, 16)},
    ):
        with pytest.raises(CheckpointError, match=f"a.safetensors does not fit .* LoRA rank 4: {first}"):
            merge(base, broken, LORA, "a.safetensors")
    with pytest.raises(CheckpointError, match="does not fit"):
        merge(base, trained, LoraSettings(8, 8), "a.safetensors")


@pytest.mark.parametrize(
    ("rank", "alpha", "message"), [(0, 1, "rank is 0"), (-2, 1, "rank is -2"), (4, 0, "alpha is 0"), (4, -1, "alpha")]
)
def test_a_rank_or_alpha_that_is_not_above_0_is_refused(rank: int, alpha: float, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LoraSettings(rank, alpha)
