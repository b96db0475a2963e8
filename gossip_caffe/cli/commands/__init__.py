"""The commands of gossip-caffe, one file each."""
