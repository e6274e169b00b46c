"""The models, the published directory layout, and reading and writing weights."""
