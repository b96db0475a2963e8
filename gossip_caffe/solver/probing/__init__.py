"""Measurements on a solver of their own, before or beside the training that they are for."""
