"""Compares latents and losses with the published code's, for the same random weights, noise and prompts."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers.models.autoencoders.autoencoder_oobleck import AutoencoderOobleck
from diffusers.utils.logging import set_verbosity_error
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config, T5EncoderModel

from jobs.benchmarks.published_code import FLAN_T5_LARGE, give_text_encoder, load_published, published_latents
from jobs.options.check_published import CheckOptions
from tangoflux.errors import CheckpointError
from tangoflux.flow import interpolate, velocity_target
from tangoflux.losses import crpo_loss, squared_error
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS
from tangoflux.model.layout import EMBEDDED, TIED_KEY
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.sampling import SampleRequest, sample_latents
from tangoflux.sampling_params import SamplingParams

TOLERANCE = 1e-4
GUIDANCE = 4.5
PROMPTS = ("a dog barks", "first a drum is hit, then a siren wails while a bird chirps, then a bell rings twice", "")
PAIRS = 2

SMALL = {"num_layers": 1, "num_single_layers": 2, "num_attention_heads": 2, "joint_attention_dim": 64}
SMALL_TEXT = {"vocab_size": 4096, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4}


def run(options: CheckOptions) -> bool:
    """Prints a line per comparison; returns whether all differences are within the tolerance."""
    set_verbosity_error()  # the published code still passes ids of three dimensions
    full = options.size == "full"
    published_code = load_published(options.published)
    policy = random_policy(full)
    published = publish(published_code, policy)
    differences = dict(compare(policy, published, num_steps=2 if full else 10))
    for name, difference in differences.items():
        print(f"{name:58} {difference:.1e} {'' if difference <= TOLERANCE else '  above 1e-4'}", flush=True)
    return all(value <= TOLERANCE for value in differences.values())


def random_policy(full: bool) -> Policy:
    """A policy with random weights and the miniature's tokenizer."""
    torch.manual_seed(0)
    text = T5Config.from_dict({**(FLAN_T5_LARGE if full else SMALL_TEXT), "feed_forward_proj": "gated-gelu"})
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(EMBEDDED["miniature"] / "text_encoder")
    policy = Policy(PolicyConfig.from_dict({} if full else SMALL), text, tokenizer).eval()
    policy.freeze_text_encoder()
    return policy


def publish(code: Any, policy: Policy) -> Any:
    """The published model with the policy's weights, and with a reference that differs from them."""
    # The text encoder's weights come from our file.
    give_text_encoder(code, T5EncoderModel(policy.text_encoder.config), policy.tokenizer)
    with TemporaryDirectory() as directory:
        TangoFlux(policy, Autoencoder(AutoencoderConfig())).save_pretrained(directory)
        published = load_as_published(code, Path(directory))
    torch.manual_seed(1)
    published.ref_transformer = copy.deepcopy(published.transformer)
    for parameter in published.ref_transformer.parameters():
        parameter.data += 1e-3 * torch.randn_like(parameter)
    return published


def load_as_published(code: Any, directory: Path) -> Any:
    """The published model from what ``save_pretrained`` wrote, loaded the way the published code does it.

    Raises:
        CheckpointError: tensors are missing or unexpected.
    """
    published = code.TangoFlux(json.loads((directory / "config.json").read_text())).eval()
    missing, unexpected = published.load_state_dict(load_file(directory / "tangoflux.safetensors"), strict=False)
    if set(missing) != {TIED_KEY} or unexpected:
        raise CheckpointError(f"saved weights lack {missing} of the published code's tensors; unknown: {unexpected}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # torch's older weight_norm, which diffusers uses
        AutoencoderOobleck().load_state_dict(load_file(directory / "vae.safetensors"))
    return published


@torch.no_grad()
def compare(policy: Policy, published: Any, num_steps: int) -> Sequence[tuple[str, float]]:
    """Names and relative differences."""
    params = SamplingParams(num_steps, GUIDANCE)
    requests = [_request(policy, text, seed) for seed, text in enumerate(PROMPTS)]
    theirs = [
        published_latents(published, request.prompt, request.duration_s, num_steps, GUIDANCE, request.seeds[0])
        for request in requests
    ]
    alone = [sample_latents(policy, [request], params)[0] for request in requests]
    together = sample_latents(policy, requests, params)
    found = [
        (f"latents, {num_steps} steps, prompt of {len(text.split())} words", relative(ours, expected))
        for text, ours, expected in zip(PROMPTS, alone, theirs, strict=True)
    ]
    found.append((f"latents, {len(PROMPTS)} prompts in one batch", relative(torch.cat(together), torch.cat(theirs))))
    found.append(("flow-matching loss", relative(*flow_matching_losses(policy, published))))
    found.append(("CRPO loss", relative(*crpo_losses(policy, published))))
    return found


def flow_matching_losses(policy: Policy, published: Any) -> tuple[Tensor, Tensor]:
    """Our loss and the published one."""
    latents, prompts = _random_latents(policy), [PROMPTS[1]] * (2 * PAIRS)
    (expected, *_), noise, sigma = _published_loss(published, latents, prompts, sft=True)
    return _errors(policy, latents, prompts, noise, sigma).mean(), expected


def crpo_losses(policy: Policy, published: Any) -> tuple[Tensor, Tensor]:
    """Our loss and the published one."""
    latents, prompts = _random_latents(policy), [PROMPTS[1]] * PAIRS
    (expected, *_), noise, sigma = _published_loss(published, latents, prompts, sft=False)
    noise = noise[:PAIRS].repeat(2, 1, 1)
    winner, loser = _errors(policy, latents, prompts * 2, noise, sigma).chunk(2)
    reference = copy.deepcopy(policy)
    reference.transformer.load_state_dict(published.ref_transformer.state_dict())
    ref_winner, ref_loser = _errors(reference, latents, prompts * 2, noise, sigma).chunk(2)
    return crpo_loss(winner, loser, ref_winner, ref_loser, published.beta_dpo).mean(), expected


def relative(ours: Tensor, expected: Tensor) -> float:
    """The largest difference as a share of the largest expected value."""
    return float((ours - expected).abs().max() / expected.abs().max())


def _request(policy: Policy, text: str, seed: int) -> SampleRequest:
    return SampleRequest(text, 5.0 + 5 * seed, policy.config.audio_seq_len, (seed,))


def _random_latents(policy: Policy) -> Tensor:
    generator = torch.Generator().manual_seed(2)
    return torch.randn(2 * PAIRS, policy.config.audio_seq_len, policy.config.in_channels, generator=generator)


def _published_loss(published: Any, latents: Tensor, prompts: list[str], sft: bool) -> tuple[Any, Tensor, Tensor]:
    """The published loss, the noise that was drawn first, and the sigmas that were passed to the transformer."""
    seen: list[Tensor] = []
    hook: Callable[..., None] = lambda module, args, inputs: seen.append(inputs["timestep"])  # noqa: E731
    handle = published.transformer.register_forward_pre_hook(hook, with_kwargs=True)
    torch.manual_seed(3)
    answer = published(latents, prompts, duration=torch.full((len(prompts),), 10.0), sft=sft)
    handle.remove()
    torch.manual_seed(3)
    return answer, torch.randn_like(latents), seen[0]


def _errors(policy: Policy, latents: Tensor, prompts: list[str], noise: Tensor, sigma: Tensor) -> Tensor:
    text = policy.encode_text(prompts, TRAINING_MAX_TOKENS)
    mask = torch.ones(latents.shape[:2], dtype=torch.bool)
    predicted = policy(interpolate(latents, noise, sigma), sigma, text, torch.full((len(prompts),), 10.0), mask)
    return squared_error(predicted, velocity_target(latents, noise), mask)
