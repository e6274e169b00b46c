"""Training of the CLAP models: two reward models, and the judge against which nothing is ever trained.

The compositional one differs from the plain reward model in that it can tell earlier from later: its features have a
code of the time, as its encoder's windows have no absolute positions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from transformers import ClapConfig, ClapModel, PreTrainedTokenizerFast

from tangoflux.miniature_training.clap_files import feature_extractor, make_tokenizer
from tangoflux.miniature_training.data import Log, RenderedScenes, augment, rendered_scenes
from tangoflux.miniature_training.loop import LoopConfig, run_loop
from tangoflux.model.log_mel import with_time_code
from tangoflux.seeding import derive_seed, seeded_generator
from tangoflux.soundworld.captions import caption, corrupt, possible_corruptions
from tangoflux.soundworld.events import KINDS
from tangoflux.soundworld.scenes import SceneContent
from tangoflux.soundworld.slots import SLOT_LOGITS, slot_loss, slot_targets, split_logits

Role = Literal["reward", "judge", "compositional"]

_PROJECTION = 128
_HARD_NEGATIVES = 4
_AUXILIARY_WEIGHT = 0.5
_PADDED_FRAMES = 128
_EMBEDDING_SCALE = 10.0  # an embedding has norm 1; the auxiliary head wants more


@dataclass(frozen=True)
class ClapTraining:
    """Sizes of a model and its training; the roles differ in seed, scenes and architecture.

    The scenes are of all combinations, as a CLAP model has heard far more than the policies that it ranks. The split
    concerns what the policy learns from.
    """

    seed: int
    audio_width: int
    audio_depths: tuple[int, ...]
    patch_size: int
    text_width: int
    text_layers: int
    time_code: float = 0.0
    scenes: int = 12_000
    heldout_scenes: int = 400
    batch_size: int = 64
    negatives: int = 3
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(steps=1200, learning_rate=1.5e-3, warmup_steps=60))

    def model_config(self, vocab_size: int) -> ClapConfig:
        """The model's config in transformers' terms."""
        text = {
            "vocab_size": vocab_size,
            "hidden_size": self.text_width,
            "num_hidden_layers": self.text_layers,
            "num_attention_heads": 4,
            "intermediate_size": 3 * self.text_width,
            "max_position_embeddings": 66,
            "hidden_dropout_prob": 0.0,
            "attention_probs_dropout_prob": 0.0,
            "projection_dim": _PROJECTION,
        }
        audio = {
            "spec_size": 128,
            "num_mel_bins": 64,
            "patch_size": self.patch_size,
            "patch_stride": [8, 8],
            "window_size": 8,
            "patch_embeds_hidden_size": self.audio_width,
            "hidden_size": 2 * self.audio_width,
            "depths": list(self.audio_depths),
            "num_attention_heads": [4, 8],
            "num_hidden_layers": len(self.audio_depths),
            "enable_fusion": False,
            "hidden_dropout_prob": 0.0,
            "projection_dim": _PROJECTION,
            "time_code": self.time_code,
        }
        return ClapConfig(text_config=text, audio_config=audio, projection_dim=_PROJECTION)


TRAININGS: dict[Role, ClapTraining] = {
    "reward": ClapTraining(seed=101, audio_width=64, audio_depths=(2, 2), patch_size=8, text_width=96, text_layers=2),
    "judge": ClapTraining(seed=202, audio_width=56, audio_depths=(2, 3), patch_size=12, text_width=80, text_layers=3),
    "compositional": ClapTraining(
        seed=303,
        audio_width=64,
        audio_depths=(2, 2),
        patch_size=8,
        text_width=96,
        text_layers=2,
        time_code=30.0,
        loop=LoopConfig(steps=1800, learning_rate=1.5e-3, warmup_steps=60),
    ),
}


class _ClapWithHead(nn.Module):
    """A CLAP model with two heads that only the training uses.

    One reads the scene from either side's embedding; the other reads from the audio encoder's last map which kinds
    are heard, and which begin, in each sixteenth of the clip.
    """

    def __init__(self, config: ClapConfig) -> None:
        super().__init__()
        self.clap = ClapModel(config)
        self.head = nn.Linear(_PROJECTION, SLOT_LOGITS)
        audio_config: Any = self.clap.config.audio_config
        self.map_head = nn.Linear(audio_config.hidden_size, 2 * len(KINDS))

    def loss(
        self, features: Tensor, texts: dict[str, Tensor], contents: Sequence[SceneContent], activity: Tensor
    ) -> Tensor:
        """Symmetric InfoNCE, plus the losses of the heads.

        Args:
            features: (B, 251, 64) log-mel frames of the first B contents.
            texts: token ids and mask (B * (1 + negatives), L) of captions of all contents.
            contents: of the captions; those after the first B are hard negatives.
            activity: (B, 126, kinds) of 0 and 1.
        """
        encoded = _encode_audio(self.clap, features)
        audio, heard = encoded.pooler_output, self.map_head(encoded.last_hidden_state.mean(2).transpose(1, 2))
        text = text_embeddings(self.clap, texts)
        contrast = _contrast(audio, text, contents, self.clap.logit_scale_a.exp().clamp(max=100.0))
        head = self.head(_EMBEDDING_SCALE * torch.cat((audio, text)))
        targets = slot_targets([*contents[: len(audio)], *contents])
        return contrast + _AUXILIARY_WEIGHT * (slot_loss(split_logits(head), targets) + _map_loss(heard, activity))


def _map_loss(logits: Tensor, activity: Tensor) -> Tensor:
    """How badly logits (B, cells, 2 * kinds) tell the activity (B, 126, kinds) and the onsets in each cell of time."""
    onsets = nn.functional.pad(activity.diff(dim=1).clamp(min=0.0), (0, 0, 1, 0))
    onsets[:, 0] = activity[:, 0]
    frames = nn.functional.pad(torch.cat((activity, onsets), dim=-1), (0, 0, 0, _PADDED_FRAMES - activity.shape[1]))
    cells = frames.unflatten(1, (logits.shape[1], -1))
    kinds = activity.shape[-1]
    targets = torch.cat((cells[..., :kinds].mean(2), cells[..., kinds:].amax(2)), dim=-1)
    return kinds * nn.functional.binary_cross_entropy_with_logits(logits, targets)


def audio_embeddings(model: ClapModel, features: Tensor) -> Tensor:
    """Unit vectors (B, d) of log-mel frames (B, frames, mels)."""
    return _encode_audio(model, features).pooler_output


def _encode_audio(model: ClapModel, features: Tensor) -> Any:
    config: Any = model.config.audio_config
    coded = with_time_code(features, getattr(config, "time_code", 0.0))
    return model.get_audio_features(input_features=coded[:, None])


def text_embeddings(model: ClapModel, texts: dict[str, Tensor]) -> Tensor:
    """Unit vectors (B, d) of tokenised texts."""
    encoded: Any = model.get_text_features(input_ids=texts["input_ids"], attention_mask=texts["attention_mask"])
    return encoded.pooler_output


def _contrast(audio: Tensor, text: Tensor, contents: Sequence[SceneContent], scale: Tensor) -> Tensor:
    """InfoNCE in both directions; another caption of the same content is neither right nor wrong."""
    batch = len(audio)
    numbers: dict[SceneContent, int] = {}
    ids = torch.tensor([numbers.setdefault(content, len(numbers)) for content in contents])
    same = (ids[:batch, None] == ids[None, :]) & ~torch.eye(batch, len(ids), dtype=torch.bool)
    logits = (scale * audio @ text.T).masked_fill(same, -1e4)
    target = torch.arange(batch)
    per_audio = nn.functional.cross_entropy(logits, target)
    return 0.5 * (per_audio + nn.functional.cross_entropy(logits[:, :batch].T, target))


def hard_negatives(content: SceneContent, n: int, rng: np.random.Generator) -> list[SceneContent]:
    """`n` different contents that each differ from the given one in one respect."""
    found: list[SceneContent] = []
    ways = possible_corruptions(content)
    while len(found) < n:
        wrong = corrupt(content, ways[int(rng.integers(len(ways)))], rng)
        if wrong not in found:
            found.append(wrong)
    return found


def train_clap(
    output_dir: Path,
    cache_dir: Path,
    role: Role,
    log: Log,
    steps: int | None = None,
    config: ClapTraining | None = None,
) -> dict[str, float]:
    """Train a CLAP model on one thread and write it to `output_dir` in transformers' layout.

    Args:
        output_dir: gets the config, half-precision weights, feature extractor, tokenizer and `quality.json`.
        cache_dir: keeps the rendered scenes and the state from which an interrupted training resumes.
        role: which of the models.
        log: takes a progress line.
        steps: instead of the configured number.
        config: instead of the role's default.

    Returns:
        The held-out figures that are in `quality.json`.
    """
    config = config or TRAININGS[role]
    torch.set_num_threads(1)
    scenes = rendered_scenes("all", config.scenes, config.seed, cache_dir, log)
    heldout = rendered_scenes("dev", config.heldout_scenes, config.seed, cache_dir, log)
    tokenizer = make_tokenizer(config.seed)
    torch.manual_seed(config.seed)
    model = _ClapWithHead(config.model_config(len(tokenizer)))

    def loss_of_step(step: int) -> Tensor:
        rng = np.random.default_rng([config.seed, step])
        rows = rng.integers(config.scenes, size=config.batch_size)
        drawn, log_mel, frames = scenes.select(rows)
        contents = [scene.content for scene in drawn]
        contents += [wrong for content in contents for wrong in hard_negatives(content, config.negatives, rng)]
        texts = tokenise(tokenizer, [caption(content, rng) for content in contents])
        heard = torch.from_numpy(scenes.activity[rows]).float()
        return model.loss(augment(log_mel, frames, seeded_generator(config.seed, step)), texts, contents, heard)

    loop = replace(config.loop, steps=steps or config.loop.steps)
    run_loop(model, loss_of_step, loop, cache_dir / f"clap-{role}.pt", log)
    model.clap.half().save_pretrained(output_dir)
    feature_extractor().save_pretrained(output_dir)
    tokenizer.save_pretrained(output_dir)
    saved: Any = ClapModel.from_pretrained(output_dir, dtype=torch.float32)
    quality = clap_quality(saved.eval(), tokenizer, heldout)
    (output_dir / "quality.json").write_text(json.dumps(quality, indent=2) + "\n")
    log(f"clap {role}: {quality}")
    return quality


def tokenise(tokenizer: PreTrainedTokenizerFast, texts: Sequence[str]) -> dict[str, Tensor]:
    """Token ids and mask (B, L), cut to the tokenizer's maximum."""
    batch = tokenizer(list(texts), padding=True, truncation=True, return_tensors="pt")
    return {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}


@torch.no_grad()
def clap_quality(model: ClapModel, tokenizer: PreTrainedTokenizerFast, heldout: RenderedScenes) -> dict[str, float]:
    """How often the right caption beats four hard negatives, and how far it is above them, on held-out scenes."""
    rng = np.random.default_rng(derive_seed("clap quality"))
    n = len(heldout.scenes)
    scores: list[Tensor] = []
    for start in range(0, n, 50):
        scenes, log_mel, frames = heldout.select(np.arange(start, min(n, start + 50)))
        contents = [[scene.content, *hard_negatives(scene.content, _HARD_NEGATIVES, rng)] for scene in scenes]
        texts = tokenise(tokenizer, [caption(content, rng) for row in contents for content in row])
        text = text_embeddings(model, texts).unflatten(0, (len(scenes), -1))
        changed = augment(log_mel, frames, seeded_generator(derive_seed("clap quality", start)))
        audio = torch.stack((audio_embeddings(model, log_mel), audio_embeddings(model, changed)))
        scores.append(torch.einsum("abd,bcd->abc", audio, text))
    score = torch.cat(scores, dim=1)
    right = (score.argmax(-1) == 0).float().mean(-1)
    return {
        "heldout_retrieval_of_5": float(right[0]),
        "heldout_retrieval_of_5_augmented": float(right[1]),
        "heldout_score": float(score[0, :, 0].mean()),
        "heldout_score_of_negatives": float(score[0, :, 1:].mean()),
        "heldout_scenes": n,
    }
