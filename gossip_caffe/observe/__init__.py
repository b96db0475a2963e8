"""What happened: events, history, status, pictures."""
