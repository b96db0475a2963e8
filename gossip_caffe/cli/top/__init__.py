"""Living views of a job: what is read again and again, and how a terminal or a pipe gets it."""
