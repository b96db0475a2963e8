"""The faults of a simulation: data, drawn from a seed."""
