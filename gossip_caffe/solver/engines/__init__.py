"""The engines of the solver process: Caffe, or NumPy for tests."""
