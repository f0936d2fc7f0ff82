"""What is known of a label, besides its voxels: one typed record, made from and given as MONAI Label's ``info``.

Everything that reads or writes such notes does it here: the notes beside a label's file, MONAI Label's list, and what
viewers send and see.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lib.core.errors import UserError
from lib.core.label_names import names_in
from lib.core.sparse_labels import stated
from server.people.current import person

from .scan_marks import ScanMark

_TEXTS = ("annotated", "client_id", "user", "model")
_OWN = ("ts", "name", "content", "away", "send_as")
_SEG = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "created", "listed", "sent", "only_here", "content")


@dataclass(frozen=True)
class NamedValue:
    """One entry of a viewer's ``label_info``.

    Args:
        name: of a structure.
        number: ``idx``, None when it did not come along: the place in the list then.
        more: what else came along, such as ``color``.
    """

    name: str
    number: int | None
    more: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class LabelFacts:
    """What is known of one content of a label file.

    Args:
        content: SHA-256 of the file that this is known of; empty for what is not stored yet.
        saved: when, in seconds since 1970; 0 when that is not known.
        named: what its values are called, as the viewer sent it.
        params: what the app found out when it made the label; ``label_names`` names its values.
        annotated: what is annotated in it (see ``lib.core.sparse_labels``), client, person and model, as far as known.
        client_id: program that sent it.
        user: who sent it.
        model: what made it.
        seg: which DICOM SEG on a server it is, and when it was sent.
        scan: the scan that it was drawn on; None when that is not known.
        more: what else a client has said.
    """

    content: str = ""
    saved: int = 0
    named: tuple[NamedValue, ...] = ()
    params: Mapping[str, Any] | None = None
    annotated: str | None = None
    client_id: str | None = None
    user: str | None = None
    model: str | None = None
    seg: Mapping[str, Any] = field(default_factory=dict)
    scan: ScanMark | None = None
    more: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_info(cls, info: Mapping[str, Any]) -> LabelFacts:
        """The facts in MONAI Label's notes; what has another form than it should stays among ``more``."""
        rest = {key: value for key, value in info.items() if key != "name"}
        texts = {key: rest.pop(key) for key in _TEXTS if isinstance(rest.get(key), str)}
        saved = rest.pop("ts") if isinstance(rest.get("ts"), int) else 0
        params = rest.pop("params") if isinstance(rest.get("params"), Mapping) else None
        named = _named(rest.get("label_info"))
        if named is not None:
            del rest["label_info"]
        seg = {key: rest.pop(key) for key in _SEG if key in rest}
        return cls(saved=saved, named=named or (), params=params, seg=seg, more=rest, **texts)

    def to_info(self, file: str) -> dict[str, Any]:
        """The notes as MONAI Label and viewers know them, of a label file of this name."""
        info: dict[str, Any] = dict(self.more)
        info |= {key: value for key in _TEXTS if (value := getattr(self, key)) is not None}
        if self.named:
            info["label_info"] = [
                {"name": n.name, **({} if n.number is None else {"idx": n.number}), **n.more} for n in self.named
            ]
        if self.params is not None:
            info["params"] = dict(self.params)
        return {**info, **self.seg, "ts": self.saved, "name": file}

    @property
    def names(self) -> tuple[tuple[str, int], ...]:
        """Names and numbers of its values, in the order of the notes."""
        return tuple(names_in(self.to_info("")))

    @property
    def said(self) -> str:
        """What is said about what is annotated in it: ``auto``, ``all`` or ``planes``, not checked."""
        return stated(self.to_info(""))

    def of(self, content: str, scan: ScanMark | None, saved: int) -> LabelFacts:
        """The same, known of a file."""
        return replace(self, content=content, scan=scan, saved=saved)

    def to_json(self) -> dict[str, Any]:
        """For the notes beside the file."""
        info = self.to_info("")
        del info["name"]
        return {"content": self.content, "info": info, **({"scan": self.scan.to_json()} if self.scan else {})}

    @classmethod
    def from_json(cls, entry: Mapping[str, Any]) -> LabelFacts:
        """Reads ``to_json``.

        Raises:
            ValueError, TypeError, KeyError: for anything else.
        """
        facts = cls.from_info(dict(entry["info"]))
        scan = ScanMark.from_json(entry["scan"]) if entry.get("scan") else None
        return replace(facts, content=str(entry["content"]), scan=scan)


def said_by_client(info: Mapping[str, Any]) -> dict[str, Any]:
    """What a client says about a label, without what only the app knows: what it is, and where it was sent.

    Who has logged in is the ``user``, whatever the client says.

    Raises:
        UserError: (422) when the names of its values have a form that nobody understands.
    """
    entries = info.get("label_info")
    listed = isinstance(entries, Sequence) and not isinstance(entries, str)
    good = all(
        isinstance(each, str) or (isinstance(each, Mapping) and isinstance(each.get("name"), str))
        for each in (entries if listed else ())  # type: ignore[union-attr]
    )
    if entries is not None and not (isinstance(entries, Mapping) or (listed and good)):
        raise UserError(
            "label_info: the names of the label's values must be a list, each with name and idx, such as "
            '[{"name": "liver", "idx": 1}]. Save it again with that.',
            status=422,
        )
    said = {key: value for key, value in info.items() if key not in (*_OWN, *_SEG)}
    return {**said, "user": person()} if person() else said


def _named(entries: object) -> tuple[NamedValue, ...] | None:
    """The entries of a ``label_info``; None when they have another form than viewers give them."""
    if not isinstance(entries, Sequence) or isinstance(entries, str) or not entries:
        return None
    found = []
    for entry in entries:
        if not isinstance(entry, Mapping) or not isinstance(entry.get("name"), str):
            return None
        number = entry.get("idx")
        if number is not None and (isinstance(number, bool) or not isinstance(number, int)):
            return None
        found.append(NamedValue(entry["name"], number, {k: v for k, v in entry.items() if k not in ("name", "idx")}))
    return tuple(found)
