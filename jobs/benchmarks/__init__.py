"""Benchmarks, the comparison with the published code, and the chaos test."""
