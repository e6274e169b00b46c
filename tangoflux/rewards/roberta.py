"""RoBERTa's tokenizer, which laion's checkpoints need and do not hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tangoflux.errors import CheckpointError
from tangoflux.rewards.published import TOKENIZER, fetch_roberta_tokenizer


def load_roberta_tokenizer(directory: Path, vocabulary: int) -> Any:
    """The tokenizer in ``directory`` or in its ``tokenizer/``, else the one on the hub or in its local cache.

    Args:
        vocabulary: tokens that the text encoder knows.

    Raises:
        CheckpointError: there is none with that many tokens; the message says where to put it.
    """
    fix = f"put vocab.json and merges.txt of {TOKENIZER} into {directory / 'tokenizer'}"
    places = [place for place in (directory, directory / "tokenizer") if _holds_tokenizer(place)]
    try:
        place = places[0] if places else fetch_roberta_tokenizer()
    except CheckpointError as error:
        raise CheckpointError(f"{error}; {fix}") from error
    return check_vocabulary(_read(place, fix), vocabulary, str(place), fix)


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


def _read(place: Path, fix: str) -> Any:
    from transformers import RobertaTokenizer

    try:
        return RobertaTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"no tokenizer can be read from {place}: {fix}") from error
