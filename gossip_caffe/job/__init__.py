"""What is trained: the job's spec, its prototxts, its learning rate."""
