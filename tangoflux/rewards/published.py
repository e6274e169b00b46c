"""The published checkpoints of laion_clap by name, fetched from the hub when they are first needed."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import hf_hub_download, snapshot_download

from tangoflux.errors import CheckpointError
from tangoflux.model.hub import HUB_ERRORS

REPOSITORY = "lukewys/laion_clap"
CHECKPOINTS = {
    "630k-audioset-best": "630k-audioset-best.pt",
    "630k-audioset-fusion-best": "630k-audioset-fusion-best.pt",
    "music_speech_audioset_epoch_15": "music_speech_audioset_epoch_15_esc_89.98.pt",
}
"""The paper ranks with the first and evaluates with the second."""

TOKENIZER = "FacebookAI/roberta-base"
TOKENIZER_FILES = ["vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json"]


def fetch_checkpoint(name: str) -> Path:
    """The local file of one of ``CHECKPOINTS``.

    Raises:
        CheckpointError: it is neither in the local cache nor to be had from the hub.
    """
    try:
        return Path(hf_hub_download(REPOSITORY, CHECKPOINTS[name]))
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"{CHECKPOINTS[name]} cannot be had from {REPOSITORY} on the hub ({_first_line(error)}); download it "
            "elsewhere and give the file's path instead of its name"
        ) from error


def fetch_roberta_tokenizer() -> Path:
    """The local directory of RoBERTa's tokenizer, without the model's weights.

    Raises:
        CheckpointError: it is neither in the local cache nor to be had from the hub.
    """
    try:
        return Path(snapshot_download(TOKENIZER, allow_patterns=TOKENIZER_FILES))
    except HUB_ERRORS as error:
        raise CheckpointError(f"the tokenizer {TOKENIZER} cannot be had from the hub: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
