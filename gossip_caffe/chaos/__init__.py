"""Chaos runs: a schedule of faults (kills, partitions …) is injected into a local cluster; the result is checked."""
