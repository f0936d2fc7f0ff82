"""``torchrun`` for a job of the server: it ends with the job, however the job ends, and takes its processes along.

python server/jobs/launcher.py <arguments of torchrun>
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    sys.path[0] = str(Path(__file__).resolve().parents[2])  # the app's folder, in place of this file's
    from torch.distributed.run import main

    from server.jobs.system_processes import follow_server

    follow_server()
    main()
