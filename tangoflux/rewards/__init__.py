"""Reward models: how well waveforms fit their prompts."""

from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward
from tangoflux.rewards.laion import LaionReward
from tangoflux.rewards.protocol import Grader, Reward
from tangoflux.rewards.registry import check_reward, load_reward
from tangoflux.rewards.scoring import best_first, grade, score
from tangoflux.rewards.weighted import WeightedReward, parts_of, recombined, score_parts

__all__ = [
    "ClapReward",
    "DetectorReward",
    "Grader",
    "LaionReward",
    "Reward",
    "WeightedReward",
    "best_first",
    "check_reward",
    "grade",
    "load_reward",
    "parts_of",
    "recombined",
    "score",
    "score_parts",
]
