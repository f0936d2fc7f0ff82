"""A real server with `--conf users`, asked by the client library of 3D Slicer's module, and by MONAI Label's own.

MONAI Label's package brings its module for 3D Slicer; `MONAILabelLib/client.py` is loaded from there.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import monailabel.client.client
import pytest

from lib.people import ROLES
from people_server import GOOD, serving_people
from server_process import Server
from tiny_study import save_nifti, tiny_scan

pytestmark = pytest.mark.server

SLICER = Path(sys.prefix) / "monailabel" / "plugins" / "slicer" / "MONAILabel" / "MONAILabelLib" / "client.py"
Act = Callable[[Any], Any]
ALL, SOME, ADMIN = ROLES, ("annotator", "admin"), ("admin",)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_people(tmp_path_factory.mktemp("client"), {role: role for role in ROLES}) as running:
        yield running


@pytest.fixture(scope="module", params=["3D Slicer", "package"])
def library(request: pytest.FixtureRequest) -> ModuleType:
    if request.param == "package":
        return monailabel.client.client
    spec = importlib.util.spec_from_file_location("slicer_client", SLICER)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _client(library: ModuleType, server: Server, role: str) -> Any:
    client = library.MONAILabelClient(server.url, tmpdir=str(server.folder / "client"), client_id=role)
    client.update_auth(client.auth_token(role, GOOD))
    return client


def _save(server: Server) -> Act:
    def save(client: Any) -> Any:
        _, label, affine = tiny_scan(2)
        file = save_nifti(server.folder / "drawn.nii.gz", label, affine)
        return client.save_label("case_2", str(file), "final", {"label_info": []})

    return save


def test_each_role_may_do_its_part_and_no_more(library: ModuleType, server: Server) -> None:
    acts: dict[str, tuple[Act, tuple[str, ...]]] = {
        "log in": (lambda client: client.auth_valid_token(), ALL),
        "look at the server": (lambda client: client.info(), ALL),
        "next scan": (lambda client: client.next_sample("recommended", {}), ALL),
        "list of scans": (lambda client: client.datastore(), ALL),
        "ask a model": (lambda client: client.infer("propagate", "case_3", {}), ALL),
        "save a label": (_save(server), SOME),
        "see a training": (lambda client: client.train_status(check_if_running=True), ALL),
        "start a training": (lambda client: client.train_start("no_such_trainer", {}), ADMIN),
        "stop a training": (lambda client: client.train_stop(), ADMIN),
    }
    table: dict[str, dict[str, bool]] = {}
    for role in ROLES:
        client = _client(library, server, role)
        for name, (act, _) in acts.items():
            table.setdefault(name, {})[role] = _allowed(library, client, act)
    assert table == {name: {role: role in allowed for role in ROLES} for name, (_, allowed) in acts.items()}, (
        json.dumps(table, indent=1)
    )


def _allowed(library: ModuleType, client: Any, act: Act) -> bool:
    """Whether a role may do something; what stands in the way otherwise does not matter here."""
    try:
        act(client)
    except library.MONAILabelClientException as error:
        return "Status: 403" not in str(error)
    return True


def test_without_a_log_in_or_with_a_wrong_password_nothing_is_told(library: ModuleType, server: Server) -> None:
    stranger = library.MONAILabelClient(server.url, tmpdir=str(server.folder / "client"))
    assert stranger.auth_enabled()
    assert not stranger.auth_valid_token()
    for act in (stranger.info, stranger.datastore, lambda: stranger.auth_token("admin", "guessed")):
        with pytest.raises(library.MONAILabelClientException, match="Status: 401"):
            act()


def test_who_saved_a_label_is_kept(server: Server) -> None:
    lines = next(Path(server.app).rglob("audit.log")).read_text(encoding="utf-8").splitlines()
    saved = [json.loads(line) for line in lines if "case_2" in line]
    assert {"annotator", "admin"} <= {str(value) for entry in saved for value in entry.values()}
