"""This code's speed beside the published code's: what `jobs/bench.py` measures. Imports neither Ray nor DeepSpeed."""
