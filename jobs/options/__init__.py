"""The options of each job."""
