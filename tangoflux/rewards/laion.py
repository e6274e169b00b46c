"""CLAP as a reward, run by laion_clap itself: the reference for ClapReward, and slower to start."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import constants
from torch import Tensor

from tangoflux.errors import CheckpointError, ConfigError
from tangoflux.model.checkpoint import fill
from tangoflux.rewards.embedding import EmbeddingReward, file_sha256
from tangoflux.rewards.laion_checkpoint import LaionCheckpoint, read_laion_checkpoint
from tangoflux.rewards.published import check_vocabulary

SAMPLE_RATE_HZ = 48_000
WINDOW = 10 * SAMPLE_RATE_HZ
"""Samples; beyond them laion_clap would crop at random."""

MODELS = {96: "HTSAT-tiny", 128: "HTSAT-base", 256: "HTSAT-large"}
"""laion_clap's names of its audio encoders, by the channels of their patch embeddings."""

HUB_NAME = "roberta-base"
"""laion_clap's name for it."""

FIX = f"run: hf download {HUB_NAME}, or put that directory, with config and weights, into the working directory"


class LaionReward(EmbeddingReward):
    """A ``.pt`` checkpoint in laion_clap's own model; it needs the extra ``laion``.

    laion_clap builds its text encoder from ``roberta-base``, in the working directory or the local Hugging Face cache,
    before the checkpoint's weights replace it. Nothing is downloaded, unpickled or random.
    """

    def __init__(self, file: Path, name: str, windows: bool = False) -> None:
        """Loads the model.

        Args:
            windows: whether all windows of long audio are scored instead of the first.

        Raises:
            ConfigError: laion_clap is not installed.
            CheckpointError: the file or ``roberta-base`` is missing, truncated or of another model.
        """
        check_laion_installed()
        super().__init__(name, "", SAMPLE_RATE_HZ, WINDOW, windows)
        checkpoint = read_laion_checkpoint(file)
        self._module = _module(checkpoint, file)
        check_vocabulary(self._module.tokenize, checkpoint.vocabulary, HUB_NAME, FIX)
        # transformers has computed these constants itself since 4.31.
        state = {key: value for key, value in checkpoint.state.items() if not key.endswith(".position_ids")}
        fill(self._module.model, state, str(file))
        self._module.eval().requires_grad_(False)
        self.checkpoint = file_sha256(file)[:16]

    def to(self, device: torch.device | str) -> LaionReward:
        """Moves the model and returns self."""
        self._module.to(device)
        return self

    def _encode_text(self, texts: list[str]) -> Tensor:
        return self._module.get_text_embedding(texts, use_tensor=True)

    def _encode_audio(self, windows: list[Tensor]) -> Tensor:
        return torch.from_numpy(self._module.get_audio_embedding_from_data([window.numpy() for window in windows]))


def check_laion_installed() -> None:
    """Checks that laion_clap is installed, without importing it.

    Raises:
        ConfigError: it is not installed.
    """
    if importlib.util.find_spec("laion_clap") is None:
        raise ConfigError(
            "the backend laion needs laion_clap, which is not installed: pip install 'tangoflux[laion]' "
            "(Python below 3.13), or leave out 'laion:'"
        )


def _module(checkpoint: LaionCheckpoint, file: Path) -> Any:
    if checkpoint.audio_width not in MODELS:
        raise CheckpointError(f"{file}: laion_clap has no HTSAT of width {checkpoint.audio_width}, only {MODELS}")
    try:
        with _offline():
            # By name, since it cannot be installed everywhere; here, since it imports much and builds tokenizers.
            module = importlib.import_module("laion_clap").CLAP_Module
            amodel = MODELS[checkpoint.audio_width]
            return module(enable_fusion=checkpoint.fusion, device="cpu", amodel=amodel, tmodel="roberta")
    except ImportError as error:
        raise ConfigError(f"laion_clap cannot be imported: {error}; pip install 'tangoflux[laion]'") from error
    except (OSError, ValueError) as error:
        raise CheckpointError(f"laion_clap cannot build its text encoder from {HUB_NAME}: {FIX}") from error


@contextmanager
def _offline() -> Generator[None]:
    """Keeps laion_clap off the hub, from which it requests three tokenizers, with minutes of retries if offline."""
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
