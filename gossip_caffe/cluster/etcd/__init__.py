"""The embedded etcd of a local cluster."""
