"""A run for other programs: as the log of Caffe, and as event files for TensorBoard."""
