"""requests waits for ever for a server that falls silent."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest
import requests
from dicomweb_client import DICOMwebClient
from monailabel.datastore.dicom import DICOMwebClientX

from server.upstream import dicomweb_client


@pytest.fixture
def silent() -> Iterator[str]:
    """The address of a server that takes connections and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"http://127.0.0.1:{server.getsockname()[1]}"


@pytest.mark.slow
def test_requests_waits_without_a_limit(silent: str) -> None:

    def get() -> None:
        with suppress(requests.RequestException):  # when the test is over
            requests.Session().get(silent)

    waiting = threading.Thread(target=get, daemon=True)
    waiting.start()
    waiting.join(2.0)
    assert waiting.is_alive()


def test_ours_gives_up(silent: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicomweb_client, "TIMEOUT", (1.0, 0.3))
    with pytest.raises(requests.Timeout):
        dicomweb_client.session_for(silent).get(silent)
    with pytest.raises(requests.Timeout):
        dicomweb_client.session_for(silent).get(silent, timeout=0.2)


def test_client_is_monai_labels_with_few_attempts(monkeypatch: pytest.MonkeyPatch) -> None:
    client = dicomweb_client.client_for("http://127.0.0.1:1/dicom-web")
    assert isinstance(client, DICOMwebClientX)
    own = DICOMwebClient("http://127.0.0.1:1/dicom-web")
    assert own._max_attempts > client._max_attempts == 2


def test_dicomweb_client_still_refuses_what_monai_label_accepts() -> None:
    """A server that sends an only instance as it is."""
    address = "http://127.0.0.1:1/dicom-web"
    reply = requests.Response()
    reply.headers["content-type"] = "application/dicom"
    reply._content = b"DICM"
    with pytest.raises(ValueError, match="Unexpected media type"):
        list(DICOMwebClient(address)._decode_multipart_message(reply, stream=False))
    assert list(dicomweb_client.client_for(address)._decode_multipart_message(reply, stream=False)) == [b"DICM"]
