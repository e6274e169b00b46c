"""Preparing audio for training: a manifest to shards of latents."""
