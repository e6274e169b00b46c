"""Checks before a run starts: disk, memory, and placement on nodes."""
