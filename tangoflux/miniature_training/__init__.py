"""How the small models of the sound world are trained from nothing."""

from tangoflux.miniature_training.clap import train_clap
from tangoflux.miniature_training.detector import train_detector

__all__ = ["train_clap", "train_detector"]
