"""Which files of a study folder are scans and labels, and why others are left out; one bad one never stops the rest."""

from __future__ import annotations

import logging
import os
import stat
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lib.core.errors import UserError
from lib.formats.channels import first_file, further_files, is_further

from .detached import HEADER, check_header, data_files
from .file_names import DICOM, EXTENSIONS, SEG_NRRD, bad_name, printable, split
from .scan_content import REASONS, SEGMENTATION, SLICE, is_dicom_folder

logger = logging.getLogger("semisam.store")


_OTHER_FORMATS = (
    ".nhdr",
    ".hdr",
    ".img",
    ".mgz",
    ".mgh",
    ".gipl",
    ".gipl.gz",
    ".mnc",
    ".img.gz",
    ".nii.bz2",
    ".nii.zip",
)


@dataclass
class Found:
    """What a look into the study's folder has found.

    Attributes:
        scans: file or folder by the scan's id.
        left_out: reasons by the file's printable name.
    """

    scans: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


class StudyFiles:
    """The files of a study folder.

    Args:
        folder: the study.
        labels: its folder of labels.
        barred: why a file or folder may not be looked into though it could be; None when it may.
    """

    def __init__(self, folder: Path, labels: Path, barred: Callable[[Path], str | None] = lambda path: None) -> None:
        self._folder = folder
        self._barred = barred
        self._labels = labels
        self._headers: dict[tuple[str, int, int], str | None] = {}

    def look(self, known: Mapping[str, str], drawn_on: Callable[[str, Path], bool]) -> Found:
        """Look for scans.

        Args:
            known: the scans' files so far, by id: where two files have one id, the known one stays.
            drawn_on: whether a scan's labels were drawn on the scan in a file, for a scan with several files.

        Raises:
            OSError: when the folder itself cannot be read.
        """
        found = Found()
        candidates: dict[str, list[str]] = {}
        loose = 0
        for name in sorted(os.listdir(self._folder)):
            if name.startswith(".") or self._is_own(name) or self._is_channel(name, found):
                continue
            try:
                reason = self.reason(name)
            except OSError as error:
                reason = f"it cannot be read ({error.strerror})"
            if reason is None:
                candidates.setdefault(self._id(name), []).append(name)
            elif reason == SLICE:
                loose += 1
            elif reason:
                found.left_out[printable(name)] = reason
        if loose:
            found.left_out[f"*{DICOM}"] = f"{loose} file(s): {SLICE}"
        self._segmentations(candidates, found)
        for image_id, names in candidates.items():
            self._choose(image_id, names, known.get(image_id), drawn_on, found)
        return found

    def reason(self, name: str) -> str | None:
        """Why a file or folder of the study is no scan: empty when it does not look like one, None when it is one.

        Raises:
            OSError: when it cannot be looked into.
        """
        path = self._folder / name
        extension = split(name)[1].lower()
        looks = bool(extension) or name.lower().endswith(_OTHER_FORMATS)
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return "it is a link that leads nowhere" if looks and path.is_symlink() else ""
        if stat.S_ISDIR(status.st_mode):
            return self._folder_reason(name)
        if not looks:
            return ""
        if (barred := self._barred(path)) is not None:
            return barred
        if not stat.S_ISREG(status.st_mode):
            return "it is no plain file"
        reason = bad_name(name) or (None if extension else "this format is not read: save it as .nii.gz or .nrrd")
        if reason is None and not os.access(path, os.R_OK):
            reason = "this server's user may not read it"
        return reason or self._content_reason(path, extension, status)

    def upload_reason(self, path: Path) -> str | None:
        """Why a file that a client sends is no scan, None when it may be one; its voxels are not looked at."""
        extension = split(path.name)[1].lower()
        try:
            reason = self._content_reason(path, extension, os.stat(path))
        except OSError as error:
            return f"it cannot be read ({error.strerror})"
        if reason == SLICE:
            return "it is a slice of a volume. Upload all files of the series in one zip archive"
        return reason

    def is_series(self, name: str) -> bool:
        """Whether a sub-folder holds DICOM files; looks at its first three files.

        Raises:
            OSError: when it cannot be read.
        """
        return is_dicom_folder(self._folder / name)

    def _is_own(self, name: str) -> bool:
        path = self._folder / name
        return name == "datastore_v2.json" or os.path.realpath(path) == os.path.realpath(self._labels)

    def _is_channel(self, name: str, found: Found) -> bool:
        """Whether a file is a further channel of a scan; one without a first channel is left out with the reason."""
        if not is_further(name):
            return False
        if not first_file(self._folder / name).exists():
            found.left_out[printable(name)] = "it is a further channel of a scan whose first one, _0000, is missing"
        return True

    def _id(self, name: str) -> str:
        return name if (self._folder / name).is_dir() else split(name)[0]

    def _folder_reason(self, name: str) -> str | None:
        path = self._folder / name
        if not os.access(path, os.R_OK | os.X_OK):
            return "this server's user may not read the folder"
        if not self.is_series(name):
            return ""
        return bad_name(name) or self._barred(path)

    def _content_reason(self, path: Path, extension: str, status: os.stat_result) -> str | None:
        """Why a file is no scan, by its header. Looked into once: a folder may be full of such files."""
        if path.name.lower().endswith(SEG_NRRD):
            return SEGMENTATION
        if extension == HEADER:
            try:
                check_header(path)
            except UserError as error:
                return str(error)
            return None
        if extension not in REASONS:
            return None
        stamp = str(path), status.st_mtime_ns, status.st_size
        if stamp not in self._headers:
            self._headers[stamp] = REASONS[extension](path)
        return self._headers[stamp]

    def _segmentations(self, candidates: dict[str, list[str]], found: Found) -> None:
        """Take out ``NAME.seg.EXT`` beside a scan ``NAME``."""
        for image_id in [i for i in candidates if i.lower().endswith(".seg") and i[:-4] in candidates]:
            for name in candidates.pop(image_id):
                found.left_out[printable(name)] = SEGMENTATION

    def _choose(
        self,
        image_id: str,
        names: list[str],
        known: str | None,
        drawn_on: Callable[[str, Path], bool],
        found: Found,
    ) -> None:
        """Which of several files is the scan of this id: the one that was outlined, else the one that was known."""
        chosen = names[0]
        if len(names) > 1:
            order = {extension: n for n, extension in enumerate((*EXTENSIONS, ""))}
            names = sorted(names, key=lambda n: (n != known, order[self._extension(n)], n))
            chosen = next((n for n in names if drawn_on(image_id, self._folder / n)), names[0])
        found.scans[image_id] = chosen
        for name in names:
            if name != chosen:
                found.left_out[printable(name)] = (
                    f"{printable(chosen)} has the same name and is the scan {image_id!r}. If this is another scan, "
                    "rename it"
                )

    def _extension(self, name: str) -> str:
        return "" if (self._folder / name).is_dir() else split(name)[1].lower()

    def files_of(self, name: str) -> list[Path]:
        """What has to be deleted with a scan: a header's data first, unless another header names them, too."""
        path = self._folder / name
        others = {
            file
            for other in self._folder.iterdir()
            if other.name != name and other.name.lower().endswith(HEADER)
            for file in data_files(other)
        }
        channels = [file for file in further_files(path) if file.is_file()]
        return [*(file for file in data_files(path) if file not in others), *channels, path]
