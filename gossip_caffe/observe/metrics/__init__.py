"""The metrics of a peer: their table, their values, and the HTTP server from which Prometheus reads them."""
