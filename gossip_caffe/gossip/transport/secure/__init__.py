"""Connections with certificates: who calls, and whether the caller may."""
