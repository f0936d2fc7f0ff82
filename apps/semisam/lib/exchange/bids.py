"""An export as BIDS derivatives (BIDS 1.10, "Derivatives", "Discrete segmentations").

::

    dataset_description.json
    README.md
    sub-01/ses-2/anat/sub-01_ses-2_desc-manual_dseg.nii.gz   .json   .tsv
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from lib.core.files import write_whole
from lib.core.json_files import write_json
from lib.formats.volumes import write_label

from .labelled import LabelledScan
from .names import bids_names, file_names

_VERSION = "1.10.0"
_README = """\
# Labels of {count} scans

Outlines and pseudo-labels, exported by semisam. `desc-manual` is a label that a person has drawn or accepted,
`desc-pseudo` one that a program has made and nobody has looked at. Each label lies on the voxels of its scan; the
values of its structures are in the `.tsv` file beside it. `labels.csv` names each label's scan, with volumes and
estimated quality.
"""


class BidsDerivatives:
    """Labels as discrete segmentations of BIDS.

    Args:
        scans: names of all scans of the study.
        structures: their names, in the order of their values.
    """

    name = "bids"
    table = "labels.csv"

    def __init__(self, scans: Sequence[str], structures: Sequence[str]) -> None:
        self._places, self._files = bids_names(scans), file_names(scans)
        self.structures = tuple(structures)
        self.stamp: Mapping[str, object] = {"format": self.name, "structures": list(structures)}

    def check_folder(self, folder: Path) -> None:
        """Any folder will do."""

    def file_of(self, scan: str) -> str:
        """A name for the notes about a scan; its files are named by BIDS's rules."""
        return self._files[scan]

    def files(self, case: LabelledScan) -> list[str]:
        """Which value is which structure, what is known of the label, and the label."""
        place = self._places[case.name]
        source = re.sub(r"[^A-Za-z0-9]", "", place.source)
        word = "manual" if case.origin.person else "pseudo"
        base = f"{place.folder}/{place.entities}_desc-{source + word.capitalize() if source else word}_dseg"
        return [f"{base}.tsv", f"{base}.json", f"{base}.nii.gz"]

    def write(self, folder: Path, case: LabelledScan) -> None:
        """Write the three files."""
        values, facts, label = self.files(case)
        colours = {each.name: "#{:02X}{:02X}{:02X}".format(*each.colour) for each in case.structures}
        self._write_values(folder / values, colours)
        write_json(folder / facts, _facts(case))
        write_label(folder / label, case.label, case.scan.affine)

    def finish(self, folder: Path, rows: Sequence[Mapping[str, object]]) -> None:
        """Write what describes the data set."""
        description = {
            "Name": "semisam labels",
            "BIDSVersion": _VERSION,
            "DatasetType": "derivative",
            "GeneratedBy": [{"Name": "semisam", "Description": "Labels of people, and labels made from them"}],
        }
        write_json(folder / "dataset_description.json", description)
        readme = _README.format(count=len(rows))
        write_whole(folder / "README.md", lambda name: Path(name).write_text(readme, encoding="utf-8"))
        write_whole(folder / ".bidsignore", lambda name: Path(name).write_text(f"{self.table}\n", encoding="utf-8"))

    def _write_values(self, path: Path, colours: Mapping[str, str]) -> None:
        def write(temporary: str) -> None:
            with open(temporary, "w", encoding="utf-8", newline="") as file:
                table = csv.writer(file, delimiter="\t", lineterminator="\n")
                table.writerow(["index", "name", "color"])
                table.writerows([[n, name, colours[name]] for n, name in enumerate(self.structures, 1)])

        write_whole(path, write)


def _facts(case: LabelledScan) -> dict[str, object]:
    """What a label's JSON says; names that are not BIDS's own are allowed there."""
    who = "drawn or accepted by a person" if case.origin.person else "made by a program, seen by nobody"
    facts: dict[str, object] = {
        "Description": f"Label {who}",
        "Manual": case.origin.person,
        "SpatialReference": "orig",
        "ScanName": case.name,
    }
    facts["Annotated"] = "all" if case.planes is None else "three planes only, see AnnotatedPlanes"
    if case.planes is not None:
        facts["AnnotatedPlanes"] = list(case.planes.at)
    if case.quality is not None:
        facts["EstimatedDice"] = round(case.quality, 4)
    return facts
