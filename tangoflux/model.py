"""TangoFlux as a whole: the policy and its codec, in the published directory layout.

config.json            PolicyConfig
tangoflux.safetensors  all of the policy, text encoder included (its tied input embedding left out)
vae.safetensors        AutoencoderOobleck
text_encoder/          the text encoder's config and tokenizer; default: those of config.json's text_encoder_name
vae_config.json        AutoencoderConfig; default: Stable Audio Open's
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import snapshot_download
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config

from tangoflux.adapter_files import base_directory, check_adapter, read_adapter, with_adapter
from tangoflux.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.checkpoint import fill, read_json, read_weights
from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.hub import HUB_ERRORS
from tangoflux.lora import LoraSettings, add_lora, merged_state
from tangoflux.policy import Policy, PolicyConfig
from tangoflux.precision import Precision, uses_bf16
from tangoflux.sampling import SampleRequest, SamplingParams, sample_latents
from tangoflux.seeding import derive_seed

EMBEDDED = {"miniature": Path(__file__).parent / "miniature" / "policy"}
"""Names of the weights that come with the package."""

TIED_KEY = "text_encoder.encoder.embed_tokens.weight"
"""The same tensor as ``text_encoder.shared.weight``; published files leave it out."""

TRAINING_KEYS = ("ref_transformer.", "beta_dpo")
"""What the published training code may leave in its files besides the policy: the reference, which is not needed."""


class TangoFlux:
    """The policy with its autoencoder. For training and sampling parts use ``policy`` and ``autoencoder``."""

    def __init__(self, policy: Policy, autoencoder: Autoencoder) -> None:
        self.policy = policy
        self.autoencoder = autoencoder

    @property
    def sample_rate_hz(self) -> int:
        """Samples a second of the waveforms."""
        return self.autoencoder.sample_rate_hz

    def num_frames(self, duration_s: float) -> int:
        """Frames of latents that are sampled, stored and trained for a prompt of ``duration_s`` seconds."""
        return num_frames(self.policy.config, self.autoencoder.config, duration_s)

    def to(self, device: torch.device | str) -> TangoFlux:
        """Moves both parts and returns self."""
        self.policy.to(device)
        self.autoencoder.to(device)
        return self

    def request(self, prompt: str, duration_s: float, seeds: Sequence[int]) -> SampleRequest:
        """A request for ``sample_latents`` with this model's number of frames.

        Raises:
            ConfigError: the duration is not in (0, max_duration].
        """
        if not 0 < duration_s <= self.policy.config.max_duration:
            raise ConfigError(f"duration_s {duration_s} is not in (0, {self.policy.config.max_duration}] seconds")
        return SampleRequest(prompt, duration_s, self.num_frames(duration_s), tuple(seeds))

    def decode(self, latents: Sequence[Tensor], durations_s: Sequence[float]) -> list[NDArray[np.float32]]:
        """Waveforms of latents, see ``Autoencoder.decode_rows``."""
        return self.autoencoder.decode_rows(latents, durations_s)

    def generate(
        self,
        prompts: str | Sequence[str],
        duration_s: float | Sequence[float] = 10.0,
        *,
        num_samples: int = 1,
        seed: int = 0,
        num_steps: int = 50,
        guidance_scale: float = 4.5,
        negative_prompt: str = "",
        precision: Precision | None = None,
        on_step: Callable[[float], None] = lambda share: None,
    ) -> list[list[NDArray[np.float32]]]:
        """Audio for people: for each prompt ``num_samples`` waveforms (audio_channels, samples), float32 in [-1, 1].

        The noise of sample k of a prompt depends on (seed, prompt, k) only.

        >>> model = TangoFlux.from_pretrained("miniature")
        >>> groups = model.generate(["a dog barks", "a bell rings twice"], 2.0, num_samples=3, seed=7, num_steps=4)
        >>> [len(group) for group in groups], groups[0][0].shape, model.sample_rate_hz
        ([3, 3], (1, 32000), 16000)

        Args:
            duration_s: seconds of each prompt's audio, or of all, above 0 and at most the policy's ``max_duration``.
            num_steps: Euler steps.
            guidance_scale: classifier-free guidance; 1 or less is none.
            negative_prompt: what the audio is to be unlike, where there is guidance.
            precision: in which the policy computes; None is fp32 on a CPU, and on a GPU bf16 where it has that.
            on_step: see ``sample_latents``.

        Raises:
            ConfigError: a duration, a number of steps or samples, or a guidance scale out of range.
        """
        texts = [prompts] if isinstance(prompts, str) else list(prompts)
        one = isinstance(duration_s, int | float | np.number)
        durations = [float(duration_s)] * len(texts) if one else list(duration_s)
        if num_samples < 1:
            raise ConfigError(f"num_samples {num_samples}: give 1 or more")
        if len(durations) != len(texts):
            raise ConfigError(f"{len(durations)} durations for {len(texts)} prompts: give one for each, or one for all")
        params = SamplingParams(num_steps, guidance_scale, negative_prompt)
        requests = [
            self.request(text, duration, [derive_seed(seed, "generate", text, k) for k in range(num_samples)])
            for text, duration in zip(texts, durations, strict=True)
        ]
        device = self.policy.device.type
        bf16 = uses_bf16(precision or ("fp32" if device == "cpu" else "auto"), device)
        with torch.autocast(device, torch.bfloat16, enabled=bf16):
            groups = sample_latents(self.policy, requests, params, on_step)
        return [
            self.decode(list(group), [request.duration_s] * num_samples)
            for group, request in zip(groups, requests, strict=True)
        ]

    @classmethod
    def from_pretrained(cls, name: str | Path) -> TangoFlux:
        """Loads a directory in the published layout, an embedded name ("miniature"), or a name on the hub.

        Raises:
            CheckpointError: nothing is there, or files are missing, truncated or of another model.
        """
        directory = find_directory(name)
        return cls(load_policy(directory), Autoencoder.load(directory))

    def save_pretrained(self, directory: str | Path, dtype: torch.dtype = torch.float32) -> None:
        """Writes the published layout; ``directory`` is made when missing."""
        directory = Path(directory)
        (directory / "text_encoder").mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(self.policy.config.to_dict(), indent=2) + "\n")
        save_file(policy_weights(self.policy, dtype), directory / "tangoflux.safetensors")
        self.policy.text_encoder.config.save_pretrained(directory / "text_encoder")
        self.policy.tokenizer.save_pretrained(directory / "text_encoder")
        self.autoencoder.save(directory, dtype)


def num_frames(policy: PolicyConfig, codec: AutoencoderConfig, duration_s: float) -> int:
    """Frames of latents that a policy samples, and is trained on, for ``duration_s`` seconds."""
    if policy.latent_frames == "full":
        return policy.audio_seq_len
    return min(codec.frames_for(duration_s), policy.audio_seq_len)


def find_directory(name: str | Path) -> Path:
    """The local directory of a model: itself, an embedded one, or a snapshot from the hub.

    Raises:
        CheckpointError: it is neither, or the hub cannot be reached.
    """
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)]
    directory = Path(name)
    if directory.is_dir():
        return directory
    if directory.exists() or directory.is_absolute() or str(name).count("/") != 1:
        known = ", ".join(EMBEDDED)
        raise CheckpointError(f"{name} is no model directory, no name on the hub (owner/name) and none of: {known}")
    try:
        return Path(snapshot_download(str(name)))
    except HUB_ERRORS as error:
        raise CheckpointError(f"{name} is no local directory and cannot be had from the hub: {error}") from error


def load_policy(directory: Path) -> Policy:
    """The policy of a published-layout directory, in evaluation mode with a frozen text encoder.

    Where the directory is an adapter's, see ``adapter_files``, it is that of the base with the adapter merged in.

    Raises:
        CheckpointError: see ``TangoFlux.from_pretrained``.
    """
    base = base_directory(directory)
    config = PolicyConfig.from_dict(read_json(base / "config.json"))
    text_config, tokenizer = _text_parts(base, config)
    policy = Policy(config, text_config, tokenizer)
    weights = read_weights(base / "tangoflux.safetensors")
    weights = {key: value for key, value in weights.items() if not key.startswith(TRAINING_KEYS)}
    fill(policy, with_adapter(weights, directory), str(base / "tangoflux.safetensors"), optional=[TIED_KEY])
    policy.freeze_text_encoder()
    return policy.eval()


def load_lora_policy(directory: Path, settings: LoraSettings) -> Policy:
    """As ``load_policy``, but with an adapter to train: that of the directory, or a fresh one.

    Raises:
        ConfigError: the directory's adapter has other settings.
        CheckpointError: see ``TangoFlux.from_pretrained``.
    """
    check_adapter(directory, settings)
    policy = load_policy(base_directory(directory))
    add_lora(policy, settings)
    if base_directory(directory) != directory:
        frozen = [name for name, value in policy.state_dict(keep_vars=True).items() if not value.requires_grad]
        fill(policy, read_adapter(directory)[1], str(directory), optional=frozen)
    return policy


def fresh_policy(directory: Path, seed: int) -> Policy:
    """As ``load_policy``, but only the text encoder is that of the directory; all else has random weights.

    Raises:
        CheckpointError: see ``TangoFlux.from_pretrained``.
    """
    loaded = load_policy(directory)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(seed, "fresh policy"))
        fresh = Policy(loaded.config, loaded.text_encoder.config, loaded.tokenizer)
    fresh.text_encoder = loaded.text_encoder
    fresh.freeze_text_encoder()
    return fresh.eval()


def policy_weights(policy: Policy, dtype: torch.dtype = torch.float32) -> dict[str, Tensor]:
    """The tensors of ``tangoflux.safetensors``: the policy, an adapter merged in, without the tied input embedding."""
    return {
        key: value.detach().to("cpu", dtype).contiguous()
        for key, value in merged_state(policy).items()
        if key != TIED_KEY
    }


def _text_parts(directory: Path, config: PolicyConfig) -> tuple[T5Config, PreTrainedTokenizerBase]:
    local = directory / "text_encoder"
    source = str(local) if local.is_dir() else config.text_encoder_name
    try:
        return T5Config.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    except (*HUB_ERRORS, ValueError) as error:
        raise CheckpointError(f"text encoder config or tokenizer cannot be read from {source}: {error}") from error
