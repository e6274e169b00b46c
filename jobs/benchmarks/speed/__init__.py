"""Speed compared with the published code, for ``jobs/bench.py``. Imports neither Ray nor DeepSpeed."""
