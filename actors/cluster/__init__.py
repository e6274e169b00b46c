"""Ray clusters: joining or starting one, its nodes, and what fits on them."""
