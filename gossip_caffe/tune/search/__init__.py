"""The search for good parameters: Optuna over a journal in the store."""
