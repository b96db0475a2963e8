"""Studies: a search over settings of a model. A trial is a job, and the workers are its peers."""
