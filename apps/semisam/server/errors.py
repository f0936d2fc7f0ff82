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

from fastapi import HTTPException
from monailabel.interfaces.exception import (
    ImageNotFoundException,
    LabelNotFoundException,
    MONAILabelException,
)

from lib.core.devices import memory_error, out_of_memory
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
        if out_of_memory(error):
            logger.exception("Out of memory")
            raise HTTPException(507, text_of(error)) from error
        full = space_error(error, _folder_of(error)) if isinstance(error, OSError) else None
        if full is not None:
            raise HTTPException(full.status, str(full)) from error
        text = text_of(error)
        raise HTTPException(500, f"{text[0].upper()}{text[1:]}. {LOG}") from error


def text_of(error: BaseException) -> str:
    """What to tell a user about an error, in one line.

    What was not expected is told by a mark alone, under which the log has all of it: the words of other programs may
    hold addresses, paths or names of patients, and help nobody who reads them.
    """
    if isinstance(error, HTTPException):
        return str(error.detail)
    if isinstance(error, UserError):
        return str(error)
    if out_of_memory(error):
        return str(memory_error(error))
    mark = secrets.token_hex(3)
    logger.error("Unexpected error %s: %s: %s", mark, type(error).__name__, error, exc_info=error)
    return f"unexpected error, told in the server's log under the mark {mark}"


def _folder_of(error: OSError) -> Path:
    name = error.filename2 or error.filename
    return Path(str(name)).parent if name else Path("the server's folders")
