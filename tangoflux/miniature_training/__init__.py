"""How the small models of the sound world are trained from nothing."""

from tangoflux.miniature_training.clap import train_clap
from tangoflux.miniature_training.detector import train_detector
from tangoflux.miniature_training.grounder import train_grounder

__all__ = ["train_clap", "train_detector", "train_grounder"]
