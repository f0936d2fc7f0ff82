"""Clicks in OHIF, answered by MobileSAM with its official weights; a screenshot is kept in ``.artifacts/ohif``."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from dicomfiles import Labelled, write_series
from lib.setup.demo import DEMO_LABELS, make_phantom
from ohif import Ohif, browser, deepest, tinted
from orthanc import Orthanc
from real_weights import weights_folder
from server_process import Server
from tiny_study import dice

pytestmark = [
    pytest.mark.clients,
    pytest.mark.server,
    pytest.mark.realweights,
    pytest.mark.timeout(1800),
]


def only(mask: np.ndarray, at: int) -> np.ndarray:
    """A mask on one axial slice."""
    kept = np.zeros_like(mask)
    kept[:, :, at] = mask[:, :, at]
    return kept


def thick(scan: Labelled, every: int = 6) -> Labelled:
    """A scan with thick slices: each takes the encoder seconds on a CPU."""
    affine = scan.affine.copy()
    affine[:3, 2] *= every
    return Labelled(
        np.ascontiguousarray(scan.array[:, :, ::every]), np.ascontiguousarray(scan.label[:, :, ::every]), affine
    )


def test_a_click_is_answered_by_the_foundation_model(serve: Callable[..., Server], tmp_path: Path) -> None:
    weights = weights_folder("mobile_sam")
    scan = thick(Labelled(*make_phantom(1)))
    study, uid = write_series(tmp_path / "0", scan, patient="demo_01")
    orthanc = Orthanc(tmp_path / "orthanc").start()
    try:
        orthanc.upload(tmp_path / "0")
        # The scoring that OHIF starts would encode all scans beside the click.
        env = {
            "MONAI_LABEL_DATASTORE_CACHE_PATH": str(tmp_path / "cache"),
            "MONAI_LABEL_AUTO_UPDATE_SCORING": "false",
        }
        conf = {"labels": ",".join(DEMO_LABELS), "generalist": "mobile_sam", "weights": str(weights)}
        server = serve(orthanc.dicomweb, env, **conf).start()
        with browser(tmp_path / "browser") as page:
            viewer = Ohif(page, server.url, "foundation_model")
            viewer.open(study)
            viewer.connect()
            assert viewer.series == uid
            liver = scan.label == 1
            inside = deepest(liver)
            at = inside[2]
            viewer.choose("liver")
            viewer.click(scan, inside)
            answer, sent = viewer.run_points()
            assert answer.ok, answer.text()
            assert (len(sent["foreground"]), sent["background"]) == (1, [])
            found = viewer.segments().on(scan)["liver"]
            assert found[tuple(inside)]
            # One click may mean the whole body; a second one says what does not belong to it.
            away = deepest(only(found & ~liver, at))
            viewer.choose("background")
            viewer.click(scan, away)
            viewer.choose("liver")
            answer, sent = viewer.run_points()
            assert answer.ok, answer.text()
            assert (len(sent["foreground"]), len(sent["background"])) == (1, 1)
            viewer.show(scan, inside)
            shown = viewer.picture("points")
            found = viewer.segments().on(scan)["liver"]
            places = np.argwhere(only(found, at))
            spots = viewer.pixels(scan, places).round().astype(int)
            over = tinted(shown[spots[:, 1], spots[:, 0]], viewer.colour("liver")).mean()
        overlap = dice(found[:, :, at], liver[:, :, at], 1)
        print(f"MobileSAM in OHIF: Dice {overlap:.3f} on the clicked slice, {over:.0%} of it coloured")
        assert found[tuple(inside)]
        assert not found[tuple(away)]
        assert overlap > 0.8
        assert over > 0.8
        told = server.infer("prompt", uid, label="liver", **{key: sent[key] for key in ("foreground", "background")})
        assert b'"source": "mobile_sam"' in told.content
    finally:
        orthanc.stop()
