"""Everything that knows Ray: worker pools, rollout and reward workers, the learner, and the stores between them."""
