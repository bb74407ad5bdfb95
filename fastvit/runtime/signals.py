"""Stopping at a point where nothing is lost when a scheduler or the user asks for it."""

import signal
import threading
from types import FrameType

STOP = (signal.SIGTERM, signal.SIGINT)


class StopSignals:
    """Within: SIGTERM and SIGINT are only noted, in `received`; a second SIGINT interrupts as usual.

    Python allows this in the main thread only; in another one nothing is noted.
    """

    def __init__(self) -> None:
        self.received = 0  # the number of the last one

    def __enter__(self) -> "StopSignals":
        self.before = {}
        if threading.current_thread() is threading.main_thread():
            self.before = {number: signal.signal(number, self._note) for number in STOP}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self.before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.received and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.received = number
