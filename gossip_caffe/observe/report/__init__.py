"""A run as a page: charts, lifelines, pictures."""
