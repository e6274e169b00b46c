"""Text-to-audio by flow matching in plain PyTorch: models, sampling, losses, data formats and reward models."""
