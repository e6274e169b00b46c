"""What a run needs of disk, memory and nodes, before it starts."""
