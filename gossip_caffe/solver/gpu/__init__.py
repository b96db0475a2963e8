"""The GPUs of this machine: the choice of one, and their memory."""
