"""Reward models: how well waveforms fit their prompts."""

from tangoflux.rewards.clap import ClapReward
from tangoflux.rewards.detector import DetectorReward
from tangoflux.rewards.protocol import Reward
from tangoflux.rewards.registry import check_reward, load_reward

__all__ = ["ClapReward", "DetectorReward", "Reward", "check_reward", "load_reward"]
