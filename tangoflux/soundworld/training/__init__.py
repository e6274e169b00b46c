"""How the small models of the sound world are trained from nothing."""

from tangoflux.soundworld.training.clap import train_clap
from tangoflux.soundworld.training.detector import train_detector

__all__ = ["train_clap", "train_detector"]
