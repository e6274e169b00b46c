"""The learner: Ray Train starts the ranks, which train with DeepSpeed."""
