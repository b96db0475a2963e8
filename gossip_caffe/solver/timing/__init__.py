"""The time that each layer of a net takes, measured in a process of its own."""
