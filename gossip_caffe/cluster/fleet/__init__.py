"""The peer processes of a local cluster: their start, their signals, and their messages to the supervisor."""
