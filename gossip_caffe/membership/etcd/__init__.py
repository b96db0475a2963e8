"""The store: its Protocol, its client for etcd, and its in-memory twin."""
