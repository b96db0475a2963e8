"""The start of a training: the job of a solver file is read and checked, and its peers run."""
