"""The published directory layout: finding a model's directory, and reading and writing its policy.

config.json            PolicyConfig
tangoflux.safetensors  the complete policy with its text encoder, without the tied input embedding
vae.safetensors        AutoencoderOobleck
text_encoder/          the text encoder's config and tokenizer; default: those of config.json's text_encoder_name
vae_config.json        AutoencoderConfig; default: Stable Audio Open's
"""

from __future__ import annotations

from pathlib import Path

import torch
from huggingface_hub import snapshot_download
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config

from tangoflux.errors import CheckpointError
from tangoflux.model.adapter_files import base_directory, check_adapter, read_adapter, with_adapter
from tangoflux.model.autoencoder import AutoencoderConfig
from tangoflux.model.checkpoint import HUB_ERRORS, fill, read_json, read_weights
from tangoflux.model.lora import LoraSettings, add_lora, merged_state
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.seeding import derive_seed

EMBEDDED = {"miniature": Path(__file__).parents[1] / "miniature" / "policy"}
"""Models in the package, by name."""

TIED_KEY = "text_encoder.encoder.embed_tokens.weight"
"""The same tensor as ``text_encoder.shared.weight``; published files omit it."""

TRAINING_KEYS = ("ref_transformer.", "beta_dpo")
"""Keys of the reference policy, which the published training code may save and which are ignored."""


def num_frames(policy: PolicyConfig, codec: AutoencoderConfig, duration_s: float) -> int:
    """Frames of latents that are sampled, and trained on, for ``duration_s`` seconds."""
    if policy.latent_frames == "full":
        return policy.audio_seq_len
    return min(codec.frames_for(duration_s), policy.audio_seq_len)


def find_directory(name: str | Path) -> Path:
    """The local directory of a model: itself, an embedded one, or a snapshot from the hub.

    Raises:
        CheckpointError: there is no such model, or the hub cannot be reached.
    """
    if str(name) in EMBEDDED:
        return EMBEDDED[str(name)]
    directory = Path(name)
    if directory.is_dir():
        return directory
    if directory.exists() or directory.is_absolute() or str(name).count("/") != 1:
        known = ", ".join(EMBEDDED)
        raise CheckpointError(
            f"{name} is not a model directory, not a name on the hub (owner/name) and none of: {known}"
        )
    try:
        return Path(snapshot_download(str(name)))
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"{name} is not a local directory and cannot be downloaded from the hub: {error}"
        ) from error


def load_policy(directory: Path) -> Policy:
    """The policy of a published-layout directory, in evaluation mode with a frozen text encoder.

    For an adapter's directory (see ``adapter_files``) it is the base's policy with the adapter merged in.

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
    """As ``load_policy``, but with an adapter to train: the directory's, or a new one.

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
    """As ``load_policy``, but with random weights for all but the text encoder.

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
