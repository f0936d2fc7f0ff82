"""MONAI Label's sessions let a request lead out of their folder; ``web/test_security.py`` has all that ours refuse."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest
from fastapi import HTTPException
from monailabel.interfaces.app import MONAILabelApp
from monailabel.utils.sessions import Sessions

from server.upstream.sessions import OwnSessions, StudySessions


@pytest.fixture
def store(tmp_path: Path) -> Path:
    folder = tmp_path / "store"
    folder.mkdir()
    return folder


def test_a_folder_beside_the_sessions_is_deleted_without_us(store: Path) -> None:
    beside = store.parent / "patients"
    for kind, left in ((StudySessions(str(store), 3600, 2**20), True), (Sessions(str(store), 3600), False)):
        beside.mkdir(exist_ok=True)
        (beside / "meta.info").write_text(json.dumps({"image": "/no/such"}))
        assert kind.get_session("../patients") is None
        assert beside.exists() is left


def test_one_damaged_session_stops_the_deletion_of_old_ones_without_us(store: Path) -> None:
    (store / "damaged").mkdir()
    with pytest.raises(AttributeError):
        Sessions(str(store), 3600).remove_expired()
    assert StudySessions(str(store), 3600, 2**20).remove_expired() == 0


def test_an_archive_that_leads_out_is_refused(store: Path, tmp_path: Path) -> None:
    archive = tmp_path / "a.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("../evil", b"x")
    with pytest.raises(HTTPException, match="leads out"):
        StudySessions(str(store), 3600, 2**20).add_session(str(archive), uncompress=True)


def test_a_folder_of_uploads_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("a file, where a folder should be")
    scan = tmp_path / "scan.nii.gz"
    scan.write_bytes(b"x")
    with pytest.raises(HTTPException, match="MONAI_LABEL_SESSION_PATH") as refused:
        StudySessions(str(tmp_path / "home" / "sessions"), 3600, 2**20).add_session(str(scan))
    assert refused.value.status_code == 507


def test_the_app_makes_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    assert callable(MONAILabelApp._load_sessions), "MONAI Label makes its sessions in another way"
    parts = OwnSessions()
    parts.settings = SimpleNamespace(most_upload=5)  # type: ignore[assignment]
    assert parts._load_sessions() is None
    assert isinstance(parts._load_sessions(load=True), StudySessions)
