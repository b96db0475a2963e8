"""A peer: the agent that connects joining, work, sharing and checkpoints into one lifecycle."""
