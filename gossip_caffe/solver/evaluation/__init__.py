"""The TEST phase of nets on given weights, in a process of its own."""
