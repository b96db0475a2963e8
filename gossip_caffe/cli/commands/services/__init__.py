"""Commands that serve others until they are asked to end."""
