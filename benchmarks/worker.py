"""One method in a process of its own: labels scans on request and says how long it took and how much memory it held.

    python worker.py '{"method": ..., "image": ..., "label": ..., "labels": [...], "grid": null}'

Requests and replies are lines of JSON on standard input and output.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path

import numpy as np

import common
import methods


def main() -> None:
    # Libraries print to standard output: only our replies may go there.
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    wanted = json.loads(sys.argv[1])
    method = methods.create(
        wanted["method"], Path(wanted["image"]), Path(wanted["label"]), wanted["labels"], wanted["grid"]
    )
    for line in sys.stdin:
        request = json.loads(line)
        reply: dict[str, float | str]
        try:
            scan = method.prepare(Path(request["image"]))
            start = time.perf_counter()
            label = method.label(scan)
            reply = {"seconds": time.perf_counter() - start, "peak_mib": common.peak_mib()}
            np.save(request["out"], label)
        except Exception as error:
            # A peer may fail on a scan in any way; the run goes on and the table counts it.
            reply = {"error": f"{type(error).__name__}: {error}".strip().splitlines()[0][:300]}
        replies.write(json.dumps(reply) + "\n")
        replies.flush()


if __name__ == "__main__":
    main()
