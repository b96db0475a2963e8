"""Trials of a net in a child process before anything is made, and their one-line errors."""
