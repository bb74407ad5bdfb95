"""Callers go in in the order in which they came, as many at a time as there are places."""

import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from unittest.mock import MagicMock

import numpy as np
import pytest
import torch

from fastvit.deploy.runtimes.inductor import Compiled
from fastvit.deploy.runtimes.onnxruntime import Session
from fastvit.deploy.runtimes.run import Settings
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


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="Windows has no signals to a thread")
def test_who_is_interrupted_while_it_waits_takes_no_place_with_it():
    turns, served = Turns(1), []

    def interrupt(*_):
        raise KeyboardInterrupt

    def interrupt_who_waits():
        while not turns._waiting:
            time.sleep(0.001)
        time.sleep(0.05)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with turns:
            threading.Thread(target=interrupt_who_waits, daemon=True).start()
            with pytest.raises(KeyboardInterrupt), turns:
                served.append("never")
    finally:
        signal.signal(signal.SIGALRM, before)
    (thread,) = in_line(turns, "a", served)
    thread.join(10)
    assert served == ["a"]


def test_who_is_interrupted_before_it_queues_gives_nothing_away():
    turns = Turns(1)
    with turns:
        turns._leave(threading.Event())
        assert turns._free == 0


def test_who_is_interrupted_just_when_its_turn_comes_hands_it_on():
    turns, served = Turns(1), []
    turns.__enter__()
    called = threading.Event()
    called.set()
    turns._leave(called)  # of a caller that no longer waits, because it was given the place
    (thread,) = in_line(turns, "a", served)
    thread.join(10)
    assert served == ["a"]


class Counter:
    """A program that notes how many callers are in it at a time."""

    def __init__(self):
        self.inside, self.most, self.lock = 0, 0, threading.Lock()

    def __call__(self, *_):
        with self.lock:
            self.inside += 1
            self.most = max(self.most, self.inside)
        time.sleep(0.02)
        with self.lock:
            self.inside -= 1
        return [np.zeros(1, dtype=np.float32)]


def most_at_a_time(run, counter):
    images = torch.zeros(1, 3, 8, 8)
    with ThreadPoolExecutor(8) as clients:
        list(clients.map(lambda _: run(images), range(16)))
    return counter.most


def test_pytorch_computes_one_call_more_than_it_has_threads(monkeypatch):
    counter = Counter()
    monkeypatch.setattr(Compiled, "_compile", lambda self, images: counter)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    run = Compiled(torch.nn.Conv2d(3, 1, 1), torch.float32, 1e-4)
    assert most_at_a_time(run, counter) == 4


def test_onnx_runtime_computes_as_many_calls_as_it_has_streams(monkeypatch):
    counter = Counter()
    session = SimpleNamespace(get_inputs=lambda: [SimpleNamespace(name="x", shape=("b", 3, 8, 8))], run=counter)
    fake = SimpleNamespace(SessionOptions=MagicMock, InferenceSession=lambda *_, **__: session)
    monkeypatch.setitem(sys.modules, "onnxruntime", fake)
    run = Session(b"", Settings(torch.float32, threads=4), streams=2)
    assert most_at_a_time(run, counter) == 2
