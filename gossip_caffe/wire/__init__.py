"""Messages generated from protos/ at build time; nothing here is written by hand."""
