"""What is known of a label of a study on a DICOM server: which SEG it is there, or why it is kept here only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from monailabel.datastore.local import DataModel

_LATER = "+"
"""After a moment: a moment later. A longer text sorts after its own beginning."""


@dataclass(frozen=True)
class StoredSeg:
    """A SEG on the server.

    Args:
        dicom_study: UID of the DICOM study (one exam) that it belongs to.
        series: UID of its series.
        uid: its own UID.
        created: when it was made, as DICOM says it: texts of which the later ones sort last.
        listed: whether the server has listed it.
        sent: when it was sent from here, in seconds since 1970; None when another program has made it.
    """

    dicom_study: str
    series: str
    uid: str
    created: str = ""
    listed: bool = False
    sent: int | None = None

    @property
    def clock_was_wrong(self) -> bool:
        """Whether it goes after an older one though its clock says otherwise."""
        return self.created.endswith(_LATER)

    def after(self, before: DicomLabelFacts | None) -> StoredSeg:
        """The same, going after the label before, whose clock may be ahead."""
        known = before.seg.created if before is not None and before.seg is not None else ""
        return replace(self, created=f"{known}{_LATER}") if known >= self.created else self

    def to_info(self) -> dict[str, Any]:
        """As MONAI Label's list keeps it."""
        info: dict[str, Any] = {"StudyInstanceUID": self.dicom_study, "SeriesInstanceUID": self.series}
        info |= {"SOPInstanceUID": self.uid, "created": self.created}
        info |= {"listed": True} if self.listed else {}
        return info | ({} if self.sent is None else {"sent": self.sent})


@dataclass(frozen=True)
class DicomLabelFacts:
    """What is known of a label.

    Args:
        seg: which SEG it is on the server; None when the server does not have it.
        saved: when it was saved, in seconds since 1970; None when that is not known.
        content: tells its voxels and names from others; empty when that is not known.
        send_as: UID that its SEG is to have, noted before it is sent for the first time.
        only_here: why the server does not have it; empty before it was tried.
        away: whether that was because the server did not answer; None when that is not known.
        said: what viewers, the app and the SEG say about it: ``label_info``, ``params``, ``annotated``, ``model`` ...
    """

    seg: StoredSeg | None = None
    saved: int | None = None
    content: str = ""
    send_as: str = ""
    only_here: str = ""
    away: bool | None = None
    said: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> DicomLabelFacts:
        """The facts in MONAI Label's notes of a label."""
        rest = dict(info)
        dicom_study, series, uid = (
            str(rest.pop(key, "")) for key in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID")
        )
        created, listed, sent = str(rest.pop("created", "")), bool(rest.pop("listed", False)), rest.pop("sent", None)
        return cls(
            seg=StoredSeg(dicom_study, series, uid, created, listed, sent) if uid else None,
            saved=rest.pop("ts", None),
            content=str(rest.pop("content", "") or ""),
            send_as=str(rest.pop("send_as", "") or ""),
            only_here=str(rest.pop("only_here", "") or ""),
            away=rest.pop("away", None),
            said=rest,
        )

    @classmethod
    def of(cls, label: DataModel) -> DicomLabelFacts:
        """The facts of a label in MONAI Label's list."""
        return cls.from_info(label.info)

    def to_info(self) -> dict[str, Any]:
        """The notes as MONAI Label and viewers know them."""
        texts = {"content": self.content, "send_as": self.send_as, "only_here": self.only_here}
        info = {**self.said, **({} if self.seg is None else self.seg.to_info())}
        info |= {key: text for key, text in texts.items() if text}
        info |= {} if self.saved is None else {"ts": self.saved}
        return info | ({} if self.away is None else {"away": self.away})

    def model(self, extension: str) -> DataModel:
        """The label as MONAI Label's list has it.

        Args:
            extension: of the file here.
        """
        return DataModel(info=self.to_info(), ext=extension)

    def on_server(self, stored: DicomLabelFacts) -> DicomLabelFacts:
        """The same, now that the server has it.

        Args:
            stored: what is known of it there.
        """
        names = {key: value for key, value in stored.said.items() if key == "label_info"}
        return replace(self, seg=stored.seg, said={**self.said, **names}, only_here="", away=None)

    def kept_here(self, reason: str, *, away: bool) -> DicomLabelFacts:
        """The same, as the server could not be given it."""
        return replace(self, only_here=reason, away=away)
