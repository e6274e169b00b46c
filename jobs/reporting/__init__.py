"""Output of jobs: terminal display, tables, trackers, audio samples and HTML reports."""
