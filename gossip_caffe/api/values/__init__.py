"""The values that the API returns, and how they show themselves in a notebook."""
