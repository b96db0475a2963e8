"""The simulator: whole jobs on virtual time in one process.

The agents and the engines are the real ones; the network and the store are in memory.
"""
