"""A DICOMweb client with timeouts, few attempts, and the log-in of MONAI Label's settings.

- Package: requests 2.x (``HTTPAdapter.send``), dicomweb-client 0.59 (``DICOMwebClient``), MONAI Label 0.8.5
  (``monailabel/datastore/dicom.py``, ``DICOMwebClientX``).
- Wrong: requests waits for ever unless each call has a timeout, and dicomweb-client gives none: a server that falls
  silent holds up every client. dicomweb-client asks five times with ever longer pauses, half a minute in all. It
  refuses answers that servers send with another content type than ``multipart/related``, which MONAI Label's subclass
  of it accepts.
- Done: a session whose adapter adds a timeout; two attempts; MONAI Label's subclass, which overrides a private method
  of dicomweb-client.
- Source: https://github.com/psf/requests/issues/3070,
  https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/datastore/dicom.py
"""

from __future__ import annotations

from typing import Any

import requests
from dicomweb_client import DICOMwebClient
from dicomweb_client.session_utils import create_session_from_user_pass
from monailabel.config import settings
from monailabel.datastore.dicom import DICOMwebClientX

TIMEOUT = (5.0, 60.0)
"""Seconds for the connection, and for each part of an answer."""
_ATTEMPTS = {"max_attempts": 2, "wait_exponential_multiplier": 250}


def client_for(address: str) -> DICOMwebClient:
    """A client for the server at an address."""
    if _is_google(address):
        client = DICOMwebClient(url=address, session=session_for(address))
    else:
        client = DICOMwebClientX(
            url=address,
            session=session_for(address),
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
    client.set_http_retry_params(**_ATTEMPTS)
    return client


def session_for(address: str) -> requests.Session:
    """Requests to the server at an address: with the log-in of MONAI Label's settings, and with timeouts."""
    user = settings.MONAI_LABEL_DICOMWEB_USERNAME or settings.MONAI_LABEL_DATASTORE_USERNAME
    password = settings.MONAI_LABEL_DICOMWEB_PASSWORD or settings.MONAI_LABEL_DATASTORE_PASSWORD
    if _is_google(address):
        # Only where it is used: it brings Google's libraries.
        from dicomweb_client.ext.gcp.session_utils import create_session_from_gcp_credentials

        session = create_session_from_gcp_credentials()
    else:
        session = create_session_from_user_pass(user, password) if user and password else requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, Limited())
    return session


class Limited(requests.adapters.HTTPAdapter):
    """Sends requests with a timeout, also those that were given none."""

    def send(self, request: requests.PreparedRequest, **arguments: Any) -> requests.Response:  # type: ignore[override]
        """Send a request; ``timeout`` None means the usual one."""
        return super().send(request, **{**arguments, "timeout": arguments.get("timeout") or TIMEOUT})


def _is_google(address: str) -> bool:
    """Whether the server is Google's, which has a log-in of its own."""
    return "googleapis.com" in address
