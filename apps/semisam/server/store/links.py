"""Links in a study that lead out of it: not followed unless the administrator has said so.

Whoever may put a link into a study could else read every file of this server's user through it, and write beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

from lib.core.errors import UserError

_ADVICE = "Put the file itself there, or start with --conf follow_links true if the link is meant"


class Links:
    """Says where the paths of a study really lead.

    Args:
        root: the study; may be a link itself.
        follow: whether links that lead out of it are followed.
    """

    def __init__(self, root: str | Path, *, follow: bool) -> None:
        self._root = os.fspath(root)
        self._follow = follow

    def reason(self, path: str | Path) -> str | None:
        """Why a file or folder of the study is left out, None when it is not.

        Links that lead from one place of the study to another are followed, and so are chains of them. Of a folder all
        that is in it counts. A name that no file has is none of a link's.
        """
        if self._follow:
            return None
        if self._leads_out(path):
            return f"it is a link that leads out of the study. {_ADVICE}"
        if os.path.isdir(path):
            for folder, folders, files in os.walk(path):
                for name in (*folders, *files):
                    if self._leads_out(os.path.join(folder, name)):
                        return f"{name!r} in it is a link that leads out of the study. {_ADVICE}"
        return None

    def check(self, path: str | Path, what: str) -> None:
        """Raise UserError (403) for what ``reason`` leaves out: it may have become a link since it was listed."""
        reason = self.reason(path)
        if reason is not None:
            raise UserError(f"{what} cannot be used: {reason}.", status=403)

    def check_folders(self, labels: str) -> None:
        """Look at the folders of labels, through which people's work would be read and written elsewhere.

        Args:
            labels: name of the folder of labels in the study.

        Raises:
            UserError: (409) when one of them leads out of the study.
        """
        if self._follow:
            return
        top = os.path.join(self._root, labels)
        folders = _folders_in(top) if os.path.isdir(top) else []
        for folder in (top, *folders, *(f for each in folders if _hidden(each) for f in _folders_in(each))):
            if self._leads_out(folder):
                name = os.path.relpath(folder, self._root)
                raise UserError(
                    f"The folder {name} of the study is a link that leads out of it. If the labels are meant to be "
                    "there, start with --conf follow_links true. Else put a folder in its place.",
                    status=409,
                )

    def _leads_out(self, path: str | Path) -> bool:
        if not os.path.islink(path):
            return False
        root, real = os.path.realpath(self._root), os.path.realpath(path)
        try:
            return os.path.commonpath([root, real]) != root
        except ValueError:  # on another drive
            return True


def _folders_in(folder: str) -> list[str]:
    return [entry.path for entry in os.scandir(folder) if entry.is_dir()]


def _hidden(folder: str) -> bool:
    """Whether a folder holds the notes beside labels, by tag."""
    return os.path.basename(folder).startswith(".")
