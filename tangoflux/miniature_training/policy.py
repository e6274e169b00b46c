"""The miniature's policy before its pretraining: its sizes, its tokenizer, and random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import T5Config

from tangoflux.miniature_training.tokenizer import train_t5_tokenizer
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.model.policy import Policy, PolicyConfig
from tangoflux.pipeline import TangoFlux
from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.scenes import MAX_DURATION_S

CONFIG = PolicyConfig(
    num_layers=1,
    num_single_layers=4,
    in_channels=32,
    attention_head_dim=32,
    joint_attention_dim=128,
    num_attention_heads=4,
    audio_seq_len=63,
    max_duration=MAX_DURATION_S,
    text_encoder_name="text_encoder",
    axes_dims_rope=(8, 12, 12),
    latent_frames="duration",
)
_TEXT = T5Config(
    vocab_size=512, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
    dropout_rate=0.0, use_cache=False,
)  # fmt: skip


def save_initial_policy(codec_dir: Path, output_dir: Path) -> None:
    """Writes a policy with random weights, text encoder included, beside the codec of ``codec_dir``.

    Its tokenizer is trained on training captions.
    """
    torch.manual_seed(0)
    tokenizer = train_t5_tokenizer(prompt.text for prompt in bank("train", 4000, seed=0))
    policy = Policy(CONFIG, _TEXT, tokenizer)
    TangoFlux(policy, Autoencoder.load(codec_dir)).save_pretrained(output_dir)
