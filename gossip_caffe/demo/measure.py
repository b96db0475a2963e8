"""Accuracies, each found by plain Caffe in a process of its own: of checkpoints, and of one solver alone."""

from __future__ import annotations
