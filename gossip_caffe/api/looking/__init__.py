"""Views of a job that follow its changes: its events, and its peers as targets of Prometheus."""
