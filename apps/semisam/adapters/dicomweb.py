"""A DICOMweb server as a study: its series are the scans, its SEG objects the labels.

MONAI Label's own DICOMWebDatastore lists CT only, keeps lists for two hours, names segments by their position among
those present, never looks at a newer SEG of a scan, and takes half a download for a scan. This one is a StudyDatastore
whose folder is a cache: scans and labels come from the server when they are first asked for, and lists within seconds.

Which label is whose: the SEG objects that this app makes itself (``original``) lie in one series for each scan, whose
UID follows from the scan's. Every other SEG that refers to a scan is a person's label (``final``); the newest counts.
"""

from __future__ import annotations

import hashlib
import logging
import math
import os
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from fastapi import HTTPException
from monailabel.config import settings as server_settings
from monailabel.datastore.dicom import DICOMwebClientX
from monailabel.datastore.local import DataModel, ImageLabelModel
from monailabel.datastore.utils.colors import GENERIC_ANATOMY_COLORS
from monailabel.datastore.utils.convert import dicom_to_nifti
from pydicom.dataset import Dataset

from lib.dicom_seg import Origin, SegHeader, Segment, read_seg, write_seg
from lib.errors import UserError
from lib.label_names import names_in, value_map
from lib.labels import MAX_LABELS, LabelSchema
from lib.volumes import read_label, read_volume, write_label, write_whole

from .answers import http_answers
from .store import DICOM, FINAL, ORIGINAL, StudyDatastore

logger = logging.getLogger("semisam.dicomweb")

LIST_SECONDS = 10
"""Age at which the lists of series are fetched anew."""
NO_SCANS = frozenset(
    [
        *["ANN", "AU", "DOC", "ECG", "EPS", "FID", "HD", "KO", "OT", "PLAN", "PR", "REG", "RTDOSE", "RTPLAN"],
        *["RTRECORD", "RTSTRUCT", "RWV", "SEG", "SMR", "SR"],
    ]
)
"""Modalities of series that are no scans."""
VOLUMES = frozenset(["CT", "MR", "PT", "NM"])
"""Modalities whose single images are slices or whole volumes, never pictures."""

_PIXELS = "7FE00010"
_MONAI_FILTER = {"Modality": "CT"}
_MONAI_EXPIRY = 7200
_TIMEOUT = (5.0, 60.0)
"""Seconds for the connection, and for each part of an answer."""
_SETTLE_SECONDS = 30
"""A server may list a new SEG late: until then it is not missed."""
_FAILED_SECONDS = 60
"""How soon something that has failed is tried again."""
_PART, _LEFT_SECONDS = ".fetch-", 86400
"""Folder of a download under way, and the age at which nobody is any longer at it."""
_ANY = LabelSchema(tuple(f"label_{n}" for n in range(1, MAX_LABELS + 1)))
_PALETTE = (
    (230, 85, 13),
    (49, 130, 189),
    (49, 163, 84),
    (117, 107, 177),
    (240, 200, 40),
    (220, 80, 150),
    (60, 190, 190),
)


def open_dicomweb(address: str, labels: LabelSchema | None) -> DicomWebStudy:
    """The study at a DICOMweb address, with MONAI Label's settings for DICOMweb from the environment.

    Args:
        address: base of the DICOMweb services.
        labels: the structures if they are set; gives fetched labels their values.

    Raises:
        UserError: when the server cannot be asked and nothing is known from before.
    """
    search: dict[str, Any] = dict(server_settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER)
    age = float(server_settings.MONAI_LABEL_DICOMWEB_CACHE_EXPIRY)
    root = server_settings.MONAI_LABEL_DATASTORE_CACHE_PATH or server_settings.MONAI_LABEL_DICOMWEB_CACHE_PATH
    caches = Path(root.strip()) if root.strip() else Path.home() / ".cache" / "monailabel" / "dicom"
    digest = hashlib.sha256(address.encode()).hexdigest()[:16]
    client = _client(address)
    # Five attempts with ever longer pauses, the default, would hold up every client for half a minute.
    client.set_http_retry_params(max_attempts=2, wait_exponential_multiplier=250)
    return DicomWebStudy(
        client,
        caches.expanduser() / f"semisam-{digest}",
        # What MONAI Label sets of itself cannot be told from what a person has set to the same.
        search={} if search == _MONAI_FILTER else search,
        age=LIST_SECONDS if age == _MONAI_EXPIRY else age,
        labels=labels,
    )


def pseudo_series(scan: str) -> str:
    """UID of the series that holds this app's own labels of a scan."""
    return f"2.25.{uuid.uuid5(uuid.NAMESPACE_OID, f'semisam original {scan}').int}"


class DicomWebStudy(StudyDatastore):
    """The series of a DICOMweb server, each a scan; its id is the SeriesInstanceUID.

    Args:
        client: of the server.
        folder: the cache; nothing in it is the only copy, but for pseudo-labels that are empty.
        search: further conditions for series, as DICOM keywords.
        age: seconds after which the lists are fetched anew.
        labels: see ``open_dicomweb``.
    """

    def __init__(
        self,
        client: DICOMwebClient,
        folder: Path,
        *,
        search: Mapping[str, Any],
        age: float,
        labels: LabelSchema | None,
    ) -> None:
        self._client = client
        self._search = dict(search)
        self._age = age
        self._labels = labels
        self._due: float | None = None
        self._asking = threading.Lock()
        self._fetching = threading.RLock()
        self._segs: dict[tuple[str, int], SegHeader | None] = {}
        self._failed: dict[str, tuple[float, UserError]] = {}
        for left in folder.glob(f"{_PART}*"):
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
        super().__init__(str(folder))
        logger.info("DICOMweb server %s, cache %s, search %s", client.base_url, folder, self._search or "all scans")
        self._ask(first=True)

    def name(self) -> str:
        """The server's address."""
        return str(self._client.base_url)

    def watch(self) -> None:
        """Nothing to watch: the server is asked."""

    # --- lists ----------------------------------------------------------------------------------------------------

    def list_images(self) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().list_images())

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().get_labeled_images())

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        """See the base class."""
        self._ask()
        return list(super().get_unlabeled_images())

    def get_label_by_image_id(self, image_id: str, tag: str) -> str:
        """See the base class."""
        self._ask()
        return str(super().get_label_by_image_id(image_id, tag))

    def json(self) -> dict[str, Any]:
        """See the base class."""
        self._ask()
        return dict(super().json())

    def datalist(self, full_path: bool = True) -> list[dict[str, Any]]:
        """Paths of the outlined scans and their labels, which are fetched."""
        names = self.get_labeled_images()
        return [{"image": self.get_image_uri(n), "label": self.get_label_uri(n, FINAL)} for n in names]

    def _ask(self, *, first: bool = False) -> None:
        """Fetch the lists if they are old; what is known stays when the server does not answer.

        Raises:
            UserError: at the first time, when nothing is known either.
        """
        if self._drafter == threading.get_ident() and self._draft is not None:
            return
        if self._due is not None and time.monotonic() < self._due:
            return
        if not self._asking.acquire(blocking=self._due is None):
            return
        try:
            began, wait = time.time(), self._age
            try:
                scans, segs = self._series(), self._seg_headers()
            except Exception as error:
                # Network, HTTP status, JSON: the client raises many kinds of errors.
                text = f"The DICOMweb server {self.name()} does not answer ({type(error).__name__}: {error})"
                if first and not self._datastore.objects:
                    raise UserError(f"{text[:400]}. Check its address and log-in, and start again.") from error
                logger.warning("%s; the lists are those of before", text[:400])
                # A silent server holds up every client for a while.
                wait = max(wait, _FAILED_SECONDS)
                return
            finally:
                self._due = time.monotonic() + wait
            self._adopt(scans, segs, began)
        finally:
            self._asking.release()

    def _series(self) -> dict[str, DataModel]:
        answers = [Dataset.from_json(found) for found in self._search_series(self._search)]
        scans = {}
        for found in answers:
            uid, modality = _text(found, "SeriesInstanceUID"), _text(found, "Modality")
            if modality in NO_SCANS or not uid.replace(".", "").isdigit():
                continue
            count = int(found.get("NumberOfSeriesRelatedInstances") or 0)
            extension = DICOM if modality not in VOLUMES and count == 1 else ".nii.gz"
            keys = ("StudyDate", "StudyTime", "Modality", "PatientID", "StudyInstanceUID", "SeriesDescription")
            info: dict[str, Any] = {key: _text(found, key) or "UNK" for key in keys}
            # Not the server's own RetrieveURL: behind a proxy or another port it is often wrong.
            url = f"{self.name().rstrip('/')}/studies/{info['StudyInstanceUID']}/series/{uid}"
            info.update(SeriesInstanceUID=uid, RetrieveURL=url, instances=count, name=f"{uid}{extension}")
            scans[uid] = DataModel(info=info, ext=extension)
        return scans

    def _search_series(self, conditions: Mapping[str, Any]) -> list[dict[str, Any]]:
        fields = ["PatientID", "StudyInstanceUID", "StudyDate", "StudyTime", "SeriesDescription", "Modality"]
        found: list[dict[str, Any]] = self._client.search_for_series(
            search_filters=dict(conditions), fields=[*fields, "NumberOfSeriesRelatedInstances"], get_remaining=True
        )
        return found

    def _seg_headers(self) -> list[tuple[str, str, SegHeader]]:
        """Study UID, series UID and header of the newest SEG of each series; each is looked into once."""
        headers = []
        objects = self._datastore.objects
        own = {pseudo_series(uid) for uid, item in objects.items() if ORIGINAL in item.labels}
        finals = [(uid, item.labels[FINAL].info) for uid, item in objects.items() if FINAL in item.labels]
        known = {info.get("SeriesInstanceUID"): _header_of(uid, info) for uid, info in finals}
        for found in self._search_series({"Modality": "SEG"}):
            answer = Dataset.from_json(found)
            study, series = _text(answer, "StudyInstanceUID"), _text(answer, "SeriesInstanceUID")
            key = series, int(answer.get("NumberOfSeriesRelatedInstances") or 0)
            if series in own:
                continue
            header = known.get(series) if key[1] == 1 else None
            if header is None and key not in self._segs:
                metadata = self._client.retrieve_series_metadata(study, series)
                headers_only = [{k: v for k, v in instance.items() if k != _PIXELS} for instance in metadata]
                each = [SegHeader.of(Dataset.from_json(instance)) for instance in headers_only]
                self._segs[key] = max(each, key=lambda one: one.created, default=None)
            header = header or self._segs[key]
            if header is not None and header.scan and header.uid:
                headers.append((study, series, header))
        return headers

    def _adopt(self, scans: Mapping[str, DataModel], segs: Sequence[tuple[str, str, SegHeader]], began: float) -> None:
        """Bring what is known in line with the lists of the server, fetched at ``began``."""
        newest: dict[tuple[str, str], DataModel] = {}
        for study, series, header in sorted(segs, key=lambda seg: (seg[2].created, seg[2].uid)):
            tag = ORIGINAL if series == pseudo_series(header.scan) else FINAL
            info = {**_seg_info(study, series, header), "listed": True}
            newest[header.scan, tag] = DataModel(info=info, ext=".nii.gz")
        listed = {header.uid for _, _, header in segs}
        with self._transaction():
            before = self._datastore.model_dump()
            objects = self._datastore.objects
            for uid in set(objects) - set(scans):
                self._forget(uid)
            for uid, scan in scans.items():
                known = objects.get(uid)
                if known is None:
                    objects[uid] = ImageLabelModel(
                        image=scan.model_copy(update={"info": {"ts": int(began), **scan.info}})
                    )
                    continue
                if known.image.info.get("instances") != scan.info["instances"]:
                    self._drop_copy(uid)  # the series was still arriving
                known.image.info.update(scan.info)
                known.image.ext = scan.ext
            for uid, item in objects.items():
                final, theirs = item.labels.get(FINAL), newest.get((uid, FINAL))
                if final is not None and final.info.get("SOPInstanceUID") in listed:
                    final.info["listed"] = True
                if theirs is not None and (final is None or _is_newer(theirs, final)):
                    self._delete_label(uid, FINAL)
                    item.labels[FINAL] = theirs
                elif theirs is None and final is not None and _may_be_missed(final, began):
                    logger.info("The final label of %s is no longer on the server", uid)
                    self._delete_label(uid, FINAL)
                    del item.labels[FINAL]
                own = newest.get((uid, ORIGINAL))
                if own is not None and ORIGINAL not in item.labels:
                    item.labels[ORIGINAL] = own
            if self._datastore.model_dump() != before:
                self._update_datastore_file()

    def _forget(self, uid: str) -> None:
        """Take out a series that the server no longer has; pseudo-labels stay on the disk in case it comes back."""
        logger.info("Series %s is no longer listed by the server", uid)
        self._delete_label(uid, FINAL)
        self._drop_copy(uid)
        del self._datastore.objects[uid]

    def _drop_copy(self, uid: str) -> None:
        self._failed.pop(uid, None)
        folder = Path(self._datastore_path)
        shutil.rmtree(folder / uid, ignore_errors=True)
        for extension in (".nii.gz", DICOM):
            (folder / f"{uid}{extension}").unlink(missing_ok=True)

    def _delete_label(self, uid: str, tag: str) -> None:
        folder = Path(self._datastore.label_path(tag))
        for path in folder.glob(f"{uid}.*"):
            path.unlink(missing_ok=True)

    # --- the cache folder -----------------------------------------------------------------------------------------

    def _add_non_existing_images(self) -> int:
        """Only the server says which scans there are."""
        return 0

    def _add_non_existing_labels(self, tag: str) -> int:
        """Only the server says which labels are people's."""
        return 0 if tag == FINAL else int(super()._add_non_existing_labels(tag))

    def _remove_non_existing(self) -> int:
        """A file that is not there has not been fetched yet; only labels that are nowhere else are gone."""
        gone = 0
        for uid, item in self._datastore.objects.items():
            for tag, label in list(item.labels.items()):
                path = os.path.join(self._datastore.label_path(tag), self._filename(uid, label.ext))
                if not label.info.get("SOPInstanceUID") and not os.path.exists(path):
                    del item.labels[tag]
                    gone += 1
        return gone

    # --- fetching -------------------------------------------------------------------------------------------------

    def get_image_uri(self, image_id: str) -> str:
        """Path of the scan, which is fetched if it is not there yet.

        Raises:
            HTTPException: when it cannot be fetched.
        """
        item = self._datastore.objects.get(image_id)
        if item is None:
            return ""
        path = Path(super().get_image_uri(image_id))
        if not path.is_file():
            with http_answers(), self._fetching, self._once_in_a_while(image_id):
                series = self._fetch(image_id)
                if item.image.ext == DICOM:
                    file = next(p for p in series.iterdir() if p.is_file())
                    write_whole(path, lambda name: shutil.copyfile(file, name))
                else:
                    self._convert(series, path)
        return str(path)

    @contextmanager
    def _once_in_a_while(self, key: str) -> Iterator[None]:
        """Fail at once if the same has failed a moment ago: bad scans and labels are asked for again and again."""
        at, known = self._failed.get(key, (-math.inf, None))
        if known is not None and time.monotonic() - at < _FAILED_SECONDS:
            raise UserError(str(known), status=known.status)
        try:
            yield
        except UserError as error:
            self._failed[key] = time.monotonic(), error
            raise

    def _convert(self, series: Path, path: Path) -> None:
        try:
            made = dicom_to_nifti(str(series))
        except RuntimeError as error:
            raise UserError(
                f"Series {series.name} cannot be read as one volume ({str(error).strip().splitlines()[-1][:160]}).",
                status=422,
            ) from error
        try:
            write_whole(path, lambda name: shutil.copyfile(made, name))
        finally:
            os.unlink(made)

    def _fetch(self, uid: str) -> Path:
        """Folder with the files of a series; half a download is never taken for one."""
        folder = Path(self._datastore_path) / uid
        if folder.is_dir():
            return folder
        study = str(self._known(uid).image.info["StudyInstanceUID"])
        part = Path(tempfile.mkdtemp(prefix=_PART, dir=self._datastore_path))
        try:
            with self._answering(f"Series {uid} could not be fetched"):
                count = 0
                for instance in self._client.iter_series(study, uid):
                    instance.save_as(part / f"{instance.SOPInstanceUID}.dcm", write_like_original=False)
                    count += 1
            if not count:
                raise UserError(f"Series {uid} is empty on the DICOMweb server.", status=422)
            try:
                os.replace(part, folder)
            except OSError:
                if not folder.is_dir():  # else another process was faster
                    raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
        logger.info("Series %s fetched, %d files", uid, count)
        return folder

    def get_label_uri(self, label_id: str, label_tag: str, image_id: str = "") -> str:
        """Path of a label, which is fetched if it is not there yet; one that cannot be fetched is not at its path."""
        tag = str(getattr(label_tag, "value", label_tag))
        label = self._datastore.label(label_id, tag)
        if label is None:
            return ""
        path = Path(super().get_label_uri(label_id, tag))
        uid = str(label.info.get("SOPInstanceUID") or "")
        if not path.is_file() and uid:
            try:
                with self._fetching, self._once_in_a_while(uid):
                    self._fetch_label(label_id, label, path)
            except (UserError, HTTPException) as error:
                # One bad SEG must not stand in the way of all other labels: whoever reads the path finds nothing there.
                logger.warning("The SEG %s of %s cannot be used: %s", uid, label_id, getattr(error, "detail", error))
        return str(path)

    def _fetch_label(self, scan_id: str, label: DataModel, path: Path) -> None:
        info = label.info
        with self._answering(f"SEG {info['SOPInstanceUID']} could not be fetched"):
            seg = self._client.retrieve_instance(
                info["StudyInstanceUID"], info["SeriesInstanceUID"], info["SOPInstanceUID"]
            )
        scan = read_volume(self.get_image_uri(scan_id))
        named = names_in(info)
        values = None
        if self._labels is not None and all(_position(name, self._labels) for name, _ in named):
            values = {number: _position(name, self._labels) for name, number in named}
        array = read_seg(seg, scan, values)
        write_label(path, array, scan.affine)

    @contextmanager
    def _answering(self, what: str) -> Iterator[None]:
        """Raise UserError (502) when the server does not do its part."""
        try:
            yield
        except (requests.RequestException, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, requests.RequestException):
                raise
            raise UserError(
                f"{what}: the DICOMweb server {self.name()} does not answer as it should ({str(error)[:200]}). "
                "Try again later.",
                status=502,
            ) from error

    # --- changes --------------------------------------------------------------------------------------------------

    @http_answers()
    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        """Refused: scans come from the server."""
        raise UserError(f"Scans of this study come from {self.name()}: send them there as DICOM.", status=409)

    @http_answers()
    def remove_image(self, image_id: str) -> None:
        """Refused: DICOMweb cannot delete."""
        raise UserError(f"Delete the series {image_id} on the DICOM server {self.name()} itself.", status=409)

    @http_answers()
    def remove_label(self, label_id: str, label_tag: str) -> None:
        """Refused for what the server has: DICOMweb cannot delete, and the label would come back."""
        label = self._known(label_id).labels.get(str(getattr(label_tag, "value", label_tag)))
        if label is not None and label.info.get("SOPInstanceUID"):
            raise UserError(
                f"This label is the SEG series {label.info['SeriesInstanceUID']} on {self.name()}. Delete it there, "
                "and it is gone here within a minute.",
                status=409,
            )
        super().remove_label(label_id, label_tag)

    @http_answers()
    def save_labels(self, label_tag: str, labels: Mapping[str, tuple[str, Mapping[str, Any] | None]]) -> None:
        """Store labels on the server as DICOM SEG, and a copy here.

        A person's label that does not get there is refused, so that nobody takes it for safe. The app's own is kept
        here.
        """
        tag = str(getattr(label_tag, "value", label_tag))
        if tag == FINAL:
            self._refuse_unless_serving()
        stored: dict[str, tuple[str, Mapping[str, Any] | None]] = {}
        for scan_id, (file, info) in labels.items():
            self._known(scan_id)
            note: dict[str, Any] = {}
            if tag in (FINAL, ORIGINAL):
                try:
                    note = self._send(scan_id, file, tag, info or {})
                except UserError as error:
                    if tag == FINAL:
                        raise
                    logger.warning("The label of %s is kept here only: %s", scan_id, error)
                    note = {"only_here": str(error)}
            stored[scan_id] = file, {**(info or {}), **note}
        super().save_labels(tag, stored)

    def _send(self, scan_id: str, file: str, tag: str, info: Mapping[str, Any]) -> dict[str, Any]:
        """Upload a label as SEG; returns what to note beside it."""
        scan = read_volume(self.get_image_uri(scan_id))
        label = read_label(file, scan, _ANY)
        person = tag == FINAL
        origin = Origin(
            description="semisam: label" if person else "semisam: pseudo-label",
            algorithm=f"semisam {info['model']}" if info.get("model") else None if person else "semisam",
            person=person,
            series=None if person else pseudo_series(scan_id),
        )
        seg = write_seg(label, scan.affine, self._fetch(scan_id), self._segments(label, info), origin)
        with self._answering("The label could not be stored"):
            answer = self._client.store_instances([seg])
        if answer.get("FailedSOPSequence") or not answer.get("ReferencedSOPSequence"):
            raise UserError(f"The DICOMweb server {self.name()} has refused the label (DICOM SEG).", status=502)
        header = SegHeader.of(seg)
        note = _seg_info(str(seg.StudyInstanceUID), str(seg.SeriesInstanceUID), header)
        # The copy here has the values as they were saved; what they are called is in the info that came along.
        return {k: v for k, v in note.items() if k != "label_info"}

    def _segments(self, label: np.ndarray, info: Mapping[str, Any]) -> list[Segment]:
        present = [int(v) for v in np.unique(label) if v]
        named = names_in(info)
        if named:
            # As value_map reads them: by place in the list, unless the values go beyond it.
            by_position = max(present) <= len(named)
            names = {n if by_position else value: name for n, (name, value) in enumerate(named, start=1)}
            schema = self._labels
            if by_position and schema is not None and schema.count > 1 and _agrees(named, present, schema):
                names = {value: name for name, value in named}
        else:
            names = {v: k for k, v in self._labels.as_dict().items()} if self._labels is not None else {}
        given = {str(e.get("name")): e.get("color") for e in info.get("label_info") or [] if isinstance(e, Mapping)}
        return [Segment(v, name := names.get(v, f"label_{v}"), _colour(name, v, given.get(name))) for v in present]


def _agrees(named: Sequence[tuple[str, int]], present: Sequence[int], schema: LabelSchema) -> bool:
    """Whether the study will read the values of this label as they are, see ``lib.label_names.value_map``."""
    try:
        return not value_map(named, max(present), schema, "The label")
    except UserError:
        return False


def _position(name: str, schema: LabelSchema) -> int:
    """The value of a structure by its name, 0 when there is none."""
    plain = {" ".join(n.lower().replace("_", " ").replace("-", " ").split()): v for n, v in schema.as_dict().items()}
    return plain.get(" ".join(name.lower().replace("_", " ").replace("-", " ").split()), 0)


def _seg_info(study: str, series: str, header: SegHeader) -> dict[str, Any]:
    return {
        "ts": int(time.time()),
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "SOPInstanceUID": header.uid,
        "created": header.created,
        "label_info": [{"name": name, "idx": number} for name, number in header.names],
    }


def _header_of(scan: str, info: Mapping[str, Any]) -> SegHeader:
    """What is noted of a SEG, as far as it takes to compare it with others."""
    return SegHeader(str(info.get("SOPInstanceUID", "")), scan, (), str(info.get("created", "")))


def _is_newer(theirs: DataModel, own: DataModel) -> bool:
    if theirs.info["SOPInstanceUID"] == own.info.get("SOPInstanceUID"):
        return False
    return str(theirs.info["created"]) > str(own.info.get("created", ""))


def _may_be_missed(label: DataModel, at: float) -> bool:
    """Whether a label that the server does not list at this time was deleted there."""
    return bool(label.info.get("listed")) or label.info.get("ts", 0) < at - _SETTLE_SECONDS


def _colour(name: str, value: int, given: object) -> tuple[int, int, int]:
    """The colour that a viewer sent, else the usual one of the structure, else one of a few."""
    if isinstance(given, Sequence) and not isinstance(given, str) and len(given) >= 3:
        numbers = [float(c) for c in given[:3]]
        return tuple(int(min(max(c, 0), 255)) for c in numbers)  # type: ignore[return-value]
    plain = " ".join(name.lower().replace("_", " ").split())
    known: tuple[int, int, int] | None = GENERIC_ANATOMY_COLORS.get(plain)
    return known or _PALETTE[(value - 1) % len(_PALETTE)]


def _client(address: str) -> DICOMwebClient:
    if "googleapis.com" in address:
        from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials

        return DICOMwebClient(url=address, session=_limited(create_session_from_gcp_credentials()))
    session = requests.Session()
    user = server_settings.MONAI_LABEL_DICOMWEB_USERNAME or server_settings.MONAI_LABEL_DATASTORE_USERNAME
    password = server_settings.MONAI_LABEL_DICOMWEB_PASSWORD or server_settings.MONAI_LABEL_DATASTORE_PASSWORD
    if user and password:
        session = create_session_from_user_pass(user, password)
    return DICOMwebClientX(
        url=address,
        session=_limited(session),
        qido_url_prefix=server_settings.MONAI_LABEL_QIDO_PREFIX,
        wado_url_prefix=server_settings.MONAI_LABEL_WADO_PREFIX,
        stow_url_prefix=server_settings.MONAI_LABEL_STOW_PREFIX,
    )


class _Limited(requests.adapters.HTTPAdapter):
    """Requests that end: without a limit, a silent DICOM server would hold up every client."""

    def send(self, request: requests.PreparedRequest, **arguments: Any) -> requests.Response:  # type: ignore[override]
        """See the base class."""
        return super().send(request, **{**arguments, "timeout": arguments.get("timeout") or _TIMEOUT})


def _limited(session: requests.Session) -> requests.Session:
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Limited())
    return session


def _text(dataset: Dataset, name: str) -> str:
    value = dataset.get(name)
    return "" if value is None else str(value).strip()
