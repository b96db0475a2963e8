"""Whole studies on virtual time, with workers that are killed."""
