"""The asynchronous twin of ``gossip_caffe``: the same names, for programs that run an event loop.

from gossip_caffe import aio

async with await aio.connect("etcd:2379") as etcd:
print((await etcd.status()).words())
"""

from gossip_caffe.api.checking import check
from gossip_caffe.api.checkpoints import Checkpoint, Checkpoints
from gossip_caffe.api.connection import Connection, connect
from gossip_caffe.api.file_evaluation import evaluate
from gossip_caffe.api.running import Run, start, train

__all__ = ["Checkpoint", "Checkpoints", "Connection", "Run", "check", "connect", "evaluate", "start", "train"]
