"""One worker of an elastic PyTorch job; run by recover.py under torchrun, with a Python that has torch.

Trains LeNet's layers on noise, averages gradients over gloo, and writes the time of each step to FOLDER/RANK.steps,
after a line with its process id whenever it (re)starts.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import torch
from torch import distributed, nn

BATCH = 64


def main() -> None:
    torch.set_num_threads(1)
    began = os.environ["TORCHELASTIC_RESTART_COUNT"]
    # Of its own for each restart: workers that were restarted (torch 2.13) look for the dead ones' addresses else.
    agents = distributed.TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    distributed.init_process_group(
        "gloo",
        store=distributed.PrefixStore(f"restart {began}", agents),
        rank=int(os.environ["RANK"]),
        world_size=int(os.environ["WORLD_SIZE"]),
    )
    net = nn.Sequential(
        *(nn.Conv2d(1, 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2), nn.Flatten()),
        *(nn.Linear(800, 500), nn.ReLU(), nn.Linear(500, 10)),
    )
    model = nn.parallel.DistributedDataParallel(net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    images, labels = torch.randn(BATCH, 1, 28, 28), torch.randint(0, 10, (BATCH,))
    with (Path(sys.argv[1]) / f"{distributed.get_rank()}.steps").open("a", buffering=1) as log:
        log.write(f"pid {os.getpid()}\n")
        while True:
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
            log.write(f"{time.monotonic()}\n")


if __name__ == "__main__":
    main()
