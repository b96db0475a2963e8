"""Views of a living job: what a command shows of it, as pure functions of what etcd holds."""
