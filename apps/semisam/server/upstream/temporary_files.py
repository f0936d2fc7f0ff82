"""A folder of the server's own for temporary files: nobody else reads it, and nothing stays in it.

- Package: MONAI Label 0.8.5, ``monailabel/endpoints/``; Python's ``tempfile``.
- Wrong: every upload is written to the system's folder for temporary files, and stays there when the request is
  refused. A client may name files in that folder (this is how MONAI Label hands an upload over), so it must hold
  nothing but uploads.
- Done: ``tempfile.tempdir`` is a new folder, for the whole process; it is emptied whenever no request is being
  answered, and deleted when the process ends.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/endpoints/infer.py, https://docs.python.org/3/library/tempfile.html#tempfile.tempdir
"""

from __future__ import annotations

import atexit
import logging
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

logger = logging.getLogger("semisam.temporary")

_PREFIX = "semisam-"
_NAME = re.compile(_PREFIX + r"([0-9]+)-.+")
_FILES = "tmp*"
"""Names that ``tempfile`` gives; other libraries keep folders with names of their own as long as the process lives."""


class TemporaryFolder:
    """The folder; made at once, and gone when the process ends.

    Those that killed servers have left are removed first.
    """

    def __init__(self) -> None:
        tempfile.tempdir = None  # what an earlier load of the app has set
        base = Path(tempfile.gettempdir())
        _sweep(base)
        self.folder = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-", dir=base))
        tempfile.tempdir = str(self.folder)
        atexit.register(shutil.rmtree, self.folder, ignore_errors=True)

    def empty(self) -> None:
        """Delete what is left; only to be called while no request is being answered."""
        for path in self.folder.glob(_FILES):
            try:
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    path.unlink(missing_ok=True)
            except OSError as error:
                logger.warning("A temporary file stays: %s", error)


def _sweep(base: Path) -> None:
    """Remove the folders of this user's servers that no longer run."""
    for path in base.glob(f"{_PREFIX}*"):
        found = _NAME.fullmatch(path.name)
        try:
            status = path.lstat()
            own = stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid()
            if found and own and not _runs(int(found[1])):
                shutil.rmtree(path)
        except OSError as error:
            logger.warning("%s stays: %s", path, error)


def _runs(pid: int) -> bool:
    """Whether another process has this number."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True
