"""What the actors of the pools do: sample, score, write, encode."""
