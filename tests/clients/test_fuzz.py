"""Requests that nobody should send: the server refuses them with a text, stays whole, and writes nowhere else.

``SEMISAM_FUZZ_REQUESTS=2000`` sends as many random requests; without it, a few hundred.
"""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
import schemathesis
from monailabel.datastore.local import LocalDatastoreModel

from fuzzing import SECONDS, Tally, fuzz, jobs, stamps, stop_jobs, works
from server_process import Server
from tiny_study import TINY_LABELS, make_tiny_study

pytestmark = [pytest.mark.clients, pytest.mark.server, pytest.mark.timeout(3600)]

REQUESTS = int(os.environ.get("SEMISAM_FUZZ_REQUESTS", "300"))


@pytest.fixture(scope="module")
def server(serve: Callable[..., Server], tmp_path_factory: pytest.TempPathFactory) -> Server:
    base = tmp_path_factory.mktemp("fuzz")
    study = make_tiny_study(base / "study", scans=3)
    (base / "home").mkdir()
    (base / "outside.nii.gz").write_bytes((study / "case_3.nii.gz").read_bytes())
    server: Server = serve(study, {"HOME": str(base / "home")}, labels=",".join(TINY_LABELS), max_upload="8")
    return server.start()


@pytest.fixture
def unharmed(server: Server) -> Any:
    """Afterwards the server answers, its list can be read, and nothing outside of its folders has changed."""
    before = stamps(server)
    yield
    assert server.get("/info/").ok
    LocalDatastoreModel.model_validate_json((server.study / "datastore_v2.json").read_text(encoding="utf-8"))
    assert {"case_1", "case_2", "case_3"} <= set(server.objects())
    after = stamps(server)
    assert {path: stamp for path, stamp in after.items() if before.get(path) != stamp} == {}
    assert set(before) - set(after) == set()
    assert not list(server.study.parent.glob("**/*evil*"))


# --- random ones ------------------------------------------------------------------------------------------------------


def test_random_requests(server: Server, unharmed: None) -> None:
    schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    found: list[Any] = list(schema.get_all_operations())
    operations = [each.ok() for each in found]
    ours = re.compile(r"/(infer|train|batch|scoring|activelearning|datastore|semisam|info|session)\b")
    weights = {op.label: 3 if ours.match(op.path) else 1 for op in operations}
    assert sum(weight == 3 for weight in weights.values()) >= 20
    # What has no parameter is asked one thing only; the others share the requests.
    varied = [op for op in operations if any((op.path_parameters, op.query, op.body))]
    whole = sum(weights[op.label] for op in varied)
    tally = Tally()
    for operation in operations:
        share = -(-REQUESTS * weights[operation.label] // whole) if operation in varied else 1
        fuzz(server, operation, share, tally)
    total = sum(tally.statuses.values())
    print(f"\n{total} requests to {len(operations)} operations: {dict(sorted(tally.statuses.items()))}")
    print(f"500 by MONAI Label itself: {dict(tally.own)}")
    print(f"slowest {tally.slowest[0]:.1f} s ({tally.slowest[1]}); at most {tally.most_jobs} jobs of a kind at once")
    works(server)
    assert not tally.wrong, "\n".join(tally.wrong[:20])
    assert total >= REQUESTS
    assert tally.most_jobs <= 1


# --- hand-written ones ------------------------------------------------------------------------------------------------


def refused(reply: requests.Response, *statuses: int) -> str:
    """The text of a refusal; any client error unless ``statuses`` are given."""
    assert reply.status_code in (statuses or range(400, 500)), f"{reply.status_code}: {reply.text[:300]}"
    text = reply.json()["detail"]
    assert "Traceback" not in str(text)
    return str(text)


def raw(server: Server, method: str, path: str) -> int:
    """The status of a request whose path goes out as it is: ``requests`` would tidy it up."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=SECONDS)
    try:
        connection.putrequest(method, path, skip_accept_encoding=True)
        connection.endheaders()
        return connection.getresponse().status
    finally:
        connection.close()


def put(server: Server, path: str, name: str, content: bytes, field_name: str = "file", **query: str) -> Any:
    """Upload a file under any name."""
    files = {field_name: (name, content)}
    return requests.put(server.url + path, params=query, files=files, timeout=SECONDS)


def infer(server: Server, model: str, params: Any) -> requests.Response:
    """An infer request with any params; some of them go over what is asked for."""
    return server.post(f"/infer/{model}", params={"image": "case_2"}, data={"params": json.dumps(params)})


def scan_bytes(server: Server) -> bytes:
    return (server.study / "case_3.nii.gz").read_bytes()


def test_no_scan_outside_of_the_study_is_read(server: Server, unharmed: None) -> None:
    outside = server.study.parent / "outside.nii.gz"
    foreign = server.folder / "tmp" / "foreign.nii.gz"  # in the system's folder for temporary files
    foreign.write_bytes(scan_bytes(server))
    try:
        for name in (
            str(outside),
            str(foreign),
            "../outside",
            "../outside.nii.gz",
            f"{server.study}/../{outside.name}",
        ):
            assert "no image" in refused(server.infer("propagate", name), 404)
            assert "no image" in refused(infer(server, "propagate", {"image": name}), 404)
            assert "no image" in refused(infer(server, "prompt", {"image": name, "foreground": [[1, 1, 1]]}), 404)
            refused(server.get("/datastore/image", params={"image": name}), 404)
            refused(server.get("/datastore/label", params={"label": name, "tag": "final"}), 404)
            refused(server.get("/datastore/label", params={"label": "case_1", "tag": name}), 404)
            refused(server.post("/batch/infer/propagate", json={"images": [name]}), 404)
    finally:
        foreign.unlink()


@pytest.mark.parametrize(
    "name", ["../../evil.nii.gz", "/evil.nii.gz", "..", "evil\\..\\evil.nii.gz", "a." + "e" * 300, "é" * 200]
)
def test_file_names_of_uploads_lead_nowhere(server: Server, unharmed: None, name: str) -> None:
    content = scan_bytes(server)
    for reply in (
        put(server, "/datastore/image", name, content, image="../evil"),
        put(server, "/datastore/image", "a.nii.gz", content, image=name + "/evil"),
        put(server, "/datastore/label", name, content, "label", image="case_2", tag="../evil"),
        put(server, "/datastore/label", "a.nii.gz", content, "label", image="case_2", tag="e" * 250),
        put(server, "/model/propagate", name, content),
    ):
        assert reply.status_code in range(400, 500), reply.text
    reply = server.post("/infer/propagate", data={"params": "{}"}, files={"file": (name, content)})
    assert reply.ok or reply.status_code in range(400, 500), reply.text[:300]
    reply = put(server, "/session/", name, content, "files")
    assert reply.ok or reply.status_code in range(400, 500), reply.text[:300]
    if reply.ok:
        session = reply.json()["session_id"]
        assert Path(reply.json()["session_info"]["image"]).is_relative_to(server.folder / "sessions")
        assert server.get(f"/session/{session}").ok
        assert requests.delete(f"{server.url}/session/{session}", timeout=SECONDS).ok


def packed(kind: str, entries: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    """An archive with entries of any name, and links (tar only)."""
    buffer = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in entries.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(fileobj=buffer, mode="w:gz") as archive_:
            for name, target in (links or {}).items():
                link = tarfile.TarInfo(name)
                link.type, link.linkname = tarfile.SYMTYPE, target
                archive_.addfile(link)
            for name, content in entries.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive_.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_archives_are_unpacked_inside_only(server: Server, unharmed: None, kind: str) -> None:
    study = server.study

    def upload(content: bytes) -> requests.Response:
        return put(server, "/session/", f"a.{kind}", content, "files", uncompress="true")

    for name in ("../evil", "../../../evil", f"{study}/evil.nii.gz", "a/../../evil"):
        assert "leads out" in refused(upload(packed(kind, {name: b"x"})), 400)
    assert "more than" in refused(upload(packed(kind, {"big": bytes(40 * 2**20)})), 413)
    assert "no archive" in refused(upload(b"nothing"), 400)
    assert (
        "cannot be unpacked" in refused(upload(packed(kind, {"a": os.urandom(20_000)})[:-9000]), 400) or kind == "zip"
    )
    if kind != "zip":
        # A link that leads out, and a file that goes through it.
        reply = upload(packed(kind, {"out/evil": b"x", "case.nii.gz": scan_bytes(server)}, {"out": str(study.parent)}))
        assert not (study.parent / "evil").exists()
        assert reply.ok or reply.status_code == 400
    reply = upload(packed(kind, {"case.nii.gz": scan_bytes(server)}))
    assert reply.ok, reply.text
    scan = Path(reply.json()["session_info"]["image"])
    assert [path.name for path in scan.parent.iterdir()] == [scan.name] == ["case.nii.gz"]
    assert requests.delete(f"{server.url}/session/{reply.json()['session_id']}", timeout=SECONDS).ok


def test_sessions_are_no_paths(server: Server, unharmed: None) -> None:
    # Two files become a folder of the session: a note of one's own in it would be another session.
    note = json.dumps({"name": "x", "image": "/no/such", "path": str(server.study), "expiry": 1})
    files: Any = [("files", ("meta.info", note)), ("files", ("case.nii.gz", scan_bytes(server)))]
    reply = requests.put(server.url + "/session/", files=files, timeout=SECONDS)
    assert reply.ok
    info = reply.json()["session_info"]
    inner = f"{info['name']}/{Path(info['image']).name}"
    for name in (inner, "..", "../../study", str(server.study), "\0", "x" * 5000):
        refused(server.post("/infer/propagate", params={"session_id": name}, data={"params": "{}"}))
    assert Path(info["image"]).is_file()  # the one scan among the files
    for path in ("/session/..%2f..", "/session/%2e%2e", "/session/../x"):
        assert raw(server, "DELETE", path) in range(400, 500)
        assert raw(server, "GET", path) in range(400, 500)
    assert requests.delete(f"{server.url}/session/{info['name']}", timeout=SECONDS).ok


@pytest.mark.parametrize(
    "path",
    [
        "/proxy/dicom/..%2f..%2fsystem",
        "/proxy/dicom/wado/../../x",
        "/proxy/dicom/%252e%252e/x",
        "/ohif/%2e%2e",
        "/ohif/..%5c..%5cx",
        "/static/..%2f..%2fapp.py",
        "/semisam/reports/..%2f..%2fspecialist.pt",
        "/semisam/reports/run-1%00",
    ],
)
def test_paths_do_not_climb(server: Server, path: str) -> None:
    assert raw(server, "GET", path) in range(400, 500)


def test_nobody_reloads_the_app(server: Server) -> None:
    assert server.post("/reload").status_code in (404, 405)


NOTES = {
    "NaN": '{"a": NaN}',
    "infinity": '{"a": [1e999]}',
    "half a surrogate pair": '{"a": "\\ud800"}',
    "as a key": '{"\\udfff": 1}',
    "200 deep": '{"a":' + "[" * 200 + "]" * 200 + "}",
    "600 deep": '{"a":' + "[" * 600 + "]" * 600 + "}",
    "100000 deep": '{"a":' + "[" * 100_000 + "]" * 100_000 + "}",
    "a list": "[1, 2]",
    "a number": "5",
    "a text": '"text"',
    "nothing": "null",
    "a huge number": '{"a": ' + "9" * 5000 + "}",
    "no JSON": "{",
}


@pytest.mark.parametrize("kind", NOTES)
def test_notes_that_cannot_be_kept(server: Server, unharmed: None, kind: str) -> None:
    file = scan_bytes(server)
    for path, key, names in (
        ("/datastore/image/info", "info", {"image": "case_2"}),
        ("/datastore/label/info", "info", {"label": "case_1", "tag": "final"}),
        ("/datastore/updatelabelinfo", "params", {"label": "case_1", "tag": "final"}),
    ):
        refused(requests.put(server.url + path, params=names, data={key: NOTES[kind]}, timeout=SECONDS), 400)
    for path, name, names in (
        ("/datastore/image", "file", {"image": "case_9"}),
        ("/datastore/label", "label", {"image": "case_2", "tag": "original"}),
    ):
        files = {name: ("a.nii.gz", file)}
        data = {"params": NOTES[kind]}
        reply = requests.put(server.url + path, params=names, data=data, files=files, timeout=SECONDS)
        if kind == "nothing":
            assert reply.ok or reply.status_code == 400  # the same as no notes
        else:
            refused(reply, 400)
    refused(server.post("/infer/propagate", params={"image": "case_2"}, data={"params": NOTES[kind]}), 400)


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/train/semisam", {"bundle_path": "/tmp"}, 400),
        ("/train/semisam", {"gpus": 3}, 400),
        ("/train/semisam", {"gpus": "0;rm"}, 400),
        ("/train/semisam", {"seed": 10**400}, 400),
        ("/train/semisam", {"rounds": float("nan")}, 400),
        ("/train/semisam", {"rounds": float("inf")}, 400),
        ("/train/semisam", {"device": "cuda:" + "9" * 5000}, 400),
        ("/train/semisam", {"recipe": {"a": 1}}, 400),
        ("/train/semisam", {"network": ["../evil"]}, 400),
        ("/train/semisam?run_sync=true", {}, 400),
        ("/train/semisam", {"client_id": "a" * 200_000}, 413),
        ("/train/semisam", {"client_id": "a" * 5_000_000}, 413),
        ("/train/semisam", [1, 2], 422),
        ("/train/", {"semisam": [1, 2]}, 400),
        ("/batch/infer/propagate?run_sync=true", {}, 400),
        ("/batch/infer/propagate", {"images": {"a": 1}}, 400),
        ("/batch/infer/propagate", {"images": None}, 400),
        ("/batch/infer/propagate", {"images": ["case_2", 5, None, ["x"]]}, 404),
        ("/batch/infer/propagate", {"label_tag": "../evil"}, 400),
        ("/batch/infer/propagate", {"label_tag": "e" * 300}, 400),
        ("/batch/infer/propagate", {"max_templates": float("inf")}, 400),
        ("/batch/infer/propagate", {"max_batch_size": "many"}, 400),
        ("/batch/infer/propagate", {"result_extension": "/../../evil.nii.gz"}, 400),
        ("/scoring/uncertainty", {"then": ["x" * 10_000]}, 404),
        ("/scoring/uncertainty", {"then": [{"a": 1}]}, 404),
        ("/scoring/uncertainty", {"then": {"a": 1}}, 400),
        ("/scoring/uncertainty", {"bundle_path": "/tmp"}, 400),
        ("/activelearning/random", {"strategy": ["a"]}, 404),
        ("/activelearning/" + "x" * 4000, {}, 404),
        ("/activelearning/..%2f..%2fevil", {}, 400),
        ("/infer/wsi_v2/segment?image=case_2", None, 400),
    ],
)
def test_jobs_and_strategies_refuse(server: Server, path: str, body: Any, status: int) -> None:
    reply = server.post(path, data=json.dumps(body), headers={"Content-Type": "application/json"})
    text = refused(reply, status, 404 if "wsi" in path else status)
    assert len(text) < 1000
    assert not {"train", "batch_infer"} & set(jobs(server))


@pytest.mark.parametrize(
    ("model", "params"),
    [
        ("propagate", {"result_extension": "/../../evil.nii.gz"}),
        ("propagate", {"result_extension": 5}),
        ("propagate", {"result_dtype": ["uint8"]}),
        ("propagate", {"result_dtype": "a" * 100_000}),
        ("propagate", {"max_templates": 10**400}),
        ("propagate", {"max_templates": float("nan")}),
        ("propagate", {"max_templates": [2]}),
        ("propagate", {"save_label": True, "label_tag": "../../evil"}),
        ("propagate", {"save_label": True, "label_tag": "\ud800"}),
        ("propagate", {"save_label": True, "label_tag": ["final"]}),
        ("propagate", {"image": 5}),
        ("propagate", {"image": ["case_2"]}),
        ("propagate", {"image": "case_2\0"}),
        ("propagate", {"image": "/etc/passwd\0"}),
        ("propagate", {"image": "\ud800"}),
        ("propagate", {"model": "../x"}),
        ("propagate", {"model": {"a": 1}}),
        ("propagate", {"\ud800": 1}),
        ("propagate", {f"k{n}": n for n in range(5000)}),
        ("prompt", {}),
        ("prompt", {"foreground": [[10**400, 1, 1]]}),
        ("prompt", {"foreground": [[float("nan"), 1, 1]]}),
        ("prompt", {"foreground": [[float("inf"), 1, 1]]}),
        ("prompt", {"foreground": [[-5, 1, 1]]}),
        ("prompt", {"foreground": [[1, 1]]}),
        ("prompt", {"foreground": "[[1, 1, 1]]"}),
        ("prompt", {"foreground": {"a": 1}}),
        ("prompt", {"foreground": [[1, 1, n % 9] for n in range(2000)]}),
        ("prompt", {"roi": [10**400] * 6}),
        ("prompt", {"roi": [float("nan")] * 6}),
        ("prompt", {"roi": "all"}),
        ("prompt", {"foreground": [[1, 1, 1]], "slice": 10**400}),
        ("prompt", {"foreground": [[1, 1, 1]], "slice": float("nan")}),
        ("prompt", {"foreground": [[1, 1, 1]], "label": ["ball"]}),
    ],
)
def test_infer_refuses(server: Server, unharmed: None, model: str, params: dict[str, Any]) -> None:
    assert len(refused(infer(server, model, params))) < 1000


def test_jobs_do_not_pile_up(server: Server, unharmed: None) -> None:
    taken = 0
    for _ in range(20):
        reply = server.post("/train/semisam", params={"enqueue": "true"}, json={"preset": "quick", "max_epochs": 1})
        assert reply.status_code in (200, 429), reply.text
        taken += reply.ok
        assert jobs(server)["train"] <= 1
    assert 1 <= taken <= 4
    assert "DELETE /train" in refused(server.post("/train/semisam", params={"enqueue": "true"}, json={}), 429)
    for _ in range(5):
        assert server.post("/train/").ok  # OHIF's button: says in its text that it did not start
    stop_jobs(server)
    assert server.get("/train/").json()["status"] != "RUNNING"


def test_refused_uploads_leave_nothing(server: Server, unharmed: None) -> None:
    temporary = server.folder / "tmp"
    before = {*temporary.rglob("*")}
    content = scan_bytes(server)
    refused(put(server, "/datastore/image", "case_1.nii.gz", content, image="case_1"), 409)
    refused(put(server, "/datastore/label", "a.nii.gz", content, "label", image="none", tag="final"), 404)
    refused(server.post("/infer/propagate", data={"params": "{"}, files={"file": ("a.nii.gz", content)}), 400)
    until = time.monotonic() + 10  # the answer goes out first
    while {*temporary.rglob("*")} - before and time.monotonic() < until:
        time.sleep(0.1)
    assert {*temporary.rglob("*")} - before == set()
