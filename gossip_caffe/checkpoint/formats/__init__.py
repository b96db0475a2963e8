"""Caffe's file formats for weights, written and read byte for byte."""
