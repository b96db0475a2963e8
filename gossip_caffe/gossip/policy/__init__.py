"""Decisions about exchanges: with which partner, how often, and how long to wait."""
