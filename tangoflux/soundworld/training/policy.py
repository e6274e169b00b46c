"""Pretrains the miniature's policy by flow matching on the autoencoder's latents of sound-world scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import T5Config

from tangoflux.autoencoder import Autoencoder
from tangoflux.conditioning import TRAINING_MAX_TOKENS
from tangoflux.flow import interpolate, logit_normal_sigma, velocity_target
from tangoflux.losses import flow_matching_loss
from tangoflux.model import TangoFlux
from tangoflux.policy import Policy, PolicyConfig
from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.captions import noisy_caption
from tangoflux.soundworld.scenes import MAX_DURATION_S
from tangoflux.soundworld.training.data import Log
from tangoflux.soundworld.training.latents import Clip, encoded_scenes
from tangoflux.soundworld.training.tokenizer import train_t5_tokenizer

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
CAPTION_NOISE = 0.25
"""Share of pretraining captions with one mistake, as captions from the web have."""

_TEXT = T5Config(
    vocab_size=512, d_model=128, d_kv=32, d_ff=256, num_layers=2, num_heads=4, feed_forward_proj="gated-gelu",
    dropout_rate=0.0, use_cache=False,
)  # fmt: skip
_UNCONDITIONAL_SHARE = 0.1
_SAVE_EVERY = 200
_DECAY_SHARE = 0.5


@dataclass(frozen=True)
class PretrainSettings:
    """How long and how fast the base policy is pretrained."""

    steps: int = 8_000
    scenes: int = 8_000
    seed: int = 401
    batch_size: int = 32
    learning_rate: float = 1.5e-3
    warmup_steps: int = 200
    ema_decay: float = 0.998


def new_policy() -> Policy:
    """A policy of the miniature's size with random weights and a tokenizer trained on training captions."""
    torch.manual_seed(0)
    tokenizer = train_t5_tokenizer(prompt.text for prompt in bank("train", 4000, seed=0))
    return Policy(CONFIG, _TEXT, tokenizer)


class Pretraining:
    """The pretraining loop with its whole state, so that it can be saved and go on."""

    def __init__(self, policy: Policy, clips: Sequence[Clip], settings: PretrainSettings) -> None:
        self.policy, self.settings = policy.train(), settings
        self.batches = Batches(clips, settings.batch_size)
        self.optimizer = torch.optim.AdamW(
            policy.parameters(), lr=settings.learning_rate, betas=(0.9, 0.95), weight_decay=0.01
        )
        self.averages = {key: value.detach().clone() for key, value in policy.state_dict().items()}
        self.step = 0

    def run(self, until: int, log: Log, every: int = 50) -> None:
        """Trains up to step ``until``; the learning rate is constant, then falls to a twentieth by the last step."""
        losses: list[float] = []
        while self.step < until:
            for group in self.optimizer.param_groups:
                group["lr"] = self.settings.learning_rate * self._rate(self.step)
            losses.append(self._train_step())
            self.step += 1
            if self.step % every == 0 or self.step == until:
                log(f"policy step {self.step}/{self.settings.steps}: flow-matching loss {np.mean(losses):.4f}")
                losses.clear()

    def _rate(self, step: int) -> float:
        share_left = max(0.0, 1 - step / self.settings.steps)
        return min(1.0, (step + 1) / self.settings.warmup_steps) * max(0.05, min(1.0, share_left / _DECAY_SHARE))

    def _train_step(self) -> float:
        loss = self.batches.loss(self.policy, self.step)
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.policy.parameters(), 1.0)
        self.optimizer.step()
        decay = min(self.settings.ema_decay, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            for key, value in self.policy.state_dict().items():
                self.averages[key].lerp_(value, 1 - decay)
        return loss.item()

    def save(self, file: Path) -> None:
        """Writes the whole state to ``file``, whole or not at all."""
        state = {
            "step": self.step,
            "policy": self.policy.state_dict(),
            "averages": self.averages,
            "optimizer": self.optimizer.state_dict(),
        }
        torch.save(state, file.with_suffix(".tmp"))
        file.with_suffix(".tmp").rename(file)

    def load(self, file: Path) -> None:
        """Goes on from a state that ``save`` wrote."""
        state = torch.load(file, weights_only=True)
        self.step = state["step"]
        self.policy.load_state_dict(state["policy"])
        self.averages = state["averages"]
        self.optimizer.load_state_dict(state["optimizer"])

    def averaged(self) -> Policy:
        """A copy of the policy with the exponential moving average of its weights."""
        policy = new_policy()
        policy.load_state_dict(self.averages)
        policy.freeze_text_encoder()
        return policy.eval()


class Batches:
    """Random batches of clips of similar length, with fresh captions and noise; a function of the step alone."""

    def __init__(self, clips: Sequence[Clip], batch_size: int) -> None:
        self.clips = sorted(clips, key=lambda clip: len(clip.latents))
        self.batch_size = batch_size

    def loss(self, policy: Policy, step: int) -> Tensor:
        """Mean flow-matching loss of the batch of ``step``."""
        rng = np.random.default_rng([7, step])
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        clips = self._draw(rng)
        captions = [noisy_caption(clip.scene, rng, CAPTION_NOISE) for clip in clips]
        captions = ["" if rng.uniform() < _UNCONDITIONAL_SHARE else caption for caption in captions]
        latents = torch.nn.utils.rnn.pad_sequence([clip.latents for clip in clips], batch_first=True)
        frames = torch.tensor([len(clip.latents) for clip in clips])
        frame_mask = torch.arange(latents.shape[1]) < frames[:, None]
        duration_s = torch.tensor([clip.scene.duration_s for clip in clips])
        noise = torch.randn(latents.shape, generator=generator)
        sigma = logit_normal_sigma(len(clips), generator)
        text = policy.encode_text(captions, TRAINING_MAX_TOKENS)
        velocity = policy(interpolate(latents, noise, sigma), sigma, text, duration_s, frame_mask)
        return flow_matching_loss(velocity, velocity_target(latents, noise), frame_mask).mean()

    def _draw(self, rng: np.random.Generator) -> list[Clip]:
        """Clips around a random place of the order by length, so that little is padded."""
        window = 4 * self.batch_size
        start = int(rng.integers(-window // 2, len(self.clips) - window // 2))
        first = min(max(start, 0), max(len(self.clips) - window, 0))
        chosen = rng.choice(min(window, len(self.clips)), size=self.batch_size, replace=False) + first
        return [self.clips[int(index)] for index in chosen]


def pretrain(vae_dir: Path, output_dir: Path, cache_dir: Path, log: Log, settings: PretrainSettings) -> None:
    """Pretrains the base policy, and goes on for a quarter longer to see what that would have brought.

    Args:
        vae_dir: the trained autoencoder.
        output_dir: gets ``base/`` and ``longer/``, both in the published layout.
        cache_dir: keeps the latents and the state from which an interrupted training resumes.
        log: takes a progress line.
    """
    autoencoder = Autoencoder.load(vae_dir)
    clips = encoded_scenes(autoencoder, settings.scenes, settings.seed, cache_dir / "latents.npy", log)
    training = Pretraining(new_policy(), clips, settings)
    state = cache_dir / "policy.pt"
    if state.exists():
        training.load(state)
        log(f"resumed at step {training.step}")
    for name, until in (("base", settings.steps), ("longer", settings.steps * 5 // 4)):
        while training.step < until:
            training.run(min(until, training.step + _SAVE_EVERY), log)
            training.save(state)
        if training.step == until:
            TangoFlux(training.averaged(), autoencoder).save_pretrained(output_dir / name, torch.float16)
