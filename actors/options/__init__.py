"""Options, declared once: command line, YAML, help and errors follow. Without Ray."""
