"""What the benchmarks and the chaos test are made of."""
