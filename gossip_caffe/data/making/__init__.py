"""Databases that are made from pictures and arrays, as Caffe's convert_imageset makes them, and looked at."""
