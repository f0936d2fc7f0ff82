"""Errors as answers: what a user can put right reaches the client as a status and a text.

MONAI Label 0.8.5 turns its own exceptions into a bare "500 Internal Server Error"; only FastAPI's HTTPException keeps
its text.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from fastapi import HTTPException
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)

from lib.core.devices import machine_full, memory_error, out_of_memory
from lib.core.errors import UserError
from lib.core.files import space_error

logger = logging.getLogger("semisam")

LOG = "The log has more: /logs/?text=true"
"""Where to look further. Without ``text`` the page needs scripts from the internet, which a hospital may not have."""


@contextmanager
def http_answers() -> Iterator[None]:
    """Raise HTTPException for every error inside, so that it reaches the client; also usable as a decorator."""
    try:
        yield
    except HTTPException:
        raise
    except UserError as error:
        raise HTTPException(error.status, str(error)) from error
    except (ImageNotFoundException, LabelNotFoundException) as error:
        raise HTTPException(404, f"{error.msg}.") from error
    except MONAILabelException as error:
        raise HTTPException(400, str(error.msg)) from error
    except Exception as error:
        if out_of_memory(error) or machine_full(error):
            logger.exception("Out of memory")
            raise HTTPException(507, text_of(error)) from error
        full = space_error(error, _folder_of(error)) if isinstance(error, OSError) else None
        if full is not None:
            raise HTTPException(full.status, str(full)) from error
        text = text_of(error)
        raise HTTPException(500, f"{text[0].upper()}{text[1:]}. {LOG}") from error


def answer_of(error: Exception) -> HTTPException:
    """What a client is told about an error, by its kind alone: where it arose says nothing about who is to blame."""
    try:
        with http_answers():
            if isinstance(error, requests.RequestException):
                raise _elsewhere(error)
            raise error
    except HTTPException as answer:
        return answer


def _elsewhere(error: requests.RequestException) -> HTTPException:
    """The answer when another server is to blame; its address and its words are for the log."""
    logger.error("Another server did not answer as it should: %s", error)
    return HTTPException(502, f"The DICOM or log-in server behind this one {reason_of(error)}. Try again later.")


def reason_of(error: Exception) -> str:
    """What another server has done, in words that go on after its name; its own words are for the log."""
    if isinstance(error, requests.Timeout):
        return "does not answer in time"
    if isinstance(error, requests.exceptions.SSLError):
        return "cannot be reached safely: its certificate is not accepted"
    if isinstance(error, requests.ConnectionError):
        return "cannot be reached"
    if isinstance(error, requests.HTTPError) and error.response is not None:
        status = error.response.status_code
        if status in (401, 403):
            return f"does not accept the log-in of this server (status {status})"
        return f"answers with an error (status {status})"
    return "does not answer as it should"


def text_of(error: BaseException) -> str:
    """What to tell a user about an error, in one line.

    What was not expected is told by a mark alone, under which the log has all of it: the words of other programs may
    hold addresses, paths or names of patients, and help nobody who reads them.
    """
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error) or machine_full(error):
        return str(memory_error(error))
    mark = secrets.token_hex(3)
    logger.error("Unexpected error %s: %s: %s", mark, type(error).__name__, error, exc_info=error)
    return f"unexpected error, told in the server's log under the mark {mark}"


def _folder_of(error: OSError) -> Path:
    name = error.filename2 or error.filename
    return Path(str(name)).parent if name else Path("the server's folders")
