"""What people see: the terminal's display, reports, charts, audio, trackers."""
