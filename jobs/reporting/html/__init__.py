"""The HTML reports of CRPO runs and of pretraining: one file each, which opens from disk without a network."""
