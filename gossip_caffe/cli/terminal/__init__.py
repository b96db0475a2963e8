"""Output of commands: tables, progress, standard streams that fail."""
