"""AlexNet's iterations a second in PyTorch, eager, float32 without TF32; run by gpu.py with a Python that has torch.

    python _torch_alexnet.py BATCH SECONDS GPU

prints one JSON number. Without torch, or without a GPU that it can use, the exit status is 4.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

WARM_UP = 10
AT_ONCE = 20
"""Iterations between two looks at the clock, each of which waits for the GPU."""


def net_of(torch: Any) -> Any:
    """The layers of _alexnet.py."""
    nn = torch.nn
    return nn.Sequential(
        *(nn.Conv2d(3, 96, 11, stride=4), nn.ReLU(True), nn.LocalResponseNorm(5, 1e-4, 0.75)),
        *(nn.MaxPool2d(3, 2, ceil_mode=True), nn.Conv2d(96, 256, 5, padding=2, groups=2), nn.ReLU(True)),
        *(nn.LocalResponseNorm(5, 1e-4, 0.75), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Conv2d(256, 384, 3, padding=1), nn.ReLU(True)),
        *(nn.Conv2d(384, 384, 3, padding=1, groups=2), nn.ReLU(True)),
        *(nn.Conv2d(384, 256, 3, padding=1, groups=2), nn.ReLU(True), nn.MaxPool2d(3, 2, ceil_mode=True)),
        *(nn.Flatten(), nn.Linear(9216, 4096), nn.ReLU(True), nn.Dropout(0.5)),
        *(nn.Linear(4096, 4096), nn.ReLU(True), nn.Dropout(0.5), nn.Linear(4096, 1000)),
    )


def main() -> int:
    batch, seconds, gpu = int(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
    try:
        import torch  # noqa: PLC0415
    except ImportError:
        return 4
    if torch.cuda.device_count() <= gpu:
        return 4
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    device = torch.device("cuda", gpu)
    net = net_of(torch).to(device)
    solver = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9, weight_decay=0.0005)
    loss_of = torch.nn.CrossEntropyLoss()
    # As a batch of a data loader: in locked memory, copied to the GPU in each iteration.
    data = torch.rand(batch, 3, 227, 227).pin_memory()
    labels = torch.randint(0, 10, (batch,)).pin_memory()

    def steps(count: int) -> None:
        for _ in range(count):
            solver.zero_grad(set_to_none=True)
            loss = loss_of(net(data.to(device, non_blocking=True)), labels.to(device, non_blocking=True))
            loss.backward()
            solver.step()
        torch.cuda.synchronize(device)

    steps(WARM_UP)
    done, began = 0, time.perf_counter()
    while (took := time.perf_counter() - began) < seconds:
        steps(AT_ONCE)
        done += AT_ONCE
    print(json.dumps(done / took), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
