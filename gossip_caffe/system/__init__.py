"""The operating system: processes, children, shared memory, folders, sockets."""
