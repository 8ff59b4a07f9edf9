"""Time that a test moves on."""

import time


class Clock:
    """Unix time, `ahead` by as many seconds as a test says."""

    ahead = 0.0

    def __call__(self) -> float:
        """What `time.time` would answer then."""
        return time.time() + self.ahead
