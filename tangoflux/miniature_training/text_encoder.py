"""Training of the policy's text encoder, before the policy: each token says of which event it is.

The published policy has an encoder that was trained on text long before (FLAN-T5) and stays frozen. The miniature's
learns from captions alone, without any audio; a policy that trained it along with itself learned the kinds, but neither
order nor counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tangoflux.errors import DataError
from tangoflux.miniature_training.data import Log
from tangoflux.miniature_training.loop import LoopConfig, run_loop
from tangoflux.model.conditioning import TRAINING_MAX_TOKENS, tokenize
from tangoflux.soundworld.captions import Mention, find_mentions, noisy_caption
from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.recordings import CAPTION_NOISE
from tangoflux.soundworld.scenes import MAX_COUNT, MAX_EVENTS, random_scene

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, T5EncoderModel

_NO_EVENT = len(KINDS)
_NOT_SCORED = -100
_LOGITS = (_NO_EVENT + 1, MAX_COUNT, MAX_EVENTS, 2)


@dataclass(frozen=True)
class TextTraining:
    """Sizes of the text encoder's training."""

    captions: int = 20_000
    seed: int = 501
    batch_size: int = 64
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1000, learning_rate=3e-3, warmup_steps=100))


class TokenTags(NamedTuple):
    """What a token says, each (B, L): its event's kind, count minus one and place, and whether events overlap.

    A token of no event has the kind ``len(KINDS)`` and neither count nor place; overlapping events have no place.
    """

    kinds: Tensor
    counts: Tensor
    places: Tensor
    overlap: Tensor


class Tagger(nn.Module):
    """A text encoder with a linear layer that names the tags of each token."""

    def __init__(self, encoder: T5EncoderModel) -> None:
        super().__init__()
        self.encoder = encoder
        self.head = nn.Linear(encoder.config.d_model, sum(_LOGITS))

    def forward(self, ids: Tensor, token_mask: Tensor) -> tuple[Tensor, ...]:
        """Logits (B, L, classes) of each of ``TokenTags``."""
        states = self.encoder(input_ids=ids, attention_mask=token_mask).last_hidden_state
        return self.head(states).split(list(_LOGITS), dim=-1)


def train_text_encoder(
    encoder: T5EncoderModel,
    tokenizer: PreTrainedTokenizerBase,
    cache_dir: Path,
    log: Log,
    config: TextTraining | None = None,
) -> None:
    """Trains the encoder in place on captions of training scenes.

    Args:
        encoder: with any weights; its parameters must require gradients.
        tokenizer: of the encoder, with offsets.
        cache_dir: keeps the state from which an interrupted training resumes.
        log: takes a progress line.
        config: instead of the default.
    """
    config = config or TextTraining()
    rng = np.random.default_rng(config.seed)
    texts = [noisy_caption(random_scene(rng, "train"), rng, CAPTION_NOISE) for _ in range(config.captions)]
    ids, mask, _ = tokenize(tokenizer, texts, TRAINING_MAX_TOKENS)
    tags = token_tags(tokenizer, texts)

    def loss_of_step(step: int) -> Tensor:
        rows = torch.from_numpy(np.random.default_rng([config.seed, step]).integers(len(texts), size=config.batch_size))
        width = int(mask[rows].sum(dim=1).max())
        logits = tagger(ids[rows, :width], mask[rows, :width])
        wanted = (tag[rows, :width] for tag in tags)
        return sum_of_losses(logits, TokenTags(*wanted))

    tagger = Tagger(encoder)
    run_loop(tagger, loss_of_step, config.loop, cache_dir / "text-encoder.pt", log)


def sum_of_losses(logits: Sequence[Tensor], tags: TokenTags) -> Tensor:
    """The mean cross-entropy of each tag over the tokens that have it, added up."""
    return torch.stack(
        [
            F.cross_entropy(part.flatten(0, 1), wanted.flatten(), ignore_index=_NOT_SCORED)
            for part, wanted in zip(logits, tags, strict=True)
        ]
    ).sum()


def token_tags(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> TokenTags:
    """The tags of the texts' tokens; padding has none.

    Raises:
        DataError: a text is not a caption of the sound world.
    """
    rows = [_tags_of(tokenizer, text) for text in texts]
    padded = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_NOT_SCORED)
    return TokenTags(*padded.unbind(dim=-1))


def _tags_of(tokenizer: PreTrainedTokenizerBase, text: str) -> Tensor:
    """(L, 4) tags of a text's tokens."""
    found = find_mentions(text)
    if found is None:
        raise DataError(f"{text!r} is not a caption of the sound world")
    mentions, overlap = found
    encoded = tokenizer(text, truncation=True, max_length=TRAINING_MAX_TOKENS, return_offsets_mapping=True)
    return torch.tensor([_tag(mentions, overlap, *offsets) for offsets in encoded["offset_mapping"]])


def _tag(mentions: Sequence[Mention], overlap: bool, start: int, end: int) -> tuple[int, int, int, int]:
    for place, mention in enumerate(mentions):
        # A byte-level token may begin with the space before its word.
        if mention.start - 1 <= start < end <= mention.end:
            kind, count = KINDS.index(mention.event.kind), mention.event.count - 1
            return kind, count, _NOT_SCORED if overlap else place, int(overlap)
    return _NO_EVENT, _NOT_SCORED, _NOT_SCORED, int(overlap)
