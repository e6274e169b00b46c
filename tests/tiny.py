"""Random models of the published classes, small enough to be made and run in milliseconds."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from transformers import T5Config

from tangoflux.miniature_training.tokenizer import train_t5_tokenizer
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.layout import load_lora_policy
from tangoflux.model.lora import LoraSettings
from tangoflux.model.mel_front import MelFrontConfig
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux

WORDS = ["a dog barks then a bell rings", "a siren wails while a bird chirps", "first a drum is hit"]


def tiny_model(seed: int = 0, latent_frames: str = "duration", front: bool = True) -> TangoFlux:
    """A TangoFlux of about 50k random parameters: 8 latent channels, 15.6 frames a second at 16 kHz, up to 4 s."""
    torch.manual_seed(seed)
    config = PolicyConfig.from_dict(
        {
            "num_layers": 1,
            "num_single_layers": 2,
            "in_channels": 8,
            "attention_head_dim": 8,
            "joint_attention_dim": 16,
            "num_attention_heads": 2,
            "audio_seq_len": 63,
            "max_duration": 4,
            "axes_dims_rope": (2, 2, 4),
            "latent_frames": latent_frames,
        }
    )
    text = T5Config(
        vocab_size=320,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=1,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        use_cache=False,
    )
    policy = Policy(config, text, train_t5_tokenizer(WORDS, vocab_size=320, max_length=96))
    policy.freeze_text_encoder()
    return TangoFlux(policy.eval(), tiny_autoencoder(front).eval())


def tiny_autoencoder(front: bool = True) -> Autoencoder:
    """An Oobleck of a few thousand parameters, with a mel front (hop 1024) or without one (hop 1024)."""
    return Autoencoder(
        AutoencoderConfig(
            encoder_hidden_size=16,
            downsampling_ratios=(2, 2) if front else (4, 16, 16),
            channel_multiples=(1, 1) if front else (1, 1, 1),
            decoder_channels=4,
            decoder_input_channels=8,
            audio_channels=1,
            sampling_rate=16_000,
            front=MelFrontConfig(n_mels=16, iterations=2) if front else None,
        )
    )


LORA = LoraSettings(rank=4, alpha=8)


def tiny_lora(directory: Path, seed: int = 0) -> dict[str, Tensor]:
    """What a LoRA training of a policy might leave: all that it trains, moved at random."""
    policy, generator = load_lora_policy(directory, LORA), torch.Generator().manual_seed(seed)
    return {
        name: value.detach() + 0.1 * torch.randn(value.shape, generator=generator)
        for name, value in policy.named_parameters()
        if value.requires_grad
    }
