"""A/B tests of generations: who sees which, what they did, and what that says."""
