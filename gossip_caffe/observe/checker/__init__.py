"""What the event logs of a run say about each invariant. Pure: a history in, findings out."""
