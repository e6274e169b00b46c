"""The engine: requests as rows of running batches, the policies that step them, and the rewards that rank them."""
