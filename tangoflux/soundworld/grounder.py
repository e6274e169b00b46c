"""The grounder: for each kind of sound whether it is heard, how often, and from when to when.

It is another model than the event detector, so that the one may be a reward and the other stay the truth: kinds are
queries that look at the whole clip (as in DETR, arXiv 2005.12872), where the detector classifies every frame.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from tangoflux.errors import CheckpointError
from tangoflux.model.checkpoint import load_weights, read_json, write_weights
from tangoflux.model.log_mel import LogMel, LogMelConfig
from tangoflux.soundworld.activity import FRAMES, Segment
from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import SceneContent

MOST_UNITS = 4
"""The largest count that is told apart: this many or more."""

_PATCH = 4  # log-mel frames
_RANGE_DB = 60.0  # anything further below the loudest band counts as silence
_SILENCE_DB = -60.0  # a clip whose loudest band is below this is silent
_ORDER_SCALE = 0.05  # of a clip: centres that are so far apart are clearly in order
_BATCH = 32


@dataclass(frozen=True)
class GrounderConfig:
    """The grounder's sizes."""

    width: int = 96
    heads: int = 4
    encoder_layers: int = 3
    decoder_layers: int = 2


class Grounding(NamedTuple):
    """What is heard of each kind in B clips.

    Attributes:
        present: (B, kinds) logits.
        counts: (B, kinds, MOST_UNITS) logits of 1, 2, 3 and 4 or more units.
        spans: (B, kinds, 2) first and last moment, as shares of the longest clip, from 0 to 1.
    """

    present: Tensor
    counts: Tensor
    spans: Tensor


class Grounder(nn.Module):
    """Patches of log-mel frames through a transformer, which a query for each kind then looks at."""

    def __init__(self, config: GrounderConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or GrounderConfig()
        self.log_mel = LogMel(LogMelConfig())
        width, mel = config.width, self.log_mel.config
        patches = -(-(mel.max_samples // mel.hop + 1) // _PATCH)
        layer: dict[str, Any] = {
            **{"d_model": width, "nhead": config.heads, "dim_feedforward": 3 * width, "dropout": 0.0},
            **{"activation": "gelu", "batch_first": True, "norm_first": True},
        }
        self.patch = nn.Linear(_PATCH * mel.n_mels, width)
        self.positions = nn.Parameter(0.02 * torch.randn(patches, width))
        self.queries = nn.Parameter(0.02 * torch.randn(len(KINDS), width))
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(**layer), config.encoder_layers, enable_nested_tensor=False
        )
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(**layer), config.decoder_layers)
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, 1 + MOST_UNITS + 2))

    def forward(self, log_mel: Tensor) -> Grounding:
        """From log-mel frames (B, 251, 64) in dB; the clip's loudness has no effect."""
        loudest = log_mel.amax((1, 2), keepdim=True).clamp(min=_SILENCE_DB)
        image = ((log_mel - loudest) / _RANGE_DB).clamp(min=-1.0) + 0.5
        padded = nn.functional.pad(image, (0, 0, 0, -image.shape[1] % _PATCH), value=-0.5)
        patches = self.patch(padded.unflatten(1, (-1, _PATCH)).flatten(2)) + self.positions
        heard = self.decoder(self.queries.expand(len(log_mel), -1, -1), self.encoder(patches))
        present, counts, spans = self.head(heard).split([1, MOST_UNITS, 2], dim=-1)
        return Grounding(present.squeeze(-1), counts, spans.sigmoid())

    @torch.no_grad()
    def ground(self, waveforms: Sequence[NDArray[np.float32]], sample_rate_hz: int) -> Grounding:
        """The grounding of waveforms, (samples,) or (channels, samples) each, of which the first 4 s are used."""
        prepared = [self.log_mel.prepare(waveform, sample_rate_hz) for waveform in waveforms]
        parts = [
            self(self.log_mel(torch.stack(prepared[start : start + _BATCH])))
            for start in range(0, len(prepared), _BATCH)
        ]
        return Grounding(*(torch.cat(column).float() for column in zip(*parts, strict=True)))

    def save(self, directory: Path) -> None:
        """Write `config.json` and the weights in half precision to a directory."""
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "config.json").write_text(json.dumps(asdict(self.config), indent=2) + "\n")
        write_weights(
            {name: value.half().contiguous() for name, value in self.state_dict().items()},
            directory / "model.safetensors",
        )

    @classmethod
    def load(cls, directory: Path) -> Grounder:
        """A grounder that `save` wrote, in float32 and evaluation mode.

        Raises:
            CheckpointError: a file is missing, truncated or of another model.
        """
        file = directory / "config.json"
        try:
            grounder = cls(GrounderConfig(**read_json(file)))
        except TypeError as error:
            raise CheckpointError(f"{file} is not the config of a grounder: {error}") from error
        load_weights(grounder, directory / "model.safetensors")
        return grounder.eval()


def named_scores(wanted: SceneContent, grounding: Grounding, row: int) -> list[float]:
    """The probability that it is there, of each named kind."""
    present = _present(grounding, row)
    return [present[kind] for kind in sorted(set(wanted.kinds))]


def check_scores(wanted: SceneContent, grounding: Grounding, row: int) -> list[float]:
    """The probability of each check of a caption, so that partly right beats wrong.

    The checks are: each named kind is there; no other is; each has its count; consecutive events are in order; they
    sound apart or together as named. What is asked of a kind that is not there does not hold.
    """
    present = _present(grounding, row)
    counts = dict(zip(KINDS, grounding.counts[row].softmax(dim=-1).tolist(), strict=True))
    spans = dict(zip(KINDS, grounding.spans[row].tolist(), strict=True))
    checks = named_scores(wanted, grounding, row)
    checks.append(1 - max(present[kind] for kind in KINDS if kind not in wanted.kinds))
    checks += [present[event.kind] * counts[event.kind][event.count - 1] for event in wanted.events]
    for first, second in zip(wanted.kinds, wanted.kinds[1:], strict=False):
        both, shared = present[first] * present[second], _shared(spans[first], spans[second])
        checks.append(both * (shared if wanted.overlap else 1 - shared))
        if not wanted.overlap:
            checks.append(both * _before(spans[first], spans[second]))
    return checks


def _present(grounding: Grounding, row: int) -> dict[str, float]:
    return dict(zip(KINDS, grounding.present[row].sigmoid().tolist(), strict=True))


def heard_units(grounding: Grounding, row: int) -> dict[str, list[Segment]]:
    """The kinds that are more likely heard than not, each as its likeliest count of equal units in its span."""
    heard: dict[str, list[Segment]] = {}
    for column in (grounding.present[row] > 0).nonzero().flatten().tolist():
        count = int(grounding.counts[row, column].argmax()) + 1
        start, end = (grounding.spans[row, column] * FRAMES).tolist()
        edges = np.linspace(start, max(end, start + 2 * count), 2 * count)
        units = zip(edges[::2].round().tolist(), edges[1::2].round().tolist(), strict=True)
        heard[KINDS[column]] = [(int(first), max(int(last), int(first) + 1)) for first, last in units]
    return heard


def _shared(first: Sequence[float], second: Sequence[float]) -> float:
    """How much of the shorter span is in the other one, from 0 to 1."""
    shorter = min(first[1] - first[0], second[1] - second[0])
    common = min(first[1], second[1]) - max(first[0], second[0])
    return min(max(common, 0.0) / shorter, 1.0) if shorter > 0 else 0.0


def _before(first: Sequence[float], second: Sequence[float]) -> float:
    """How clearly the first span's centre is before the second's, from 0 to 1."""
    distance = (sum(second) - sum(first)) / 2
    return 1 / (1 + math.exp(-distance / _ORDER_SCALE))
