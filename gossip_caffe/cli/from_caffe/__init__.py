"""The commands and words of Caffe's own tools: test, time, device_query, and a translation of their flags."""
