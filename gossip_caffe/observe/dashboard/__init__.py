"""A run as a living page: its charts, pushed to browsers as they change."""
