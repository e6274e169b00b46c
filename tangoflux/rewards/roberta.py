"""The tokenizer of ``roberta-base``, which laion's checkpoints need and do not hold; nothing is downloaded."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tangoflux.errors import CheckpointError

HUB_NAME = "roberta-base"


def load_roberta_tokenizer(directory: Path, vocabulary: int) -> Any:
    """The tokenizer in ``directory``, in its ``tokenizer/``, or that of ``roberta-base`` in the Hugging Face cache.

    Args:
        vocabulary: tokens that the text encoder knows.

    Raises:
        CheckpointError: there is none with that many tokens; the message says where to put it.
    """
    places = [str(place) for place in (directory, directory / "tokenizer") if _holds_tokenizer(place)]
    place = places[0] if places else HUB_NAME
    fix = f"put vocab.json and merges.txt of {HUB_NAME} into {directory / 'tokenizer'}, or run: hf download {HUB_NAME}"
    return check_vocabulary(_read(place, fix), vocabulary, place, fix)


def check_vocabulary(tokenizer: Any, vocabulary: int, place: str, fix: str) -> Any:
    """Returns the tokenizer.

    Raises:
        CheckpointError: it has not ``vocabulary`` tokens; transformers makes an empty one where files are missing.
    """
    if len(tokenizer) != vocabulary:
        raise CheckpointError(f"the tokenizer from {place} has {len(tokenizer)} tokens, not {vocabulary}: {fix}")
    return tokenizer


def _holds_tokenizer(directory: Path) -> bool:
    return any((directory / name).is_file() for name in ("tokenizer.json", "vocab.json"))


def _read(place: str, fix: str) -> Any:
    from transformers import RobertaTokenizer

    try:
        return RobertaTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"no tokenizer can be read from {place}: {fix}") from error
