"""The miniature's quality table: is the codec intelligible, and how good are the models that CRPO starts from?"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tangoflux.data.prompts import Prompt
from tangoflux.estimates import mean_and_error
from tangoflux.miniature_training.compositions import heldout_scenes, load_clap, preferences
from tangoflux.model.autoencoder import Autoencoder
from tangoflux.pipeline import TangoFlux
from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward
from tangoflux.rewards.grounder import GrounderReward
from tangoflux.rewards.protocol import Grader, Reward
from tangoflux.rewards.scoring import score
from tangoflux.sampling import sample_latents
from tangoflux.sampling_params import MINIATURE_PARAMS, SamplingParams
from tangoflux.seeding import derive_seed
from tangoflux.soundworld.bank import bank
from tangoflux.soundworld.detector import EventDetector
from tangoflux.soundworld.prompt_kinds import combination
from tangoflux.soundworld.scenes import Scene, Split, random_scene, render

Log = Callable[[str], None]

HELDOUT_SEED = 1234

_CLAPS = ("clap", "judge", "compositional")

_CHUNK = 16


@dataclass(frozen=True)
class Figure:
    """A mean over ``n`` prompts or scenes with its standard error."""

    mean: float
    se: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float] | NDArray[np.float64], clusters: Sequence[str] | None = None) -> Figure:
        """The figure of the finite ones of some values; see ``mean_and_error``."""
        array = np.asarray(values, dtype=np.float64)
        mean, error = mean_and_error(array, clusters)
        return cls(
            math.nan if mean is None else mean, math.nan if error is None else error, int(np.isfinite(array).sum())
        )


def build_quality(directory: Path, prompts: int, log: Log) -> dict[str, Figure]:
    """The figures of a build's models, on ``prompts`` held-out prompts."""
    codec = Autoencoder.load(directory / "decoder")
    base = TangoFlux(TangoFlux.from_pretrained(directory / "policy" / "base").policy, codec)
    detector = EventDetector.load(directory / "detector")
    rewards = {name: ClapReward(directory / folder, name) for name, folder in (("reward", "clap"), ("judge", "judge"))}
    grader = DetectorReward(directory / "detector", "detector")
    rows = codec_figures(base, detector, prompts)
    for name in _CLAPS:
        figures = json.loads((directory / name / "quality.json").read_text())
        share, n = figures["heldout_retrieval_of_5"], figures["heldout_scenes"]
        rows[f"{name}: retrieval among 5 captions"] = Figure(share, (share * (1 - share) / n) ** 0.5, n)
    for split in ("dev", "test"):
        heldout = bank(split, prompts, HELDOUT_SEED)
        alike = [combination(prompt.text) for prompt in heldout]
        scores = policy_scores(base, heldout, rewards, grader, MINIATURE_PARAMS, log)
        rows |= {f"base policy, {split}: {name}": Figure.of(values, alike) for name, values in scores.items()}
    rows |= composition_figures(directory, prompts)
    heldout = bank("dev", prompts, HELDOUT_SEED)
    rows |= agreement(base, heldout, grader, GrounderReward(directory / "grounder", "grounder"), MINIATURE_PARAMS)
    return rows


def agreement(
    model: TangoFlux, prompts: Sequence[Prompt], truth: Grader, grounder: Grader, params: SamplingParams
) -> dict[str, Figure]:
    """For each aspect how often the grounder grades the policy's samples as the detector does."""
    pairs: list[tuple[dict[str, float], dict[str, float]]] = []
    for chunk, waveforms in _samples(model, prompts, params):
        texts = [prompt.text for prompt in chunk]
        grades = (grader.grade(texts, waveforms, model.sample_rate_hz) for grader in (truth, grounder))
        pairs += zip(*grades, strict=True)
    alike = [combination(prompt.text) for prompt in prompts]
    return {
        f"grounder and detector agree on {name}": Figure.of([_agree(*pair, name) for pair in pairs], alike)
        for name in truth.aspects
    }


def _agree(first: Mapping[str, float], second: Mapping[str, float], name: str) -> float:
    one, other = first[name], second[name]
    return math.nan if math.isnan(one) else float(one == other)


def composition_figures(directory: Path, scenes: int) -> dict[str, Figure]:
    """How often each CLAP puts the right caption, or audio, above each kind of wrong one.

    Args:
        directory: has the models' folders, in a build or in the package.
        scenes: number of scenes of each of ``dev`` and ``test``.
    """
    splits: tuple[Split, ...] = ("dev", "test")
    heldout = [heldout_scenes(split, scenes, HELDOUT_SEED) for split in splits]
    rows: dict[str, Figure] = {}
    for name in _CLAPS:
        model, tokenizer = load_clap(directory / name)
        for augmented, suffix in ((False, ""), (True, ", augmented")):
            found = [preferences(model, tokenizer, part, augmented) for part in heldout]
            for wrong in found[0]:
                both = [one for part in found for one in part[wrong]]
                rows[f"{name}: {wrong}{suffix}"] = Figure.of(
                    [float(one.won) for one in both], [one.alike for one in both]
                )
    return rows


def codec_figures(model: TangoFlux, detector: EventDetector, n: int) -> dict[str, Figure]:
    """The detector's exact-scene rate on held-out originals, and on what the codec makes of them."""
    rng = np.random.default_rng(5)
    scenes = [random_scene(rng, "test") for _ in range(n)]
    originals = [render(scene, rng)[None] for scene in scenes]
    decoded = [_through_the_codec(model, waveform) for waveform in originals]
    return {
        "exact on originals": Figure.of(_exact(detector, originals, scenes)),
        "exact on reconstructions": Figure.of(_exact(detector, decoded, scenes)),
    }


def _through_the_codec(model: TangoFlux, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
    with torch.no_grad():
        latents = model.autoencoder.encode(torch.from_numpy(waveform)[None])
    return model.decode([latents[0]], [waveform.shape[1] / model.sample_rate_hz])[0]


def _exact(detector: EventDetector, waveforms: Sequence[Any], scenes: Sequence[Scene]) -> list[float]:
    heard = detector.detect(waveforms, 16_000)
    return [float(content == scene.content) for content, scene in zip(heard, scenes, strict=True)]


def policy_scores(
    model: TangoFlux,
    prompts: Sequence[Prompt],
    rewards: Mapping[str, Reward],
    grader: Grader,
    params: SamplingParams,
    log: Log,
) -> dict[str, NDArray[np.float64]]:
    """One sample of each prompt: its score by every reward, and its aspects; its id alone decides the noise."""
    columns: dict[str, list[float]] = {name: [] for name in (*rewards, *grader.aspects)}
    for chunk, waveforms in _samples(model, prompts, params):
        texts = [prompt.text for prompt in chunk]
        for name, reward in rewards.items():
            columns[name] += score(reward, texts, waveforms, model.sample_rate_hz).tolist()
        for row in grader.grade(texts, waveforms, model.sample_rate_hz):
            for name, value in row.items():
                columns[name].append(value)
        log(f"sampled and scored {len(columns[grader.aspects[0]])} of {len(prompts)} held-out prompts")
    return {name: np.array(values) for name, values in columns.items()}


def _samples(
    model: TangoFlux, prompts: Sequence[Prompt], params: SamplingParams
) -> Iterator[tuple[Sequence[Prompt], list[NDArray[np.float32]]]]:
    for start in range(0, len(prompts), _CHUNK):
        chunk = prompts[start : start + _CHUNK]
        requests = [model.request(p.text, p.duration_s, [derive_seed("quality", p.id)]) for p in chunk]
        groups = sample_latents(model.policy, requests, params)
        yield chunk, model.decode([group[0] for group in groups], [p.duration_s for p in chunk])


def table(rows: Mapping[str, Figure]) -> str:
    """A Markdown table of figures."""
    lines = ["| figure | mean | standard error | n |", "|---|---|---|---|"]
    lines += [f"| {name} | {row.mean:.4f} | {row.se:.4f} | {row.n} |" for name, row in rows.items()]
    return "\n".join(lines) + "\n"


def directory_size(directory: Path) -> int:
    """Bytes of all files below ``directory``."""
    return sum(file.stat().st_size for file in directory.rglob("*") if file.is_file())
