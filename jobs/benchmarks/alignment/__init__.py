"""What alignment is worth: objectives on the same rollouts, and the best of N before and after."""
