"""The checks of ``gossip-caffe doctor``: this machine, an etcd, and what a job needs here."""
