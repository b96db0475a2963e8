"""A job as the user defines it: its spec, its prototxts and its learning rate."""
