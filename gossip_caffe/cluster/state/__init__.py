"""The folder of a local cluster: its state, lock, sockets and options."""
