"""Reading a transformers ClapModel and its inputs' preparation, from its own layout or a checkpoint of laion_clap."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from huggingface_hub.errors import StrictDataclassError
from transformers import AutoTokenizer, ClapConfig

from tangoflux.errors import CheckpointError
from tangoflux.model.checkpoint import fill, load_weights, read_json
from tangoflux.model.log_mel import LogMel, LogMelConfig, Padding
from tangoflux.rewards.laion_checkpoint import LaionCheckpoint, read_laion_checkpoint
from tangoflux.rewards.published import load_roberta_tokenizer

if TYPE_CHECKING:
    from transformers import ClapModel

TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
"""One of them must exist: otherwise transformers creates an empty tokenizer, for which all texts are equal."""

LAION_MAX_TOKENS = 77
"""laion_clap's maximum length of texts."""

LOG_MEL_KEYS = {
    "sample_rate_hz": "sampling_rate",
    "n_fft": "fft_window_size",
    "hop": "hop_length",
    "n_mels": "feature_size",
    "min_hz": "frequency_min",
    "max_hz": "frequency_max",
    "padding": "padding",
}
"""Our names of the keys in ``preprocessor_config.json``."""


@dataclass(frozen=True)
class ClapParts:
    """A model and the preparation of its inputs.

    Attributes:
        model: the ClapModel.
        log_mel: computes its audio features.
        tokenizer: the text encoder's.
        max_tokens: texts are cut to this length.
        fusion: whether its input is four mels per waveform, and whether each is longer than the window.
        quantise: whether waveforms are quantised to 16-bit integers first.
        time_code: dB of the code of time that its features have, see ``with_time_code``; 0: none.
        weights: the file of the weights.
    """

    model: Any
    log_mel: LogMel
    tokenizer: Any
    max_tokens: int
    fusion: bool
    quantise: bool
    weights: Path
    time_code: float = 0.0


def read_directory(directory: Path) -> ClapParts:
    """A directory in transformers' layout.

    Raises:
        CheckpointError: a file is missing, truncated or of another model.
    """
    weights = directory / "model.safetensors"
    log_mel = LogMel(_log_mel_config(directory / "preprocessor_config.json"))
    model: Any = _read_model(directory / "config.json")
    load_weights(model, weights, optional=_buffers(model))
    tokenizer = _load_tokenizer(directory)
    fusion: bool = model.config.audio_config.enable_fusion
    time_code: float = getattr(model.config.audio_config, "time_code", 0.0)
    return ClapParts(model, log_mel, tokenizer, _max_tokens(tokenizer, model), fusion, False, weights, time_code)


def read_laion_file(file: Path) -> ClapParts:
    """A ``.pt`` checkpoint of laion_clap, with the features and tokens of laion_clap.

    Raises:
        CheckpointError: the file is missing, truncated or of another model, or there is no tokenizer.
    """
    laion = read_laion_checkpoint(file)
    model: Any = _empty_model(laion.config(), file)
    fill(model, laion.transformers_state(), str(file), optional=_buffers(model))
    tokenizer = load_roberta_tokenizer(file.parent, laion.vocabulary)
    return ClapParts(model, LogMel(_laion_log_mel(laion)), tokenizer, LAION_MAX_TOKENS, laion.fusion, True, file)


def _read_model(config_file: Path) -> ClapModel:
    values = read_json(config_file)
    try:
        return _empty_model(ClapConfig.from_dict(values), config_file)
    except (StrictDataclassError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{config_file} is not the config of a ClapModel: {error}") from error


def _empty_model(config: ClapConfig, source: Path) -> ClapModel:
    # Takes seconds to import, and a job's driver does not need it.
    from transformers import ClapModel

    audio: Any = config.audio_config
    if audio.enable_fusion and audio.fusion_type not in (None, "aff_2d"):
        raise CheckpointError(f"{source}: fusion type {audio.fusion_type!r} is not supported, only 'aff_2d'")
    return ClapModel(config)


def _load_tokenizer(directory: Path) -> Any:
    if not any((directory / name).is_file() for name in TOKENIZER_FILES):
        raise CheckpointError(f"{directory} has no tokenizer: {' or '.join(TOKENIZER_FILES)} is missing")
    try:
        tokenizer: Any = AutoTokenizer.from_pretrained(str(directory), local_files_only=True)
    except Exception as error:  # the tokenizers library raises nothing more specific
        raise CheckpointError(f"the tokenizer in {directory} cannot be read: {error}") from error
    return tokenizer


def _max_tokens(tokenizer: Any, model: Any) -> int:
    """The tokenizer's maximum, if it has one, limited by the positions, which start after the padding's index."""
    text = model.config.text_config
    positions: int = text.max_position_embeddings - text.pad_token_id - 1
    return min(tokenizer.model_max_length, positions)


def _buffers(model: ClapModel) -> list[str]:
    """Constants such as index tables, which a saved model may or may not include."""
    return [name for name, _ in model.named_buffers() if "running" not in name]


def _log_mel_config(file: Path) -> LogMelConfig:
    values = read_json(file)
    numbers = ["max_length_s", *(key for key in LOG_MEL_KEYS.values() if key != "padding")]
    wrong = [key for key in numbers if not isinstance(values.get(key), int | float)]
    if values.get("padding") not in get_args(Padding):
        wrong.append("padding")
    if wrong:
        raise CheckpointError(
            f"{file} is not the config of a ClapFeatureExtractor: it has no usable {', '.join(wrong)}"
        )
    samples = round(values["max_length_s"] * values["sampling_rate"])
    return LogMelConfig(
        max_samples=samples,
        mel_scale="htk" if values.get("truncation") == "fusion" else "slaney",
        **{ours: values[theirs] for ours, theirs in LOG_MEL_KEYS.items()},
    )


def _laion_log_mel(laion: LaionCheckpoint) -> LogMelConfig:
    """The same in all configurations of laion_clap, except for the mel scale."""
    return LogMelConfig(
        sample_rate_hz=48_000,
        n_fft=1024,
        hop=480,
        n_mels=64,
        min_hz=50.0,
        max_hz=14_000.0,
        max_samples=480_000,
        padding="repeatpad",
        mel_scale="htk" if laion.fusion else "slaney",
    )
