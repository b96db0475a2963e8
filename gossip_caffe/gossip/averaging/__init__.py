"""The arithmetic of an exchange: halves of vectors, their bound, and outliers among several."""
