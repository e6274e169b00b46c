"""The latest policy over HTTP: the API, the engine behind it, the page, and their deployment on Ray Serve."""
