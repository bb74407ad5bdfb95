"""Callers that wait for each other, in the order in which they came."""

from collections import deque
from threading import Event, Lock


class Turns:
    """Lets a number of callers in at a time; of those that wait, the one that came first is next.

    Python's semaphores and queues let in whoever happens to be awake. Under 16 clients that was so often the one that
    had just been served that the unlucky waited several times as long as the others.

    Args:
        places: how many may be in at a time.
    """

    def __init__(self, places: int):
        self._free = places
        self._waiting: deque[Event] = deque()  # each is set when its caller may go in
        self._changing = Lock()

    def __enter__(self) -> None:
        called = Event()
        try:
            with self._changing:
                if self._free:
                    self._free -= 1
                    return
                self._waiting.append(called)
            called.wait()
        except BaseException:  # Ctrl-C: nobody waits here any more
            self._leave(called)
            raise

    def __exit__(self, *_: object) -> None:
        with self._changing:
            if self._waiting:
                self._waiting.popleft().set()  # the place goes from hand to hand
            else:
                self._free += 1

    def _leave(self, called: Event) -> None:
        with self._changing:
            if called in self._waiting:
                self._waiting.remove(called)
        if called.is_set():  # it had just been given the place
            self.__exit__()
