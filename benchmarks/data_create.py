"""How fast ``data create`` makes an LMDB of pictures, beside the loop of Caffe's convert_imageset on one core.

    python benchmarks/data_create.py [--pictures 60000] [--size 128] [--repeats 3] [--jobs 2]

The loop reads, decodes and resizes each picture with OpenCV and puts its Datum, in transactions of 1000, as
tools/convert_imageset.cpp does. Both write the same records, by turns in one run; the databases are compared. Then a
run is killed half-way, and the same command goes on. docs/internals/benchmarks.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import lmdb
import numpy as np

from gossip_caffe.data.making.databases import LmdbWriter, records_of
from gossip_caffe.wire import caffe_wire_pb2 as wire

NEW_SIZE = 48
RECORDS = 1000


def write_pictures(folder: Path, count: int, size: int) -> None:
    """Write JPEGs of blurred noise, which is about as hard to decode as photographs are, and their list."""
    rng = np.random.default_rng(5)
    lines = []
    kinds = [cv2.resize(rng.integers(0, 256, (9, 9, 3), dtype=np.uint8), (size, size)) for _ in range(64)]
    grain = rng.integers(0, 24, (size, size, 3), dtype=np.uint8)
    files = [cv2.imencode(".jpg", cv2.add(kind, grain))[1].tobytes() for kind in kinds]
    for number in range(count):
        name = f"{number // RECORDS:03d}/{number:06d}.jpg"
        path = folder / "pictures" / name
        if not number % RECORDS:
            path.parent.mkdir(parents=True)
        path.write_bytes(files[number % len(files)])
        lines.append(f"{name} {number % 10}")
    (folder / "list.txt").write_text("\n".join(lines) + "\n")


def caffes_loop(folder: Path, target: Path) -> float:
    """Decode and put, one picture after the other. Returns the seconds."""
    began = time.monotonic()
    environment = lmdb.open(str(target), map_size=1 << 40)
    pending: list[tuple[bytes, bytes]] = []

    def commit() -> None:
        with environment.begin(write=True) as transaction:
            for key, value in pending:
                transaction.put(key, value)
        pending.clear()

    for number, line in enumerate((folder / "list.txt").read_text().splitlines()):
        name, _, label = line.rpartition(" ")
        image = cv2.imread(f"{folder}/pictures/{name}", cv2.IMREAD_COLOR)
        image = cv2.resize(image, (NEW_SIZE, NEW_SIZE))
        height, width, channels = image.shape
        datum = wire.Datum(channels=channels, height=height, width=width, label=int(label), encoded=False)
        datum.data = image.transpose(2, 0, 1).tobytes()
        pending.append((f"{number:08d}_{name}".encode(), datum.SerializeToString()))
        if len(pending) == RECORDS:
            commit()
    commit()
    environment.close()
    return time.monotonic() - began


def command(folder: Path, target: Path, jobs: int) -> list[str]:
    words = ["data", "create", str(target), str(folder / "list.txt"), "--root", f"{folder}/pictures/"]
    words += ["--resize-height", str(NEW_SIZE), "--resize-width", str(NEW_SIZE), "--jobs", str(jobs)]
    return [sys.executable, "-m", "gossip_caffe", *words]


def ours(folder: Path, target: Path, jobs: int) -> float:
    """Run the command, with its start. Returns the seconds."""
    began = time.monotonic()
    subprocess.run(command(folder, target, jobs), check=True, stdout=subprocess.DEVNULL)
    return time.monotonic() - began


def killed_half_way(folder: Path, target: Path, jobs: int, count: int) -> int:
    """Kill a run when half of the records are written, and let the same command finish. Returns those kept."""
    part = target.with_name(f"{target.name}.part")
    process = subprocess.Popen(command(folder, target, jobs), stdout=subprocess.DEVNULL)
    while process.poll() is None and _written(part) < count // 2:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if target.exists():
        raise SystemExit("the run was over before it was killed")
    writer = LmdbWriter(part)
    kept = writer.count()
    writer.close()
    ours(folder, target, jobs)
    return kept


def _written(part: Path) -> int:
    if not (part / "data.mdb").exists():
        return 0
    try:
        with lmdb.open(str(part), readonly=True, lock=False) as environment:
            return int(environment.stat()["entries"])
    except lmdb.Error:
        return 0


def alike(one: Path, other: Path) -> bool:
    return all(a == b for a, b in zip(records_of(str(one)), records_of(str(other)), strict=True))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=60_000)
    parser.add_argument("--size", type=int, default=128, help="pixels of each side of the files")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    ratios = []
    with tempfile.TemporaryDirectory(prefix="gossip-caffe-data-") as scratch:
        folder = Path(scratch)
        write_pictures(folder, options.pictures, options.size)
        print(f"{options.pictures:,} JPEGs of {options.size}×{options.size}, load {os.getloadavg()[0]:.1f}")
        for repeat in range(options.repeats):
            loop_s = caffes_loop(folder, folder / "loop")
            ours_s = ours(folder, folder / "ours", options.jobs)
            same = alike(folder / "loop", folder / "ours")
            ratios.append(loop_s / ours_s)
            rates = (
                f"loop {options.pictures / loop_s:,.0f}/s, ours {options.pictures / ours_s:,.0f}/s, "
                f"ratio {ratios[-1]:.2f}"
            )
            print(f"{repeat}: {rates}, records {'alike' if same else 'NOT ALIKE'}", flush=True)
            if not same:
                return 1
            if repeat < options.repeats - 1:
                shutil.rmtree(folder / "loop")
            shutil.rmtree(folder / "ours")
        kept = killed_half_way(folder, folder / "killed", options.jobs, options.pictures)
        same = alike(folder / "loop", folder / "killed")
        print(f"killed with {kept:,} records written; went on, records {'alike' if same else 'NOT ALIKE'}")
    result = {
        "ratio": round(median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "kept": kept,
    }
    print("RESULT " + json.dumps({**result, "alike": same, "pictures": options.pictures}))
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
