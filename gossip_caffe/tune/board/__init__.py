"""The records of a study in the store: trials, claims, results."""
