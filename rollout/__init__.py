"""Model swaps: generations, replay, gates, flip and rollback, A/B."""
