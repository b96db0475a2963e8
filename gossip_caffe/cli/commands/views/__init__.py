"""Commands that show what a job does, and its logs."""
