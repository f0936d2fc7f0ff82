"""A real server with `--conf users`, asked by MONAI Label's own client library: what each role may do with it.

3D Slicer brings a copy of this library with its extension, which is on no package index.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from monailabel.client import MONAILabelClient
from monailabel.client.client import MONAILabelClientException

from lib.people import ROLES
from people_server import GOOD, serving_people
from server_process import Server
from tiny_study import save_nifti, tiny_scan

pytestmark = pytest.mark.server

ALL, SOME, ADMIN = ROLES, ("annotator", "admin"), ("admin",)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving_people(tmp_path_factory.mktemp("client"), {role: role for role in ROLES}) as running:
        yield running


def _client(server: Server, role: str) -> MONAILabelClient:
    client = MONAILabelClient(server.url, tmpdir=str(server.folder / "client"), client_id=role)
    client.update_auth(client.auth_token(role, GOOD))
    return client


def _save(server: Server) -> Callable[[MONAILabelClient], Any]:
    def save(client: MONAILabelClient) -> Any:
        _, label, affine = tiny_scan(2)
        file = save_nifti(server.folder / "drawn.nii.gz", label, affine)
        return client.save_label("case_2", str(file), "final", {"label_info": []})

    return save


def test_each_role_may_do_its_part_and_no_more(server: Server) -> None:
    acts: dict[str, tuple[Callable[[MONAILabelClient], Any], tuple[str, ...]]] = {
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
        client = _client(server, role)
        for name, (act, _) in acts.items():
            table.setdefault(name, {})[role] = _allowed(client, act)
    assert table == {name: {role: role in allowed for role in ROLES} for name, (_, allowed) in acts.items()}, (
        json.dumps(table, indent=1)
    )


def _allowed(client: MONAILabelClient, act: Callable[[MONAILabelClient], Any]) -> bool:
    """Whether a role may do something; what stands in the way otherwise does not matter here."""
    try:
        act(client)
    except MONAILabelClientException as error:
        return "Status: 403" not in str(error)
    return True


def test_without_a_log_in_or_with_a_wrong_password_nothing_is_told(server: Server) -> None:
    stranger = MONAILabelClient(server.url, tmpdir=str(server.folder / "client"))
    assert stranger.auth_enabled()
    assert not stranger.auth_valid_token()
    for act in (stranger.info, stranger.datastore, lambda: stranger.auth_token("admin", "guessed")):
        with pytest.raises(MONAILabelClientException, match="Status: 401"):
            act()


def test_who_saved_a_label_is_kept(server: Server) -> None:
    lines = next(Path(server.app).rglob("audit.log")).read_text(encoding="utf-8").splitlines()
    saved = [json.loads(line) for line in lines if "case_2" in line]
    assert {"annotator", "admin"} <= {str(value) for entry in saved for value in entry.values()}
