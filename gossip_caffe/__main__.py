"""``python -m gossip_caffe`` is the ``gossip-caffe`` command."""

from gossip_caffe.cli.main import main

if __name__ == "__main__":
    main()
