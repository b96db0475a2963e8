"""The supervisor of a local cluster and the commands that it takes."""
