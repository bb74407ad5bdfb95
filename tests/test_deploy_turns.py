"""Callers go in in the order in which they came, as many at a time as there are places."""

import signal
import threading
import time

import pytest

from fastvit.deploy.runtimes.turns import Turns


def in_line(turns, names, served):
    """Threads that wait for their turn in the order of their names; each writes its name when it is in."""

    def client(name):
        with turns:
            served.append(name)

    threads = []
    for name in names:
        threads.append(threading.Thread(target=client, args=(name,), daemon=True))
        threads[-1].start()
        while threads[-1].is_alive() and len(turns._waiting) < len(threads):
            time.sleep(0.001)
    return threads


def test_who_came_first_is_next_and_who_was_served_queues_again():
    turns, served = Turns(1), []
    with turns:
        threads = in_line(turns, "abcde", served)
    with turns:  # at once, as a client that sends its next image
        served.append("again")
    for thread in threads:
        thread.join(10)
    assert served == [*"abcde", "again"]


def test_as_many_are_in_as_there_are_places():
    turns, inside, most = Turns(2), [0], []
    lock = threading.Lock()

    def client():
        for _ in range(20):
            with turns:
                with lock:
                    inside[0] += 1
                    most.append(inside[0])
                time.sleep(0.0005)
                with lock:
                    inside[0] -= 1

    threads = [threading.Thread(target=client) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(most) == 6 * 20  # everyone came in
    assert max(most) == 2


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="Windows has no timer that interrupts")
def test_who_is_interrupted_while_it_waits_takes_no_place_with_it():
    turns, served = Turns(1), []

    def interrupt(*_):
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with turns:
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            with pytest.raises(KeyboardInterrupt), turns:
                served.append("never")
    finally:
        signal.signal(signal.SIGALRM, before)
    (thread,) = in_line(turns, "a", served)
    thread.join(10)
    assert served == ["a"]


def test_who_is_interrupted_just_when_its_turn_comes_hands_it_on():
    turns, served = Turns(1), []
    turns.__enter__()
    turns._leave(threading.Lock())  # of a caller that no longer waits, because it was given the place
    (thread,) = in_line(turns, "a", served)
    thread.join(10)
    assert served == ["a"]
