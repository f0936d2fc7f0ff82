"""Requests of the wrong form are answered, whatever they hold.

- Package: FastAPI 0.165, ``fastapi/exception_handlers.py``, ``request_validation_exception_handler``.
- Wrong: the answer (422) repeats what was not accepted, and fails when JSON has no word for it: NaN, infinity, half of
  a surrogate pair, lists in lists without end. The client gets a bare 500.
- Done: where FastAPI's own answer cannot be made, the client is told so without the repetition (400).
- Source: https://github.com/fastapi/fastapi/blob/master/fastapi/exception_handlers.py,
  https://github.com/pydantic/pydantic/pull/3994 (the same of NaN elsewhere)
"""

from __future__ import annotations

from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler, request_validation_exception_handler
from fastapi.exceptions import RequestValidationError
from starlette.responses import Response

FORM = "The request does not have the form that its address asks for, see /docs."
UNICODE = "The request holds text that is no Unicode, such as half of a surrogate pair."


def install(app: FastAPI) -> None:
    """Answer in FastAPI's place."""
    app.add_exception_handler(RequestValidationError, answer)  # type: ignore[arg-type]


async def answer(request: Request, error: RequestValidationError) -> Response:
    """FastAPI's answer, or one that says less when that cannot be made."""
    try:
        return await request_validation_exception_handler(request, error)
    except UnicodeError:
        text = UNICODE
    except (ValueError, TypeError, RecursionError, OverflowError):
        text = FORM
    return await http_exception_handler(request, HTTPException(400, text))
