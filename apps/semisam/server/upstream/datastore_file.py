"""MONAI Label's list of a study, changed by several processes at the same time.

- Package: MONAI Label 0.8.5, ``monailabel/datastore/local.py``, ``LocalDatastore``.
- Wrong: it writes its whole memory over ``datastore_v2.json`` at every change, so that the server and a training or
  batch subprocess lose each other's entries, and a reader may meet half a file. It takes a file for a scan by its
  ending alone.
- Done: every change is a transaction: lock, read what others wrote, change a draft, replace the file in one step.
  Readers look at the file's stamp first, and never see a draft: the watcher works in a thread of its own. For this the
  private ``_datastore`` is a property, and the private methods that read, write and reconcile the file are overridden.
  The rest of the app sees names of our own only.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/datastore/local.py
"""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path

from filelock import FileLock, Timeout
from monailabel.datastore.local import LocalDatastore, LocalDatastoreModel

from lib.core.errors import UserError
from lib.core.files import write_whole

logger = logging.getLogger("semisam.store")

_LOCK_SECONDS = 60


class SharedDatastore(LocalDatastore):
    """A LocalDatastore whose list is always what is on disk, and is changed in transactions.

    Args:
        folder: the study.
        extensions: suffixes of scans.
        read_only: write nothing into the study: its list is kept in memory, and labels cannot be saved.

    Raises:
        UserError: when the folder is none, or cannot be read or written.
    """

    def __init__(self, folder: str, *, extensions: Sequence[str], read_only: bool) -> None:
        self._read_only = read_only
        self._changes = 0
        self._model = LocalDatastoreModel(name="", description="")
        self._draft: LocalDatastoreModel | None = None
        self._drafter = 0
        self._loaded: tuple[int, int, int] | None = None
        self._ready = False
        self._guard = threading.RLock()
        self._mutex = FileLock(os.path.join(folder, ".lock"), timeout=_LOCK_SECONDS)
        patterns = [f"*{e}" for e in extensions]
        try:
            if read_only:
                self._begin_read_only(folder, patterns)
            else:
                os.makedirs(folder, exist_ok=True)
                super().__init__(folder, extensions=patterns, auto_reload=False, read_only=False)
        except (FileExistsError, NotADirectoryError) as error:
            raise UserError(f"{folder} is a file. Give the folder in which the scans lie.") from error
        except OSError as error:
            raise _no_access(error, folder) or error from error
        self._ready = True

    def _begin_read_only(self, folder: str, patterns: list[str]) -> None:
        """What the base class sets up, without writing anything."""
        self._datastore_path = folder
        self._datastore_config_path = os.path.join(folder, "datastore_v2.json")
        self._extensions = patterns
        self._lock_file = os.path.join(folder, ".lock")
        self._auto_reload = False
        if not os.path.isdir(folder):
            raise UserError(f"There is no folder {folder}, and a read-only server makes none. Check its name.")
        self._model = LocalDatastoreModel(
            name="new-dataset", description="New Dataset", images_dir=".", labels_dir="labels", base_path=folder
        )
        self._init_from_datastore_file(throw_exception=True)
        self._look_at_files()
        logger.warning("The study %s is served read-only: labels can be looked at, and none can be saved.", folder)

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

    @property
    def _list(self) -> LocalDatastoreModel:
        """The list of scans and labels under a name of our own."""
        return self._datastore

    @property
    def read_only(self) -> bool:
        """Whether nothing is written into the study."""
        return self._read_only

    @property
    def folder(self) -> Path:
        """The study's folder, or the cache of a server's."""
        return Path(self._datastore_path)

    @property
    def on_mounted_drive(self) -> bool:
        """Whether the folder lies on a mounted drive, whose changes the system may not tell."""
        return bool(self._is_on_mount(self._datastore_path))

    def _reconcile_datastore(self) -> None:
        """Called by MONAI Label at the start and by ``refresh``."""
        self._look_at_files()

    @abstractmethod
    def _look_at_files(self) -> None:
        """Bring the list in line with the files."""

    def _init_from_datastore_file(self, throw_exception: bool = False) -> None:
        """Read the file if somebody replaced it. It is replaced in one step, so no lock is needed to read it."""
        if self._stamp() in (None, self._loaded) or (self._read_only and self._loaded):
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
                        "back, or move it away: scans and labels are then taken up again as they lie there."
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
        """Called by MONAI Label after it has changed the list."""
        self._write_list()

    def _write_list(self) -> None:
        """Write the content; the caller is in a transaction."""
        model = self._draft or self._model
        content = json.dumps(model.model_dump(exclude={"base_path"}), indent=2, default=str)
        self._parsed(content)  # rather no change than a file that nobody can read
        if self._read_only:
            self._model = self._parsed(content)
            self._changes += 1
            return
        write_whole(Path(self._datastore_config_path), lambda name: Path(name).write_text(content, encoding="utf-8"))
        with self._guard:
            self._model = self._parsed(content)
            self._loaded = self._stamp()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Hold the lock and change a draft of what is on disk; what is not written by the end is forgotten."""
        try:
            with self._guard, self._locked():
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
            raise _no_access(error, self._datastore_path) or error from error

    def _locked(self) -> AbstractContextManager[object]:
        return nullcontext() if self._read_only else self._mutex

    def _refuse_if_read_only(self) -> None:
        if self._read_only:
            raise UserError(
                "This study is served read-only (MONAI_LABEL_DATASTORE_READ_ONLY): nothing can be stored or deleted. "
                "Keep your work on your own machine, and ask the administrator to start the server without it.",
                status=409,
            )

    def version(self) -> tuple[object, ...]:
        """Something that changes whenever the content does."""
        return self._changes, self._stamp()

    # --- changes of the base class --------------------------------------------------------------------------------

    def set_name(self, name: str) -> None:
        """Give the study a name."""
        self._refuse_if_read_only()
        with self._transaction():
            super().set_name(name)

    def set_description(self, description: str) -> None:
        """Describe the study."""
        self._refuse_if_read_only()
        with self._transaction():
            super().set_description(description)


def file_name(image_id: str, extension: str) -> str:
    """The name of a scan's or a label's file, as MONAI Label's list means it."""
    return image_id + extension


def _no_access(error: OSError, folder: str) -> UserError | None:
    """A readable error when ``error`` says that this server's user may not read or write, else None."""
    if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
        return None
    return UserError(
        f"The study folder {folder} cannot be written ({error.strerror}). Labels are stored there: give this server's "
        "user the right to write, or set MONAI_LABEL_DATASTORE_READ_ONLY=true to look at the study without saving.",
        status=507,
    )
