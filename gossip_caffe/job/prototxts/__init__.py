"""A user's solver and net files: parsing, checks and rewriting."""
