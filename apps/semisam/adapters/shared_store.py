"""MONAI Label's datastore file, changed by several processes at the same time.

MONAI Label's LocalDatastore writes its whole memory over ``datastore_v2.json`` at every change, so that the server and
a training or batch subprocess lose each other's entries, and a reader may meet half a file. Here every change is a
transaction: lock, read what others wrote, change a draft, replace the file in one step. Readers look at the file's
stamp first, and never see a draft: the watcher works in a thread of its own.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from monailabel.datastore.local import LocalDatastore, LocalDatastoreModel

from lib.errors import UserError
from lib.volumes import write_whole

logger = logging.getLogger("semisam.store")

_LOCK_SECONDS = 60


class SharedDatastore(LocalDatastore):
    """A LocalDatastore whose list is always what is on disk, and is changed in transactions.

    Args:
        folder: the study.
        extensions: suffixes of scans.
        read_only: do not look for new files.
    """

    def __init__(self, folder: str, *, extensions: Sequence[str], read_only: bool) -> None:
        self._model = LocalDatastoreModel(name="", description="")
        self._draft: LocalDatastoreModel | None = None
        self._drafter = 0
        self._loaded: tuple[int, int, int] | None = None
        self._ready = False
        self._guard = threading.RLock()
        self._mutex = FileLock(os.path.join(folder, ".lock"), timeout=_LOCK_SECONDS)
        os.makedirs(folder, exist_ok=True)
        super().__init__(folder, extensions=[f"*{e}" for e in extensions], auto_reload=False, read_only=read_only)
        self._ready = True

    @property
    def _datastore(self) -> LocalDatastoreModel:
        """The content, as it is on disk now; in a transaction its draft.

        The base class reads this attribute wherever it needs the content.
        """
        draft = self._draft
        if draft is not None and self._drafter == threading.get_ident():
            return draft
        self._init_from_datastore_file()
        return self._model

    @_datastore.setter
    def _datastore(self, model: LocalDatastoreModel) -> None:
        self._model = model

    def _stamp(self) -> tuple[int, int, int] | None:
        try:
            status = os.stat(self._datastore_config_path)
        except FileNotFoundError:
            return None
        return status.st_ino, status.st_mtime_ns, status.st_size

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the file if somebody replaced it. It is replaced in one step, so no lock is needed to read it."""
        if self._stamp() in (None, self._loaded):
            return
        with self._guard:
            stamp = self._stamp()
            if stamp in (None, self._loaded):
                return
            try:
                text = Path(self._datastore_config_path).read_text(encoding="utf-8")
                model = self._parsed(text)
            except ValueError as error:
                if not self._ready:
                    raise UserError(
                        f"{self._datastore_config_path} is damaged ({str(error).splitlines()[0]}). Put a good copy "
                        "back, or move it away: the labels on disk are then taken up again, without their notes."
                    ) from error
                logger.error("%s is damaged and was not read: %s", self._datastore_config_path, error)
                self._loaded = stamp
                return
            self._model = model
            self._loaded = stamp

    def _parsed(self, text: str) -> LocalDatastoreModel:
        model = LocalDatastoreModel.model_validate_json(text)
        model.base_path = self._datastore_path
        return model

    def _update_datastore_file(self, lock: bool = True) -> None:
        """Write the content; the caller is in a transaction."""
        model = self._draft or self._model
        content = json.dumps(model.model_dump(exclude={"base_path"}), indent=2, default=str)
        self._parsed(content)  # rather no change than a file that nobody can read
        write_whole(Path(self._datastore_config_path), lambda name: Path(name).write_text(content, encoding="utf-8"))
        with self._guard:
            self._model = self._parsed(content)
            self._loaded = self._stamp()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the lock and change a draft of what is on disk; what is not written by the end is forgotten."""
        try:
            with self._guard, self._mutex:
                self._init_from_datastore_file()
                self._draft = self._parsed(self._model.model_dump_json(exclude={"base_path"}))
                self._drafter = threading.get_ident()
                try:
                    yield
                finally:
                    self._draft = None
        except Timeout as error:
            raise UserError(
                f"The study is locked by another process for more than {_LOCK_SECONDS} s "
                f"({self._mutex.lock_file}). Try again later.",
                status=409,
            ) from error
        except OSError as error:
            if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                raise
            raise UserError(
                f"The study folder {self._datastore_path} cannot be written ({error.strerror}). "
                "Labels are stored there: give this server's user the right to write.",
                status=507,
            ) from error

    def version(self) -> tuple[int, int, int] | None:
        """Something that changes whenever the content does."""
        return self._stamp()

    # --- changes of the base class --------------------------------------------------------------------------------

    def _reconcile_datastore(self) -> None:
        with self._transaction():
            super()._reconcile_datastore()

    def set_name(self, name: str) -> None:
        """See the base class."""
        with self._transaction():
            super().set_name(name)

    def set_description(self, description: str) -> None:
        """See the base class."""
        with self._transaction():
            super().set_description(description)
