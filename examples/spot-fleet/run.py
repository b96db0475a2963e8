"""A job on spot machines: some get a notice and are taken away, one dies without, and others come in their place.

Run it in its folder: cd examples/spot-fleet && python run.py
"""

import argparse
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import gossip_caffe as gc
from gossip_caffe.demo.digits import write_digits
from gossip_caffe.demo.fleet import Fleet
from gossip_caffe.demo.told import accuracy_over_samples, events_in
from gossip_caffe.observe.checker.verdict import verdict_of
from gossip_caffe.observe.report.picture import RunPicture, draw, lifelines_of

NOTICE_S = 12.0
"""The time from a notice to the end of the machine. AWS gives 120 s, Google Cloud 30 s."""
PACE_MS = "20"
FIRST = ("m0", "m1", "m2")
PLAN = (
    (0.10, "notice", "m0"),
    (0.15, "start", "m3"),
    (0.40, "kill", "m1"),
    (0.40, "start", "m4"),
    (0.60, "notice", "m2"),
    (0.65, "start", "m5"),
)
"""(share of the job, event, machine), in order."""


class Metadata:
    """The metadata endpoints of all machines, as a cloud has them: http://127.0.0.1:PORT/MACHINE."""

    def __init__(self) -> None:
        self.noticed: dict[str, float] = {}
        noticed = self.noticed

        class Answer(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                body = json.dumps({"action": "terminate"}).encode() if self.path[1:] in noticed else b""
                self.send_response(200 if body else 404)
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *words: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, machine: str) -> str:
        """The endpoint of a machine."""
        return f"http://127.0.0.1:{self.server.server_port}/{machine}"


def main() -> None:
    """Train and draw."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    write_digits(Path(), seed=1)
    metadata, plan = Metadata(), list(PLAN)
    with Fleet(Path("fleet")) as fleet:

        def start(machine: str) -> None:
            words = ("--allow-code", "--preemption-url", metadata.url(machine))
            fleet.start_peer(machine, "spot", *words, environment={"PACE_MS": PACE_MS})

        def happens(event: str, machine: str) -> None:
            if event == "notice":
                metadata.noticed[machine] = time.monotonic()
            elif event == "kill":
                fleet.kill(machine)
            else:
                start(machine)

        with gc.connect(fleet.etcd, job="spot") as job:
            job.create_job("spot", "solver.prototxt")
            for machine in FIRST:
                start(machine)
            for status in job.watch(every_s=0.3):
                while plan and status.share >= plan[0][0]:
                    _, event, machine = plan.pop(0)
                    print(f"{status.words()}: {event} {machine}", flush=True)
                    happens(event, machine)
                for machine, at in metadata.noticed.items():
                    if machine in fleet.running and time.monotonic() > at + NOTICE_S:
                        print(f"{machine} is taken away", flush=True)
                        fleet.kill(machine)
        print(fleet.wait(60))
        counters = verdict_of(fleet.run_dir).counters
        events = events_in(fleet.run_dir)
        curve = accuracy_over_samples(events, "consensus")
        joined = frozenset(machine for machine in events if machine not in FIRST)
        draw(
            RunPicture("A fleet of spot machines", (curve,), lifelines_of(events), joined),
            Path("picture.png"),
        )
        print(f"accuracy {curve.points[-1][1]:.1%}")
        print(f"records lost: {counters.records_lost}, trained twice: {counters.records_twice}; picture.png")


if __name__ == "__main__":
    main()
