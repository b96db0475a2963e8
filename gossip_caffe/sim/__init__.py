"""Whole jobs on virtual time: the same agents and the same engines, a network and a store in memory, one process."""
