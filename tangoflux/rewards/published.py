"""The published files of laion_clap: its checkpoints by name, and RoBERTa's tokenizer, which they need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import hf_hub_download, snapshot_download

from tangoflux.errors import CheckpointError
from tangoflux.model.checkpoint import HUB_ERRORS

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
    """The local file of one of ``CHECKPOINTS``, downloaded on first use.

    Raises:
        CheckpointError: it is not in the local cache, and the download failed.
    """
    try:
        return Path(hf_hub_download(REPOSITORY, CHECKPOINTS[name]))
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"{CHECKPOINTS[name]} cannot be downloaded from {REPOSITORY} on the hub ({_first_line(error)}); download "
            "it elsewhere and give the file's path instead of its name"
        ) from error


def fetch_roberta_tokenizer() -> Path:
    """The local directory of RoBERTa's tokenizer, without the model's weights.

    Raises:
        CheckpointError: it is not in the local cache, and the download failed.
    """
    try:
        return Path(snapshot_download(TOKENIZER, allow_patterns=TOKENIZER_FILES))
    except HUB_ERRORS as error:
        raise CheckpointError(
            f"the tokenizer {TOKENIZER} cannot be downloaded from the hub: {_first_line(error)}"
        ) from error


def load_roberta_tokenizer(directory: Path, vocabulary: int) -> Any:
    """The tokenizer in ``directory`` or ``directory/tokenizer``, else the one on the hub or in its local cache.

    Args:
        vocabulary: the text encoder's number of tokens.

    Raises:
        CheckpointError: there is no tokenizer of that size; the message says where to put one.
    """
    fix = f"put vocab.json and merges.txt of {TOKENIZER} into {directory / 'tokenizer'}"
    local = [folder for folder in (directory, directory / "tokenizer") if _has_tokenizer(folder)]
    try:
        source = local[0] if local else fetch_roberta_tokenizer()
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {fix}") from error
    return check_vocabulary(_read_tokenizer(source, fix), vocabulary, str(source), fix)


def check_vocabulary(tokenizer: Any, vocabulary: int, source: str, fix: str) -> Any:
    """Returns the tokenizer if it has ``vocabulary`` tokens.

    Raises:
        CheckpointError: it has not; transformers builds an empty one where files are missing.
    """
    if len(tokenizer) != vocabulary:
        raise CheckpointError(f"the tokenizer from {source} has {len(tokenizer)} tokens, not {vocabulary}: {fix}")
    return tokenizer


def _has_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _read_tokenizer(directory: Path, fix: str) -> Any:
    from transformers import RobertaTokenizer

    try:
        return RobertaTokenizer.from_pretrained(directory, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"no tokenizer can be read from {directory}: {fix}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
