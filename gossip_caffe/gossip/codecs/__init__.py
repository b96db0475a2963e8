"""Messages, and how weights are written in them."""
