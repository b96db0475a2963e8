"""A local cluster: embedded etcd, supervisor, scale."""
