"""A packed list is the list; worker processes that read all of it have no copy of it."""

import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import pytest
import torch.multiprocessing  # noqa: F401 - teaches multiprocessing to send tensors as shared memory

from fastvit.data.packed import Packed

MEMORY = Path("/proc/self/smaps_rollup")


def test_it_is_the_list():
    items = [{"box": [0.5, 1.0], "name": "a"}, [], [{"label": i} for i in range(5)], "", None]
    packed = Packed(iter(items))
    assert len(packed) == 5
    assert [packed[i] for i in range(5)] == list(packed) == items
    assert packed[-3] == items[-3]
    for index in (5, -6):
        with pytest.raises(IndexError):
            packed[index]
    assert list(Packed([])) == []


GROWTH = """
import multiprocessing, pickle, re
from pathlib import Path
from fastvit.data.packed import Packed

def private_mebibytes():
    text = Path("/proc/self/smaps_rollup").read_text()
    return sum(int(kib) for kib in re.findall(r"^Private_Dirty:\\s+(\\d+) kB", text, re.MULTILINE)) / 1024

def read_all(items, sender):
    before = private_mebibytes()
    for item in items:
        assert len(item) > 1
    sender.send(private_mebibytes() - before)

def growth_of_a_forked_reader(items):
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=read_all, args=(items, sender))
    process.start()
    growth = receiver.recv()
    process.join()
    return growth

items = [[float(i + j) for j in range(100)] for i in range(20_000)]
print(growth_of_a_forked_reader([*map(pickle.dumps, items)]), growth_of_a_forked_reader(Packed(items)))
"""


@pytest.mark.skipif(not MEMORY.exists(), reason="Linux tells in /proc what a process shares")
@pytest.mark.slow
def test_a_forked_reader_copies_nothing():
    """In a process of its own: the heap of this one has holes, and writing into them is copying, too."""
    done = subprocess.run([sys.executable, "-c", GROWTH], capture_output=True, text=True, check=True)
    in_bytes, in_packed = map(float, done.stdout.split())
    assert in_bytes > 15  # of 18: also of a list of bytes each element is an object
    assert in_packed < 1.5


def test_a_process_that_is_not_forked_gets_shared_memory():
    packed = Packed([list(range(1000))] * 1000)
    assert len(ForkingPickler.dumps(packed)) < 2000
