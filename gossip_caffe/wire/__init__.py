"""The protobuf messages, generated from protos/ at build time."""
