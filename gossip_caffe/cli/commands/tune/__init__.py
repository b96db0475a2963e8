"""``gossip-caffe tune``."""
