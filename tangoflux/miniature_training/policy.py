"""The miniature's policy before its pretraining: its sizes, its tokenizer, and random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import T5Config

from tangoflux.miniature_training.data import Log
from tangoflux.miniature_training.text_encoder import train_text_encoder
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


def save_initial_policy(codec_dir: Path, output_dir: Path, cache_dir: Path, log: Log) -> None:
    """Writes a policy with a trained text encoder and otherwise random weights, beside the codec of ``codec_dir``.

    Its tokenizer and its text encoder are trained on training captions; ``cache_dir`` keeps the latter's state.
    """
    torch.manual_seed(0)
    tokenizer = train_t5_tokenizer(prompt.text for prompt in bank("train", 4000, seed=0))
    policy = Policy(CONFIG, _TEXT, tokenizer)
    start_from_identity(policy)
    train_text_encoder(policy.text_encoder, tokenizer, cache_dir, log)
    TangoFlux(policy, Autoencoder.load(codec_dir)).save_pretrained(output_dir)


def start_from_identity(policy: Policy) -> None:
    """Zeroes the modulations and the output layer: every block is the identity at first (adaLN-Zero of DiT,
    arXiv 2212.09748, section 3.2)."""
    transformer = policy.transformer
    doubles = [norm for block in transformer.transformer_blocks for norm in (block.norm1, block.norm1_context)]
    singles = [block.norm for block in transformer.single_transformer_blocks]
    for norm in (*doubles, *singles, transformer.norm_out):
        nn.init.zeros_(norm.linear.weight)
        nn.init.zeros_(norm.linear.bias)
    nn.init.zeros_(transformer.proj_out.weight)
    nn.init.zeros_(transformer.proj_out.bias)
