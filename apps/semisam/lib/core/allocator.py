"""The C library's allocator in a long job: freed memory is kept for the next request."""

from __future__ import annotations

import ctypes

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX = -1, -2, -4
"""Numbers of glibc's ``mallopt``."""


def keep_freed_memory() -> bool:
    """Let this process keep freed memory for its next request.

    By default glibc hands large blocks back to the system as soon as they are freed. A training step on a CPU asks for
    the same blocks hundreds of times a second, and the system has to fill each with zeros again. The peak stays about
    the same; only between peaks is less given back, so this is for jobs that end, not for the server.

    Returns:
        Whether the C library has such a switch.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):
        return False
    settings = ((_MMAP_MAX, 0), (_TRIM_THRESHOLD, 2**31 - 1), (_TOP_PAD, 64 * 2**20))
    done = [mallopt(ctypes.c_int(name), ctypes.c_int(value)) for name, value in settings]
    return all(done)
