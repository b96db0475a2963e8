"""The ways in which a peer gets its weights: joining, founding, resuming, healing, and registering again."""
