"""The labels that a net accepts, followed from its loss layers back to its sources."""
