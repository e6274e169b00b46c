"""Alignment on preference pairs and on groups of scored rollouts."""
