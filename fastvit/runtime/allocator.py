"""The C library's allocator, for work on a CPU that takes the same large buffers again and again."""

import ctypes
import platform

import torch

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # glibc's malloc.h; see mallopt(3)


def keep_freed_memory(device: torch.device) -> None:
    """Have this process keep the memory that it frees, if it computes on a CPU, on Linux with glibc; else nothing.

    By default glibc gives large blocks back to the system as soon as they are freed, and the system clears them page by
    page when the next step or the next batch takes them again: 43,000 page faults for 16 images of T8, two fifths of
    the time. The price: the process stays as large as it once was. A preloaded jemalloc or tcmalloc is not affected.

    It is a setting of the whole process: the commands make it, and the functions that others call do not.
    """
    if device.type == "cpu" and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)  # no blocks of their own for large requests: those are unmapped when freed
        libc.mallopt(M_TRIM_THRESHOLD, -1)  # the heap never shrinks
