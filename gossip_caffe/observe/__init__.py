"""Records of a run: events, history, status, pictures."""
