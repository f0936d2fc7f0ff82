"""The command ``semisam`` of an installed package: where the app is, its server, and the commands of ``main.py``.

A package puts the folder of the app into Python's own folder of packages. This file finds it there, and hands over to
MONAI Label or to ``main.py``, which read the words after it. Nothing of the app is imported here.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

APP = Path(__file__).resolve().parent
QUIET = {
    "MONAI_LABEL_TRACKING_ENABLED": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "DO_NOT_TRACK": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}
"""Environment of a server, where nothing else is set: no reports to anybody; threads that wait sleep."""
WRITTEN = ("model", "logs", "bin")
"""Folders inside the app that MONAI Label makes and writes to."""
HELP = f"""usage: semisam COMMAND ...

  path      print the folder of the app, for: monailabel start_server --app "$(semisam path)" ...
  serve     start the server: semisam serve --studies FOLDER_OR_ADDRESS [options of monailabel start_server]
  weights   list, download, import and check the weights of foundation models
  users     say who may log in
  export    write the labels of a study for other programs
  import    make labels of other programs final
  demo      make a study to try the server on
  train, score   with a study, without a server

All but path and serve are the commands of main.py; each has its own --help. Networks, weights and logs are kept in the
folder of the app: {APP}
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; returns the exit status, unless another program takes over this process."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help", "help"):
        print(HELP, end="")
        return 0 if words else 2
    command, *rest = words
    if command == "path":
        print(APP)
        return 0
    if command == "serve":
        return _serve(rest)
    _become([str(APP / "main.py"), command, *rest])


def _serve(words: Sequence[str]) -> int:
    """Start MONAI Label's server with the app, for this machine only unless ``--host`` says otherwise."""
    problem = _not_servable(words)
    if problem:
        print(f"semisam serve: {problem}", file=sys.stderr)
        return 2
    for key, value in QUIET.items():
        os.environ.setdefault(key, value)
    # MONAI Label downloads the DICOM SEG tools if it does not find them on the PATH: they are beside this Python.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    host = [] if _value(words, "--host", "-i") else ["--host", "127.0.0.1"]
    _become(["-m", "monailabel.main", "start_server", "--app", str(APP), *host, *words])


def _not_servable(words: Sequence[str]) -> str:
    """What is wrong with the words of ``serve`` or with the app's folder, empty when nothing is."""
    if {"-h", "--help"} & set(words):
        return ""
    study = _value(words, "--studies", "-s")
    if not study:
        return "Name the study: semisam serve --studies FOLDER_OR_ADDRESS"
    if not study.startswith(("http://", "https://")) and not Path(study).exists():
        return f"There is no folder {study}. Is its name right? For a new study make the folder first."
    for folder in (APP / name for name in WRITTEN):
        if not os.access(folder if folder.exists() else APP, os.W_OK):
            return (
                f"{folder} cannot be written, and networks and logs are kept there. Install semisam into a virtual "
                "environment that belongs to the user who starts it."
            )
    return ""


def _value(words: Sequence[str], *names: str) -> str:
    """The value of an option, empty when it is not given."""
    for position, word in enumerate(words):
        if word in names:
            return "".join(words[position + 1 : position + 2])
        name, equals, value = word.partition("=")
        if equals and name in names:
            return value
    return ""


def _become(words: Sequence[str]) -> NoReturn:
    """Let Python run something else in this process, so that signals and exit status are its own."""
    sys.stdout.flush()
    named = {**os.environ, "SEMISAM_PROGRAM": "semisam"}  # for texts that name a command
    os.execve(sys.executable, [sys.executable, *words], named)


if __name__ == "__main__":
    sys.exit(main())
