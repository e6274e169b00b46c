"""What stands beside the weights of a sound-world CLAP model: its feature extractor and its tokenizer."""

from __future__ import annotations

import numpy as np
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.processors import RobertaProcessing
from tokenizers.trainers import BpeTrainer
from transformers import ClapFeatureExtractor, PreTrainedTokenizerFast

from tangoflux.model.log_mel import LogMelConfig
from tangoflux.soundworld.captions import caption
from tangoflux.soundworld.scenes import random_scene

_VOCABULARY = 512
_MAX_TOKENS = 64
_SPECIAL = ["<s>", "<pad>", "</s>", "<unk>"]


def feature_extractor() -> ClapFeatureExtractor:
    """The extractor whose features `LogMel` with its default config computes."""
    mel = LogMelConfig()
    return ClapFeatureExtractor(
        feature_size=mel.n_mels,
        sampling_rate=mel.sample_rate_hz,
        hop_length=mel.hop,
        max_length_s=mel.max_samples // mel.sample_rate_hz,
        fft_window_size=mel.n_fft,
        frequency_min=mel.min_hz,
        frequency_max=mel.max_hz,
        truncation="rand_trunc",
        padding=mel.padding,
    )


def make_tokenizer(seed: int, captions: int = 4_000) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer, which any text can be put into, learned from captions of training scenes."""
    rng = np.random.default_rng([seed, 2])
    texts = [caption(random_scene(rng, "train"), rng) for _ in range(captions)]
    tokenizer = Tokenizer(BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=True)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=_VOCABULARY,
        special_tokens=_SPECIAL,
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=True)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<s>",
        cls_token="<s>",
        eos_token="</s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        model_max_length=_MAX_TOKENS,
    )
