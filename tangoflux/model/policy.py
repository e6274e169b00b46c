"""The policy: a velocity field over latents, conditioned on text and duration (arXiv 2412.21037, section 2.2)."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from tangoflux.errors import CheckpointError
from tangoflux.model.conditioning import DurationEmbedder, SigmaEmbedding, TextStates, count_tokens, encode, tokenize

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5Config

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PolicyConfig:
    """The published ``config.json``, and two keys of our own with the published behaviour as default."""

    num_layers: int = 6
    num_single_layers: int = 18
    in_channels: int = 64
    attention_head_dim: int = 128
    joint_attention_dim: int = 1024
    num_attention_heads: int = 8
    audio_seq_len: int = 645
    max_duration: float = 30
    uncondition: bool = False
    text_encoder_name: str = "google/flan-t5-large"
    axes_dims_rope: tuple[int, int, int] = (16, 56, 56)
    latent_frames: Literal["full", "duration"] = "full"
    # full: every row has `audio_seq_len` frames; duration: only the frames that its duration needs.

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> PolicyConfig:
        """Builds the config from ``config.json``'s values; unused keys are ignored.

        Raises:
            CheckpointError: sizes do not match.
        """
        known = {field.name for field in fields(cls)}
        values = {key: value for key, value in values.items() if key in known}
        if "axes_dims_rope" in values:
            values["axes_dims_rope"] = tuple(values["axes_dims_rope"])
        config = cls(**values)
        if sum(config.axes_dims_rope) != config.attention_head_dim:
            raise CheckpointError(
                f"axes_dims_rope {config.axes_dims_rope} must sum to attention_head_dim {config.attention_head_dim}"
            )
        return config

    def to_dict(self) -> dict[str, Any]:
        """The values for ``config.json``."""
        return asdict(self)


class Policy(nn.Module):
    """Text encoder (frozen in alignment), duration embedder, pooled projection and transformer.

    The state dict's keys are those of the published ``tangoflux.safetensors`` (with its misspelt
    ``duration_emebdder``).
    """

    def __init__(self, config: PolicyConfig, text_config: T5Config, tokenizer: PreTrainedTokenizerBase) -> None:
        # These imports take seconds, and a job's driver, which has no policy, does not need them.
        from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
        from transformers import T5EncoderModel

        super().__init__()
        self.config = config
        self.tokenizer = tokenizer
        self.text_encoder = T5EncoderModel(text_config)
        dim = text_config.d_model
        self.fc = nn.Sequential(nn.Linear(dim, config.joint_attention_dim), nn.ReLU())
        self.duration_emebdder = DurationEmbedder(dim, config.max_duration)
        self.transformer: Any = FluxTransformer2DModel(
            in_channels=config.in_channels,
            num_layers=config.num_layers,
            num_single_layers=config.num_single_layers,
            attention_head_dim=config.attention_head_dim,
            num_attention_heads=config.num_attention_heads,
            joint_attention_dim=config.joint_attention_dim,
            pooled_projection_dim=dim,
            guidance_embeds=False,
            axes_dims_rope=config.axes_dims_rope,
        )
        self.transformer.time_text_embed = SigmaEmbedding(self.transformer.time_text_embed)

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.fc.parameters()).device

    def freeze_text_encoder(self) -> None:
        """Freezes the text encoder: no gradients and no dropout, even after ``train()``."""
        self.text_encoder.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> Policy:
        """As ``nn.Module.train``, but a frozen text encoder stays in evaluation mode."""
        super().train(mode)
        if not next(self.text_encoder.parameters()).requires_grad:
            self.text_encoder.eval()
        return self

    def trainable_parameters(self) -> Iterator[nn.Parameter]:
        """Parameters that are not frozen: in alignment the transformer, ``fc`` and the duration embedder."""
        return (parameter for parameter in self.parameters() if parameter.requires_grad)

    def encode_text(self, texts: Sequence[str], max_length: int | None = None) -> TextStates:
        """Encodes captions independently of each other.

        Args:
            texts: B captions of any Unicode text, which may be empty.
            max_length: most tokens per caption, default the tokenizer's maximum; longer ones are cut with a warning.
        """
        limit = max_length or self.tokenizer.model_max_length
        self._warn_of_cut_texts(texts, limit)
        return encode(self.text_encoder, *tokenize(self.tokenizer, texts, limit))

    def encode_unconditional(self, negatives: Sequence[str], text: TextStates) -> TextStates:
        """Encodes each row's negative prompt ("" by default), padded or cut to its prompt's length."""
        lengths = text.attend_mask.sum(dim=1).tolist()
        return encode(self.text_encoder, *tokenize(self.tokenizer, negatives, max(lengths), lengths))

    def drop_captions(self, text: TextStates, rows: Sequence[int]) -> TextStates:
        """Replaces ``rows`` by the unconditional states that guidance uses, see ``encode_unconditional``."""
        return text.replace(rows, self.encode_unconditional([""] * len(rows), text.select(rows))) if rows else text

    def forward(
        self, noisy_latents: Tensor, sigma: Tensor, text: TextStates, duration_s: Tensor, frame_mask: Tensor
    ) -> Tensor:
        """The velocity at ``noisy_latents``.

        Args:
            noisy_latents: (B, frames, channels), the point on the path at ``sigma``.
            sigma: (B,) in [0, 1].
            text: B encoded captions.
            duration_s: (B,) seconds.
            frame_mask: (B, frames), true for valid frames; the others are not attended to, and have no meaning.

        Returns:
            (B, frames, channels).
        """
        dtype = next(self.fc.parameters()).dtype
        tokens = torch.cat([text.states.to(dtype), self.duration_emebdder(duration_s)], dim=1)
        mask = torch.cat([text.attend_mask, text.attend_mask.new_ones(len(sigma), 1), frame_mask], dim=1)
        return self.transformer(
            hidden_states=noisy_latents.to(dtype),
            timestep=sigma,
            pooled_projections=(sigma, self.fc(text.pooled().to(dtype))),  # for SigmaEmbedding
            encoder_hidden_states=tokens,
            txt_ids=torch.zeros(tokens.shape[1], 3, device=tokens.device),
            img_ids=torch.arange(noisy_latents.shape[1], device=tokens.device).float()[:, None].expand(-1, 3),
            # Without padding, no mask: attention can then use its fastest kernel.
            joint_attention_kwargs=None if bool(mask.all()) else {"attention_mask": mask[:, None, None]},
            return_dict=False,
        )[0]

    def _warn_of_cut_texts(self, texts: Sequence[str], limit: int) -> None:
        # A token holds at least one byte, so most texts need no second tokenization.
        for text in texts:
            if len(text.encode("utf-8", "replace")) >= limit and count_tokens(self.tokenizer, text) > limit:
                # Not quoted: it may be a user's private request.
                logger.warning("a prompt of %d characters is cut to its first %d tokens", len(text), limit)
