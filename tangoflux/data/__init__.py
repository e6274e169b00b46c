"""What goes in and out as files: audio, manifests, prompts, rollouts, preference pairs."""
