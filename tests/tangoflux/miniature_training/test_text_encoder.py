"""The text encoder's training: what a token's tags are, and that they are learned."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import T5Config, T5EncoderModel

from tangoflux.errors import DataError
from tangoflux.miniature_training.loop import LoopConfig
from tangoflux.miniature_training.text_encoder import (
    Tagger,
    TextTraining,
    sum_of_losses,
    token_tags,
    train_text_encoder,
)
from tangoflux.miniature_training.tokenizer import train_t5_tokenizer
from tangoflux.model.conditioning import tokenize
from tangoflux.soundworld import KINDS, bank

TOKENIZER = train_t5_tokenizer([prompt.text for prompt in bank("train", 300, seed=0)])


def test_tokens_say_the_kind_count_and_place_of_their_event() -> None:
    tags = token_tags(TOKENIZER, ["a dog barks after a siren wails twice"])
    told = set(zip(tags.kinds[0].tolist(), tags.counts[0].tolist(), tags.places[0].tolist(), strict=True))
    siren, bark = KINDS.index("siren"), KINDS.index("bark")
    assert told == {(siren, 1, 0), (bark, 0, 1), (len(KINDS), -100, -100)}  # "after" and the end are of no event
    assert not tags.overlap.any()


def test_events_at_the_same_time_have_no_place() -> None:
    tags = token_tags(TOKENIZER, ["a dog barks while a siren wails", "a bell rings"])
    assert (tags.places[0] == -100).all() and tags.overlap[0].max() == 1
    padding = tags.kinds[1] == -100
    assert padding.any() and (tags.overlap[1][padding] == -100).all()


def test_other_text_has_no_tags() -> None:
    with pytest.raises(DataError, match="'hello' is not a caption"):
        token_tags(TOKENIZER, ["hello"])


def test_the_training_lowers_the_loss_on_its_captions(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0)
    encoder = T5EncoderModel(sizes)
    lines: list[str] = []
    loop = LoopConfig(steps=120, learning_rate=1e-2, warmup_steps=5)
    train_text_encoder(encoder, TOKENIZER, tmp_path, lines.append, TextTraining(captions=100, batch_size=16, loop=loop))
    first, last = (float(line.split("loss ")[1].split()[0]) for line in (lines[0], lines[-1]))
    assert last < 0.7 * first


def test_padding_changes_no_loss() -> None:
    torch.manual_seed(0)
    tagger = Tagger(T5EncoderModel(T5Config(vocab_size=512, d_model=32, d_kv=8, d_ff=32, num_layers=1, num_heads=2)))
    text = "a bell rings"
    ids, mask, _ = tokenize(
        TOKENIZER, [text, "first a dog barks, then a siren wails twice and finally steam hisses"], 64
    )
    short = int(mask[0].sum())
    tags = token_tags(TOKENIZER, [text])
    tagger.eval()
    alone, padded = tagger(ids[:1, :short], mask[:1, :short]), tagger(ids[:1], mask[:1])
    assert torch.allclose(
        sum_of_losses(alone, tags), sum_of_losses([part[:, :short] for part in padded], tags), atol=1e-5
    )
