"""A scan in several files as one file that viewers open.

``server.upstream.image_download`` sends it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import tempfile
from pathlib import Path

from lib.formats.channels import channels, is_first
from lib.formats.pictures import is_picture
from lib.formats.volumes import read_volume, write_label
from lib.formats.voxel_types import exact_type

from .detached import HEADER, data_files, join
from .scan_marks import files_of, stamp_of_files

logger = logging.getLogger("semisam.store")

FOLDER = ".for-viewers"
"""Within the study: copies of patients' scans belong nowhere else."""


class ViewerFiles:
    """Files made for viewers, kept until the scan changes or goes.

    Args:
        study: folder of the study.
        read_only: keep them among the temporary files instead.
    """

    def __init__(self, study: Path, *, read_only: bool) -> None:
        self._place = Path(tempfile.gettempdir()) / f"semisam-viewers-{os.getpid()}" if read_only else study / FOLDER

    def file_of(self, image_id: str, scan: Path) -> Path:
        """The file for viewers, whether it is there yet or not: the scan itself as a rule."""
        if scan.is_dir():
            return self._folder(image_id, scan) / f"{image_id}.nii.gz"
        if scan.name.lower().endswith(HEADER) and data_files(scan):
            return self._folder(image_id, scan) / f"{image_id}.mha"
        if channels() and not is_first(scan.name) and not is_picture(scan):
            return self._folder(image_id, scan) / f"{image_id}.nii.gz"  # the first of its channels
        return scan

    def make(self, image_id: str, scan: Path) -> Path:
        """The file for viewers, made now if need be.

        Raises:
            UserError: (422) when the scan cannot be read.
        """
        file = self.file_of(image_id, scan)
        if file == scan or file.is_file():
            return file
        self.drop(image_id)
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        if not scan.name.lower().endswith(HEADER):
            volume = read_volume(scan)
            write_label(file, volume.array, volume.affine, exact_type(volume.array))
        else:
            join(scan, file)
        logger.info("%s was made for viewers", file.name)
        return file

    def drop(self, image_id: str) -> None:
        """Delete what was made of a scan."""
        folders = list(self._place.glob(f"{_hash(image_id)}-*")) if self._place.is_dir() else []
        for folder in folders:
            for file in folder.iterdir():
                file.unlink(missing_ok=True)
            folder.rmdir()

    def _folder(self, image_id: str, scan: Path) -> Path:
        """Another one whenever the scan's files have changed."""
        try:
            stamp = stamp_of_files(files_of(scan))
        except OSError:
            stamp = 0, 0, 0
        return self._place / f"{_hash(image_id)}-{_hash(repr(stamp))}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
