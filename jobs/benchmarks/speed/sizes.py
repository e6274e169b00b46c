"""Models with random weights in three sizes, and the work to measure them by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, T5Config

from jobs.benchmarks.published_code import FLAN_T5_LARGE
from tangoflux.model.autoencoder import Autoencoder, AutoencoderConfig
from tangoflux.model.layout import EMBEDDED
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux


@dataclass(frozen=True)
class Size:
    """A model and the work to measure it by.

    The published code fixes some values: heads of 128, latents of 64 channels, a codec of hop 2048.

    Attributes:
        policy, text, codec: values of ``PolicyConfig``, ``T5Config`` and ``AutoencoderConfig`` unlike the paper's.
        num_steps: Euler steps of a sample.
        batches: numbers of prompts that our rollouts sample at once, ``num_samples`` of each.
        pairs: preference pairs of a training step.
    """

    policy: dict[str, Any]
    text: dict[str, Any]
    codec: dict[str, Any]
    num_steps: int
    batches: tuple[int, ...]
    pairs: int
    num_samples: int = 5


SIZES = {
    "tiny": Size(
        policy={
            "num_layers": 1,
            "num_single_layers": 2,
            "num_attention_heads": 1,
            "joint_attention_dim": 64,
            "audio_seq_len": 22,
            "max_duration": 1,
        },
        text={"vocab_size": 4096, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_heads": 4},
        codec={"encoder_hidden_size": 2, "decoder_channels": 2},
        num_steps=2,
        batches=(1, 2),
        pairs=2,
    ),
    # A quarter of the paper's width and a third of its depth. The codec is so narrow that it takes the same share of a
    # training step as in the paper's model: on one CPU thread, encoding 30 s takes 10 to 15 times as long as one
    # velocity (the paper's model: 13). Its share of the operations is smaller: narrow convolutions are memory-bound.
    "mid": Size(
        policy={"num_layers": 2, "num_single_layers": 6, "num_attention_heads": 2, "joint_attention_dim": 256},
        text={"vocab_size": 4096, "d_model": 256, "d_kv": 64, "d_ff": 704, "num_layers": 8, "num_heads": 4},
        codec={"encoder_hidden_size": 8, "decoder_channels": 8},
        num_steps=4,
        batches=(1, 4),
        pairs=2,
    ),
    "full": Size(policy={}, text=FLAN_T5_LARGE, codec={}, num_steps=50, batches=(1, 8, 16), pairs=4),
}

CAPTIONS = (
    "a dog barks while rain falls on a roof",
    "first a drum is hit, then a siren wails while a bird chirps, then a bell rings twice",
    "a bird",
    "an engine starts and drives away",
    "people talk in a large hall and a door slams shut",
    "a bell rings three times, and then someone begins to clap slowly",
    "waves roll onto a beach",
    "a cat meows, then a man laughs",
)
"""Captions of the length of AudioCaps'; a batch repeats them."""


def captions(count: int) -> list[str]:
    """``count`` captions, repeated as needed."""
    return [CAPTIONS[index % len(CAPTIONS)] for index in range(count)]


def random_model(size: Size) -> TangoFlux:
    """A model with the miniature's tokenizer, frozen except for the weights that alignment trains."""
    torch.manual_seed(0)
    text = T5Config.from_dict({**size.text, "feed_forward_proj": "gated-gelu", "use_cache": False})
    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(EMBEDDED["miniature"] / "text_encoder")
    policy = Policy(PolicyConfig.from_dict(size.policy), text, tokenizer)
    policy.freeze_text_encoder()
    return TangoFlux(policy.eval(), _random_autoencoder(size).eval().requires_grad_(False))


def _random_autoencoder(size: Size) -> Autoencoder:
    autoencoder = Autoencoder(AutoencoderConfig.from_dict(size.codec))
    # diffusers ties the encoder's width to its output, the latents' means and deviations; ours is narrower.
    encoder, channels = autoencoder.oobleck.encoder, autoencoder.latent_channels
    encoder.conv2 = nn.Conv1d(encoder.conv2.in_channels, 2 * channels, kernel_size=3, padding=1)
    return autoencoder
