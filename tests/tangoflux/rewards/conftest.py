"""A CLAP model and a detector with random weights, saved as real ones are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import ClapConfig, ClapModel

from tangoflux.miniature_training.clap_files import feature_extractor, make_tokenizer
from tangoflux.soundworld.detector import DetectorConfig, EventDetector

DROPOUTS = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


@pytest.fixture(scope="session")
def clap_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A ClapModel of about 30k parameters that hears 4 s at 16 kHz, in transformers' layout."""
    directory = tmp_path_factory.mktemp("rewards") / "tiny-clap"
    tokenizer = make_tokenizer(0, captions=50)
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 66,
        **DROPOUTS,
    }
    audio = {
        "spec_size": 128,
        "num_mel_bins": 64,
        "patch_size": 8,
        "patch_stride": [8, 8],
        "window_size": 4,
        "patch_embeds_hidden_size": 8,
        "hidden_size": 16,
        "depths": [1, 1],
        "num_attention_heads": [2, 2],
        "num_hidden_layers": 2,
        "enable_fusion": False,
        **DROPOUTS,
    }
    torch.manual_seed(0)
    sizes = [{**part, "projection_dim": 8} for part in (text, audio)]
    model = ClapModel(ClapConfig(text_config=sizes[0], audio_config=sizes[1], projection_dim=8))
    # As they start, small weights leave all inputs alike: larger ones, and dB brought into the range in which the
    # layers work, tell them apart, as trained ones do.
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    first_layer = model.audio_model.audio_encoder.batch_norm.state_dict()
    first_layer["running_mean"].fill_(-50.0)
    first_layer["running_var"].fill_(900.0)
    model.save_pretrained(directory)
    feature_extractor().save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return directory


@pytest.fixture(scope="session")
def detector_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An EventDetector of a few hundred parameters."""
    directory = tmp_path_factory.mktemp("rewards") / "detector"
    torch.manual_seed(0)
    EventDetector(DetectorConfig(channels=2, width=8, dilations=(1,))).save(directory)
    return directory
