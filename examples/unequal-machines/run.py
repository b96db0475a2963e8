"""Four peers of unlike speed train the digits together, and each trains what it can.

Run it in its folder: cd examples/unequal-machines && python run.py
"""

import argparse
from pathlib import Path

from matplotlib.figure import Figure

import gossip_caffe as gc
from gossip_caffe.demo.digits import write_digits
from gossip_caffe.demo.fleet import Fleet
from gossip_caffe.demo.told import Events, events_in, records_over_time
from gossip_caffe.observe.checker.verdict import verdict_of

PACES_MS = {"new": 8, "older": 16, "oldest": 32, "laptop": 80}
"""The milliseconds that an iteration of each machine takes longer than its arithmetic: its speed, turned round."""
BATCH = 16


def draw(events: Events, trained: int, to: Path) -> None:
    """Write the picture: what each peer has trained, and what steps of one speed would have allowed."""
    origin = min(float(lines[0]["t"]) for lines in events.values())
    figure = Figure(figsize=(10, 4.2), dpi=110, layout="constrained")
    figure.suptitle("Four peers of unlike speed", fontsize=13, fontweight="bold", x=0.015, ha="left")
    left, right = figure.subplots(1, 2, width_ratios=[1.5, 1])
    shares, seconds = {}, 0.0
    for name, pace in PACES_MS.items():
        points = records_over_time(events[name], origin) or [(0.0, 0)]  # it came when the job was finished
        left.plot(*zip(*points, strict=True), linewidth=1.8, label=f"{name}: {pace} ms more a step")
        shares[name] = points[-1][1] / trained
        seconds = max(seconds, points[-1][0] - points[0][0])
    left.set(xlabel="seconds", ylabel="records trained by the peer", xlim=(0, None), ylim=(0, None))
    left.legend(frameon=False, fontsize=9)
    speeds = {name: 1 / pace for name, pace in PACES_MS.items()}
    places = range(len(shares))
    for offset, (said, values) in enumerate(
        {"share of the records": shares, "share of the speed": speeds}.items()
    ):
        whole = sum(values.values())
        right.bar(
            [place + 0.38 * offset for place in places],
            [100 * value / whole for value in values.values()],
            width=0.36,
            label=said,
            color=("#0072b2", "#b9d3e6")[offset],
        )
    right.set_xticks([place + 0.19 for place in places], list(shares))
    right.set(ylabel="%")
    right.legend(frameon=False, fontsize=9)
    for axes in (left, right):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(to)
    in_step = trained / BATCH / len(PACES_MS) * max(PACES_MS.values()) / 1000
    print(f"{seconds:.0f} s of training; at the pace of the slowest it would take {in_step:.0f} s or more")
    print(", ".join(f"{name} trained {share:.0%}" for name, share in shares.items()))


def main() -> None:
    """Train and draw."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_digits(Path(), seed=1)
    with Fleet(Path("fleet")) as fleet:
        with gc.connect(fleet.etcd, job="unequal") as job:
            job.create_job("unequal", "solver.prototxt")
            for name, pace in PACES_MS.items():
                fleet.start_peer(name, "unequal", "--allow-code", environment={"PACE_MS": str(pace)})
            for event in job.events():
                print(event.words(), flush=True)
        fleet.wait(60)
        verdict = verdict_of(fleet.run_dir)
        draw(events_in(fleet.run_dir), verdict.counters.records_trained, Path("picture.png"))
        print(f"records lost: {verdict.counters.records_lost}; picture.png")


if __name__ == "__main__":
    main()
