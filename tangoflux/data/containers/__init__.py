"""Where audio files end: files that were cut off, and headers without a length, or with a wrong one."""
