"""What 3D Slicer's MONAI Label module sends, reads and does with the answers.

After ``plugins/slicer/MONAILabel`` of MONAI Label 0.8 and Slicer's ``vtkSlicerSegmentationsModuleLogic``. Requests are
spelt out, not left to ``monailabel.client``, so that they do not change with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import requests
from monai.data import ITKReader
from requests_toolbelt import MultipartDecoder  # type: ignore[import-untyped]

from lib.core.geometry import Volume
from lib.formats.volumes import read_volume
from tiny_study import save_nifti

AUTO, SMART = ("segmentation", "detection"), ("deepgrow", "deepedit")
UNSENT = ("background", "foreground_scribbles", "background_scribbles")
"""Segments that are counted in ``idx``, but never sent."""


class Slicer:
    """One Slicer that is connected to a server.

    Args:
        url: of the server.
        folder: its temporary folder.
        same_machine: whether it can read paths on the server's disk.
    """

    def __init__(self, url: str, folder: Path, *, same_machine: bool = True) -> None:
        self.url = url
        self._folder = folder
        self._folder.mkdir(exist_ok=True)
        self._same_machine = same_machine
        self.info: dict[str, Any] = {}
        self.sample: dict[str, Any] = {}
        self.scan: Volume | None = None
        self._files = 0

    # --- connect --------------------------------------------------------------------------------------------------

    def fetch_info(self) -> dict[str, Any]:
        """*Fetch models*: fills the panels; raises where the module would."""
        self.info = self._json(self._get("/info/"))
        assert "config" not in self.info  # would replace all options
        for group in ("models", "trainers", "strategies", "scoring"):
            for name, entry in self.info[group].items():
                for key, value in entry.get("config", {}).items():
                    self._check_option(f"{group}/{name}/{key}", value)
        for name, model in self.info["models"].items():
            assert model["description"], name
            assert isinstance(model["labels"], (dict, list)), name
            assert model["dimension"] in (2, 3), name
        return self.info

    @staticmethod
    def _check_option(name: str, value: object) -> None:
        if isinstance(value, (list, dict)):
            assert value, name
            assert all(isinstance(each, str) for each in value), f"{name}: Slicer's list breaks on anything but text"
        else:
            assert isinstance(value, (bool, int, float, str)), name

    def models(self, kinds: Sequence[str]) -> list[str]:
        """Models that a panel offers."""
        return [name for name, model in self.info["models"].items() if model["type"] in kinds]

    @property
    def train_enabled(self) -> bool:
        """Whether *Train* can be pressed."""
        return bool(self.info["trainers"]) and self.info["datastore"]["completed"] >= 1

    def options(self, group: str, name: str) -> dict[str, Any]:
        """What the options table sends when nobody has touched it: the first entry of each list."""
        config = self.info[group][name].get("config", {})
        return {k: next(iter(v)) if isinstance(v, (list, dict)) else v for k, v in config.items()}

    # --- next sample ----------------------------------------------------------------------------------------------

    def next_sample(self, strategy: str, *, load: str | None = None) -> dict[str, Any]:
        """*Next Sample*: asks, and loads the scan. ``load`` names a scan that is loaded in place of the answer."""
        params = {**self.options("strategies", strategy), "client_id": "slicer"}
        self.sample = self._json(self._post(f"/activelearning/{strategy}", json=params))
        if load is not None:
            info = self._json(self._get("/datastore/image/info", params={"image": load}))
            self.sample = {"id": load, **info}
        if not self.sample:
            self.scan = None
            return {}
        path = Path(str(self.sample.get("path", "")))
        if not (self._same_machine and path.is_file()):
            reply = self._get("/datastore/image", params={"image": self.sample["id"]})
            assert reply.ok, reply.text
            name = self.sample.get("name") or Path(reply.headers["content-disposition"].split('"')[1]).name
            path = self._folder / str(name)
            path.write_bytes(reply.content)
        self.scan = read_volume(path)
        return self.sample

    def original_label(self) -> dict[str, np.ndarray]:
        """The stored pseudo-label that comes with the scan when *Original Labels* is ticked; {} when there is none."""
        objects = self._json(self._get("/datastore/", params={"output": "all"}))["objects"]
        stored = objects.get(self.sample["id"], {}).get("labels", {}).get("original")
        if stored is None:
            return {}
        names = list(stored["info"]["params"]["label_names"].keys())
        reply = self._get("/datastore/label", params={"label": self.sample["id"], "tag": "original"})
        assert reply.ok, reply.text
        return self._imported(self._file(reply.content, f"label{stored['ext']}"), names)

    # --- infer ----------------------------------------------------------------------------------------------------

    def auto_segment(self, model: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """*Auto Segmentation* > *Run*: segments by name, and what was said about them."""
        return self._infer(model, {})

    def smart_edit(
        self, model: str, label: str, foreground: Sequence[Sequence[int]], background: Sequence[Sequence[int]] = ()
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """*SmartEdit* > *Update*: points are voxels of the loaded scan."""
        points = {"foreground": [list(p) for p in foreground], "background": [list(p) for p in background]}
        return self._infer(model, {"label": label, **points})

    def _infer(self, model: str, more: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        params = {
            **{"result_extension": ".nrrd", "result_dtype": "uint8", "client_id": "slicer"},
            **self.options("models", model),
            **more,
        }
        reply = self._post(f"/infer/{model}", params={"image": self.sample["id"]}, data={"params": json.dumps(params)})
        assert reply.ok, reply.text
        parts = {}
        for part in MultipartDecoder.from_response(reply).parts:
            disposition = part.headers[b"Content-Disposition"].decode()
            parts[disposition.split('name="')[1].split('"')[0]] = part
        said: dict[str, Any] = json.loads(parts["params"].text)
        names = said.get("label_names") or self.info["models"][model]["labels"]
        ordered = sorted(names, key=names.__getitem__) if isinstance(names, dict) else list(names)
        return self._imported(self._file(parts["image"].content, "answer.nrrd"), ordered), said

    def _imported(self, file: Path, names: Sequence[str]) -> dict[str, np.ndarray]:
        """``ImportLabelmapToSegmentationNode``: the n-th name gets voxel value n, whatever the answer said."""
        assert self.scan is not None
        array, affine = _read(file)
        assert array.dtype == np.uint8
        assert array.shape == self.scan.shape
        np.testing.assert_allclose(affine, self.scan.affine, atol=1e-3)
        named = [name for name in names if name != "background"]
        return {name: array == value for value, name in enumerate(named, start=1)}

    # --- save -----------------------------------------------------------------------------------------------------

    def submit(self, segments: Sequence[tuple[str, np.ndarray]]) -> requests.Response:
        """*Submit Label*: the segments in the order of Slicer's list, values 1, 2, ...; names and places beside it."""
        assert self.scan is not None
        label = np.zeros(self.scan.shape, np.uint8)
        info, value = [], 0
        for number, (name, mask) in enumerate(segments, start=1):
            if name in UNSENT:
                continue
            value += 1
            label[mask] = value
            info.append({"name": name, "idx": number})
        file = save_nifti(self._folder / f"{self._next()}.nii.gz", label, self.scan.affine)
        with file.open("rb") as content:
            return requests.put(
                f"{self.url}/datastore/label",
                params={"image": self.sample["id"], "tag": "final"},
                data={"params": json.dumps({"label_info": info, "client_id": "slicer"})},
                files={"label": (file.name, content)},
                timeout=300,
            )

    # --- train ----------------------------------------------------------------------------------------------------

    def train(self, trainer: str, **options: Any) -> requests.Response:
        """*Train*: with the options table as it stands; ``options`` are what somebody has changed in it."""
        params = {**self.options("trainers", trainer), **options, "client_id": "slicer"}
        return self._post(f"/train/{trainer}", json=params)

    def watch(self, seconds: float = 400) -> tuple[list[tuple[int, float]], dict[str, Any]]:
        """The progress bar until the training ends: percent and accuracy at each look, and the last status."""
        seen: list[tuple[int, float]] = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            status = self._json(self._get("/train/"))
            self.info = self._json(self._get("/info/"))
            stats = next(iter(self.info["train_stats"].values()))
            epoch, total = stats.get("epoch", 0), stats.get("total_epochs", 1)
            seen.append((int(100 * epoch / total), round(stats.get("best_metric", 0) * 100, 2)))
            if status["status"] not in ("SUBMITTED", "RUNNING"):
                return seen, status
            time.sleep(0.5)
        raise AssertionError(f"the training did not end: {seen[-3:]}")

    # --- helpers --------------------------------------------------------------------------------------------------

    def _next(self) -> int:
        self._files += 1
        return self._files

    def _file(self, content: bytes, name: str) -> Path:
        file = self._folder / f"{self._next()}-{name}"
        file.write_bytes(content)
        return file

    def _get(self, path: str, **arguments: Any) -> requests.Response:
        return requests.get(self.url + path, timeout=300, **arguments)

    def _post(self, path: str, **arguments: Any) -> requests.Response:
        return requests.post(self.url + path, timeout=300, **arguments)

    @staticmethod
    def _json(reply: requests.Response) -> dict[str, Any]:
        assert reply.ok, reply.text
        content: dict[str, Any] = reply.json()
        return content


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Voxel values and RAS affine of a label file."""
    if file.name.endswith(".nii.gz"):
        image = nibabel.load(file)
        return np.asarray(image.dataobj), image.affine
    reader = ITKReader(affine_lps_to_ras=True)
    array, meta = reader.get_data(reader.read(str(file)))
    return np.asarray(array), np.asarray(meta["affine"], dtype=float)
