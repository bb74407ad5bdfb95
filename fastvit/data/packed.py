"""Long lists that worker processes share."""

import pickle
from collections.abc import Iterable, Sequence
from typing import Any

import torch


class Packed(Sequence[Any]):
    """A list of plain objects, kept as bytes in two tensors, of which worker processes have no copies.

    A list of Python objects does not stay shared with a forked process: each reading counts a reference, which writes
    to the object's page. A process that is not forked gets tensors as shared memory.
    """

    def __init__(self, items: Iterable[Any]):
        content, ends = bytearray(), [0]
        for item in items:
            content += pickle.dumps(item, pickle.HIGHEST_PROTOCOL)
            ends.append(len(content))
        self._ends = torch.tensor(ends)  # item i is between the i-th and the next
        self._bytes = torch.frombuffer(content, dtype=torch.uint8) if content else torch.empty(0)

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, index: int) -> Any:
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        start, end = self._ends[index % len(self) :][:2].tolist()
        return pickle.loads(self._bytes[start:end].numpy())
