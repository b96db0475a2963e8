"""The study file, its space of parameters, and the job of each trial."""
