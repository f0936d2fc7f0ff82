"""What must not be read in a log: passwords, keys and tokens.

- Package: MONAI Label 0.8.5, ``monailabel/main.py`` and ``monailabel/interfaces/app.py``.
- Wrong: MONAI Label logs the address of the study, and whatever texts and tracebacks hold. Its own list of secret
  settings counts for one line at the start only.
- Done: the formatter of every handler of every logger is wrapped by one that blackens secrets. An address with a
  password is refused: MONAI Label has printed it by then.
- Source: https://github.com/Project-MONAI/MONAILabel/blob/0.8.5/monailabel/main.py
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from monailabel.config import settings

from lib.core.errors import UserError

HIDDEN = "****"

_NAMES = (
    "MONAI_LABEL_DICOMWEB_PASSWORD",
    "MONAI_LABEL_DATASTORE_PASSWORD",
    "MONAI_LABEL_DATASTORE_API_KEY",
    "MONAI_ZOO_AUTH_TOKEN",
)
_PATTERNS = (
    (re.compile(r"(?i)\b(bearer|basic) +[A-Za-z0-9._~+/=-]{8,}"), rf"\1 {HIDDEN}"),
    (re.compile(r"://[^/\s:@]+:[^/\s@]+@"), f"://{HIDDEN}@"),
)
_LEAST = 4
"""Shorter secrets would be found in ordinary words."""


class Redacting(logging.Formatter):
    """Formats as another formatter does, and then blackens secrets, also in tracebacks.

    Args:
        plain: the other formatter.
        secrets: texts to blacken.
    """

    def __init__(self, plain: logging.Formatter, secrets: Iterable[str]) -> None:
        super().__init__()
        self.plain = plain
        self._secrets = sorted((s for s in secrets if len(s) >= _LEAST), key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        """The other formatter's text, secrets blackened."""
        text = self.plain.format(record)
        for secret in self._secrets:
            text = text.replace(secret, HIDDEN)
        for pattern, instead in _PATTERNS:
            text = pattern.sub(instead, text)
        return text


def install() -> None:
    """Let every log of this process go through ``Redacting``; once, however often the app is loaded."""
    secrets = [str(getattr(settings, name, "") or "") for name in _NAMES]
    loggers = [logging.getLogger(name) for name in (None, *logging.root.manager.loggerDict)]
    for handler in {handler for each in loggers for handler in each.handlers}:
        plain = handler.formatter or logging.Formatter()
        handler.setFormatter(Redacting(plain.plain if isinstance(plain, Redacting) else plain, secrets))


def check_address(studies: str) -> None:
    """Raise UserError for an address with a password: MONAI Label prints it, and all users of the machine see it."""
    if not studies.startswith(("http://", "https://")):
        return
    parts = urlsplit(studies)
    if parts.username is not None or parts.password is not None:
        raise UserError(
            "The address of the DICOMweb server holds a user name or a password, which would stand in logs and in the "
            "list of processes. Give it without, and set MONAI_LABEL_DICOMWEB_USERNAME and "
            "MONAI_LABEL_DICOMWEB_PASSWORD in the environment. Change that password: it has been printed."
        )
