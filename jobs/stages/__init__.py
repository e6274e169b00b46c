"""What the jobs are made of."""
