"""How fast this peer really trains, its waits included."""

from __future__ import annotations

from gossip_caffe.clock import Clock


class Throughput:
    """Samples a second, as a running mean over reports."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._samples = 0
        self._stalled_s = 0.0
        self._at = clock.monotonic()
        self.samples_per_s = 0.0
        self.stalled_share = 0.0

    def note(self, samples: int, stalled_s: float) -> None:
        """Take in the counters as they are now."""
        now = self._clock.monotonic()
        passed = now - self._at
        if passed <= 0:
            return
        latest = max(0, samples - self._samples) / passed
        self.samples_per_s = latest if not self.samples_per_s else 0.7 * self.samples_per_s + 0.3 * latest
        self.stalled_share = min(1.0, max(0.0, stalled_s - self._stalled_s) / passed)
        self._samples, self._stalled_s, self._at = samples, stalled_s, now
