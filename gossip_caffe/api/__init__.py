"""The functions and classes of ``import gossip_caffe``. The command line calls the same functions."""
