"""The history of a run: the lives of its peers, what they learned, and what the job went back to."""
