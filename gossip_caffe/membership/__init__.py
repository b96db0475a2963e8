"""The store (etcd or in memory), leases, fences and the view of the members."""
