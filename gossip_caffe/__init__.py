"""gossip-caffe: elastic, masterless training of Caffe models."""

__version__ = "0.1.0"
