"""How far a long job is, as a plain line on stderr every few seconds; a short job says nothing."""

import sys
import time

EVERY_S = 3.0


def say(text: str) -> None:
    """Print a line on stderr: stdout belongs to the command's own result."""
    print(f"datasets: {text}", file=sys.stderr, flush=True)


class Ticker:
    """Says "<what>: 40 %, about 12 s left" at most every `EVERY_S` seconds."""

    def __init__(self, what: str):
        self.what, self.started, self.said = what, time.monotonic(), time.monotonic()

    def tick(self, share: float) -> None:
        """Tell how much is done, in [0, 1]."""
        now = time.monotonic()
        if now - self.said >= EVERY_S and share > 0:
            self.said = now
            left_s = (now - self.started) * (1 - share) / share
            say(f"{self.what}: {share:.0%}, about {left_s:.0f} s left")
