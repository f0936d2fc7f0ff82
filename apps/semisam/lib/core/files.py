"""What reading and writing of all kinds of files share: whole writes, and texts for files that cannot be read."""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import UserError
from .leftovers import part_prefix

logger = logging.getLogger("semisam.files")

_UMASK = os.umask(0o077)
"""Read once, as that needs a change for a moment: scans may be readable for some people only."""
os.umask(_UMASK)

_KINDS: tuple[tuple[int, bytes, str], ...] = (
    (0, b"\x1f\x8b", "a file packed with gzip"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"NRRD", "an NRRD file"),
    (0, b"ObjectType", "a MetaImage file (.mha, .mhd)"),
    (0, b"ObjectType".lower(), "a MetaImage file (.mha, .mhd)"),
    (0, b"NDims", "a MetaImage file (.mha, .mhd)"),
    (0, b"\x89PNG", "a PNG picture"),
    (0, b"\xff\xd8\xff", "a JPEG picture"),
    (0, b"%PDF", "a PDF document"),
    (0, b"BZh", "a file packed with bzip2"),
    (0, b"\xfd7zXZ", "a file packed with xz"),
    (0, b"7z\xbc\xaf", "a 7z archive"),
    (0, b"\x89HDF", "an HDF5 file"),
    (128, b"DICM", "a DICOM file"),
    (257, b"ustar", "a tar archive"),
    (344, b"n+1", "a NIfTI file"),
    (344, b"ni1", "the header of a NIfTI pair (.hdr, .img)"),
    (4, b"n+2", "a NIfTI-2 file"),
)
_PAGES = (b"<!doctype", b"<html", b"<?xml")
_HEAD = 512
_PIECE = 2**20


def write_whole(path: Path, write: Callable[[str], object], *, private: bool = False) -> None:
    """Call ``write(temporary_path)`` and move the result to ``path`` in one step.

    The temporary file lies in the same folder and has the same suffixes, so that a reader of ``path`` never sees half
    a file, also after a kill.

    Args:
        path: of the file.
        write: writes the content to a path.
        private: only its owner may read the file, at no moment anybody else.

    Raises:
        UserError: (507) when there is no space left on the device.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    suffix = "".join(path.suffixes[-2:]) if path.name.endswith(".nii.gz") else path.suffix
    handle, name = tempfile.mkstemp(prefix=part_prefix(), suffix=suffix, dir=path.parent)
    os.close(handle)
    try:
        write(name)
        with open(name, "rb") as written:
            os.fsync(written.fileno())
        os.chmod(name, 0o600 if private else 0o666 & ~_UMASK)
        os.replace(name, path)
    except (OSError, RuntimeError) as error:
        raise space_error(error, path.parent) or error from error
    finally:
        if os.path.exists(name):
            os.unlink(name)


_CUT_SHORT = re.compile(r"\d+ requested and \d+ written|inline_container.*unexpected pos|PytorchStreamWriter failed")
"""What NumPy (``ndarray.tofile``) and PyTorch (``torch.save``) say on a full disk: neither tells the system's error."""


def space_error(error: OSError | RuntimeError, folder: Path) -> UserError | None:
    """A readable error when ``error`` says that ``folder`` has no space left, else None."""
    number = getattr(error, "errno", None)
    if number in (errno.ENOSPC, errno.EDQUOT) or (number is None and _CUT_SHORT.search(str(error))):
        return UserError(
            f"No space left in {folder}. Free some space there and start again: finished rounds are kept.", status=507
        )
    return None


BRIEFLY = "briefly-"
"""How the name of a temporary file begins that its maker deletes itself. A server deletes all others (``tmp...``) as
soon as it answers no request, also while a thread in the background still reads one."""


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal.

    Raises:
        OSError: when it cannot be read.
    """
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
    return digest.hexdigest()


def check_there(path: Path) -> None:
    """Raise UserError (404) unless there is a file or folder."""
    if not path.exists():
        raise UserError(f"There is no file {path.name}.", status=404)


def size_text(shape: tuple[int, ...]) -> str:
    """Sizes as people write them."""
    return " x ".join(str(n) for n in shape)


def unreadable(path: Path, error: Exception | str) -> UserError:
    """What to tell a user about a file that a reader does not take (422); what the reader said goes to the log."""
    logger.warning("%s cannot be read: %s", path.name, error if isinstance(error, str) else repr(error)[:1000])
    kind = really(path)
    if kind is not None:
        text = f"{path.name} cannot be read: it is {kind}, not what its name says. Convert or rename it."
    else:
        text = (
            f"{path.name} cannot be read: the file is damaged, cut short or no medical image. Copy or export it again."
        )
    return UserError(text, status=422)


def really(path: Path) -> str | None:
    """What a file is by its first bytes, where that is not what its name says; None otherwise."""
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD)
    except OSError:
        return None
    name = path.name.lower()
    for place, mark, kind in _KINDS:
        if head[place : place + len(mark)] == mark:
            return None if _fits(name, kind) else kind
    return "a web page or XML" if head.lstrip().lower().startswith(_PAGES) else None


def _fits(name: str, kind: str) -> bool:
    """Whether files with this name are of this kind."""
    endings = {
        "gzip": (".nii.gz",),
        "NRRD": (".nrrd", ".nhdr"),
        "MetaImage": (".mha", ".mhd"),
        "PNG": (".png",),
        "JPEG": (".jpg", ".jpeg"),
        "DICOM": (".dcm",),
        "NIfTI": (".nii", ".nii.gz"),
    }
    return any(word in kind and name.endswith(ends) for word, ends in endings.items())


def check_space(folder: Path, needed: int) -> None:
    """Raise UserError (507) unless about ``needed`` bytes are free at ``folder``."""
    folder.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"Only {free / 2**20:.0f} MiB are free in {folder}; this training needs about {needed / 2**20:.0f} MiB. "
            "Free some space there and start again.",
            status=507,
        )


@contextmanager
def space_errors(folder: Path) -> Iterator[None]:
    """Turn 'no space left' into a readable error, wherever it comes up."""
    try:
        yield
    except OSError as error:
        raise space_error(error, folder) or error from error
