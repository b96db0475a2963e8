"""Writes the digits as LMDBs beside this file; run it from the root of the checkout."""

from __future__ import annotations

from pathlib import Path

from gossip_caffe.demo.digits import write_digits

if __name__ == "__main__":
    write_digits(Path(__file__).parent, seed=1)
