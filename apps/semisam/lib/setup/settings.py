"""The server's settings: ``--conf`` strings, read once, checked all at once."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lib.core.errors import UserError
from lib.core.labels import LabelSchema, parse_labels
from lib.core.program import program, to_run
from lib.formats.limits import LEAST_VOXELS, MOST_CHANNELS
from lib.generalists import available_generalists, default_folder, find_entry, takes_prompts
from lib.people import UsersFile
from lib.propagation import available_propagators
from lib.recipes import PRESETS
from lib.specialists import check_roi

STRATEGIES = (
    "recommended",
    "template",
    "least_confidence",
    "highest_entropy",
    "highest_entropy_ratio",
    "review",
    "uniform",
)
"""Strategies that may be the default. ``random`` is no choice: it is the name under which OHIF asks for the default."""

PSEUDO_LABELS = ("last", "always", "never")
"""Which pseudo-labels go to a DICOM server: those of batches and of a training's last round, those of every round, or
none. The server keeps all of them in its cache, where clients find them."""

FEATURES = ("by_kind", "first")
"""Who gives features: the first generalist where its features are better than MIND's, or it alone."""

FROM_SERVER = "server"
"""Value of ``import`` that means the study's own DICOM server."""

FOREIGN_KEYS = frozenset({"server_mode"})
"""Keys that MONAI Label itself reads from the same mapping."""

_ROI_STEP = 8
_ROI_MOST = 512
_SPACING_LEAST, _SPACING_MOST = 0.05, 20.0
_WINDOW_LEAST_MM = 10.0
_UPLOAD_MOST = 1_048_576
_VOXELS_MOST = 10**12
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?|https?://\[[0-9A-Fa-f:]+\](:[0-9]{1,5})?")
_CHANNEL = re.compile(r"[A-Za-z0-9 ._+-]{1,40}")
_HOST = re.compile(r"[a-z0-9_]([a-z0-9_.-]{0,252})")


@dataclass(frozen=True)
class Settings:
    """What the administrator chose.

    Args:
        labels: the structures; None takes them from the study's labels.
        generalists: names of the frozen models: the first one gives features, all are prompted.
        features: see ``FEATURES``.
        propagator: name of the method that carries labels from scan to scan.
        weights: folder with the generalists' weights; None is the one inside the app folder.
        roi_size: voxels of the specialist's window along right, anterior, superior; None leaves it to the study.
        spacing: voxel size in mm that the specialist works at; None leaves it to the study.
        channels: names of the scans' channels in order, see ``lib.formats.channels``; none for plain scans.
        default_strategy: strategy behind the name ``random``, the only one that OHIF asks for.
        max_upload: MiB of the largest request that brings a file.
        max_voxels: the most voxels that a scan may have; None: as memory allows (``lib.formats.limits``).
        origins: whose pages a browser may let use this server, besides its own and this machine's; ``*`` is everybody.
        hosts: names under which browsers may ask for this server; see ``server.web.request_head.check_host``.
        dicom_pseudo_labels: which pseudo-labels go to a DICOM server, see ``PSEUDO_LABELS``.
        follow_links: whether links in a study folder that lead out of it are followed.
        import_from: folder or file with labels of other programs that become final at the start, ``FROM_SERVER`` for
            those on the study's DICOM server, "" for none.
        import_names: table of what their names mean, see ``lib.exchange.name_table``.
        users: file of the people who may log in; None lets everybody in, or leaves it to MONAI Label's log-in.
    """

    labels: LabelSchema | None = None
    generalists: tuple[str, ...] = ("mind",)
    features: str = FEATURES[0]
    propagator: str = "registration"
    weights: Path | None = None
    roi_size: tuple[int, int, int] | None = None
    spacing: tuple[float, float, float] | None = None
    channels: tuple[str, ...] = ()
    default_strategy: str = "recommended"
    max_upload: int = 2048
    max_voxels: int | None = None
    origins: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    dicom_pseudo_labels: str = "last"
    follow_links: bool = False
    import_from: str = ""
    import_names: Path | None = None
    users: Path | None = None

    @property
    def generalist(self) -> str:
        """Name of the generalist that gives features."""
        return self.generalists[0]

    @property
    def describing(self) -> str:
        """Who gives features, as one text: what is kept of one is of no use for another."""
        by_kind = self.features == FEATURES[0] and "volume" not in find_entry(self.generalist).describes
        return f"{self.generalist}+mind" if by_kind else self.generalist

    @property
    def most_upload(self) -> int:
        """Bytes of the largest upload."""
        return self.max_upload * 2**20

    @property
    def weights_folder(self) -> Path:
        """Where the generalists' weights lie."""
        return self.weights or default_folder()

    @classmethod
    def from_conf(cls, conf: Mapping[str, str]) -> Settings:
        """Read the ``--conf`` key and value strings.

        Raises:
            UserError: naming everything that is wrong and what is allowed instead.
        """
        problems: list[str] = []
        values: dict[str, object] = {}
        for key, raw in conf.items():
            if key in FOREIGN_KEYS:
                continue
            if key not in _READERS:
                problems.append(_unknown(key))
                continue
            text = str(raw).strip()
            if not text:
                problems.append(f"{key}: the value is empty. Leave the key out to get its default.")
                continue
            try:
                values[_FIELDS.get(key, key)] = _READERS[key](text)
            except UserError as error:
                problems.append(str(error) if str(error).startswith(f"{key}:") else f"{key}: {error}")
        settings = cls(**values)  # type: ignore[arg-type]
        problems += settings._combinations()
        if problems:
            raise UserError("\n".join(["The settings given with --conf cannot be used:", *_bullets(problems), HELP]))
        return settings

    def _combinations(self) -> list[str]:
        """What is wrong about settings that are right one by one."""
        problems = []
        if self.import_names is not None and not self.import_from:
            problems.append("import_names: it goes with import, which says where the labels are.")
        if self.roi_size:
            for levels in sorted({len(preset.widths) for preset in PRESETS.values()}):
                names = [repr(name) for name, preset in PRESETS.items() if len(preset.widths) == levels]
                try:
                    check_roi(self.roi_size, levels)
                except UserError as error:
                    problems.append(f"roi_size and the training's preset {' or '.join(names)}: {error}")
        if self.roi_size and self.spacing:
            window = min(n * s for n, s in zip(self.roi_size, self.spacing, strict=True))
            if window < _WINDOW_LEAST_MM:
                problems.append(
                    f"roi_size and spacing: together they give a window of only {window:g} mm; "
                    f"at least {_WINDOW_LEAST_MM:g} mm are needed. Enlarge one of them, or leave both out."
                )
        return problems


def _unknown(key: str) -> str:
    near = difflib.get_close_matches(key.lower(), _READERS, n=1, cutoff=0.5)
    return f"{key}: there is no such setting." + (f" Did you mean {near[0]}?" if near else "")


def _bullets(problems: Sequence[str]) -> list[str]:
    return [f"  - {problem}" for problem in problems]


def _choice(key: str, text: str, allowed: Sequence[str]) -> str:
    if text not in allowed:
        near = difflib.get_close_matches(text.lower(), allowed, n=1, cutoff=0.5)
        hint = f" Did you mean {near[0]}?" if near else ""
        raise UserError(f"{key}: {text!r} is not known.{hint} Allowed: {', '.join(allowed)}.")
    return text


def _generalists(text: str) -> tuple[str, ...]:
    """One generalist, or several with commas."""
    names = [part.strip() for part in text.split(",")]
    if len(names) > 1 and "" in names:
        raise UserError(f"generalist: {text!r} is not allowed. Give one name, or several with one comma between them.")
    for name in names:
        _choice("generalist", name, available_generalists())
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UserError(f"generalist: {twice!r} is named twice. Name each generalist once.")
    silent = next((name for name in names[1:] if not takes_prompts(name)), None)
    if silent is not None:
        raise UserError(
            f"generalist: {silent!r} takes no prompts, so it can only stand first, where it gives the features. Put it "
            "in front of the others, or leave it out."
        )
    return tuple(names)


def _folder(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_dir():
        raise UserError(f"weights: there is no folder {text}. Make it, or leave the key out to use {default_folder()}.")
    return path.absolute()


def _users(text: str) -> Path:
    path = Path(text).expanduser()
    if not path.is_file():
        raise UserError(f"users: there is no file {text}. Make it: {to_run('users add')} {text} NAME")
    if not UsersFile(path).people():
        raise UserError(f"users: {text} names nobody. Add one: {to_run('users add')} {text} NAME")
    return path.absolute()


def _import(text: str) -> str:
    """Whether it is there is seen at the start of a server: jobs read the same settings and need nothing of it."""
    return text if text == FROM_SERVER else str(Path(text).expanduser().absolute())


def _import_names(text: str) -> Path:
    path = Path(text).expanduser()
    if path.is_dir() or not path.parent.is_dir():
        raise UserError(f"import_names: {text} cannot be a table of names. Give a file; it is made when it is needed.")
    return path.absolute()


def _channels(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(","))
    if not 2 <= len(names) <= MOST_CHANNELS or len(set(names)) < len(names) or not all(map(_CHANNEL.fullmatch, names)):
        raise UserError(
            f"channels: {text!r} is not allowed. Give 2 to {MOST_CHANNELS} names with commas, in the order of _0000, "
            "_0001, ..., for example T1,T2. Leave the key out for scans with one channel."
        )
    return names


def _triple(key: str, text: str, what: str) -> tuple[float, float, float]:
    """Three numbers; one alone counts for all axes."""
    parts = text.strip("[]() ").replace("x", ",").replace(";", ",").split(",")
    try:
        numbers = [float(part) for part in parts]
    except ValueError:
        numbers = []
    if len(numbers) == 1:
        numbers *= 3
    if len(numbers) != 3:
        raise UserError(f"{key}: {text!r} is not allowed. Give {what}.")
    return numbers[0], numbers[1], numbers[2]


def _roi_size(text: str) -> tuple[int, int, int]:
    what = (
        f"one whole number or three with commas, multiples of {_ROI_STEP} from {_ROI_STEP} to {_ROI_MOST}, "
        "for example 96,96,96"
    )
    numbers = _triple("roi_size", text, what)
    if any(n % _ROI_STEP or not _ROI_STEP <= n <= _ROI_MOST for n in numbers):
        raise UserError(f"roi_size: {text!r} is not allowed. Give {what}.")
    return int(numbers[0]), int(numbers[1]), int(numbers[2])


def _spacing(text: str) -> tuple[float, float, float]:
    what = f"one number or three with commas, in mm, {_SPACING_LEAST:g} to {_SPACING_MOST:g}, for example 1,1,2.5"
    numbers = _triple("spacing", text, what)
    if not all(_SPACING_LEAST <= n <= _SPACING_MOST for n in numbers):
        raise UserError(f"spacing: {text!r} is not allowed. Give {what}.")
    return numbers


def _max_upload(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or not 1 <= int(text) <= _UPLOAD_MOST:
        raise UserError(f"max_upload: {text!r} is not allowed. Give a whole number of MiB from 1 to {_UPLOAD_MOST}.")
    return int(text)


def _max_voxels(text: str) -> int:
    if not text.isdecimal() or len(text) > 15 or not LEAST_VOXELS <= int(text) <= _VOXELS_MOST:
        raise UserError(
            f"max_voxels: {text!r} is not allowed. Give a whole number from {LEAST_VOXELS} to {_VOXELS_MOST}, for "
            "example 400000000 for 512 x 512 x 1500."
        )
    return int(text)


def _origins(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip().rstrip("/") for part in text.split(",") if part.strip()))
    wrong = [part for part in found if part != "*" and not _ORIGIN.fullmatch(part)]
    if wrong or not found:
        raise UserError(
            f"origins: {(wrong or [text])[0]!r} is not allowed. Give addresses without a path, with commas, for "
            "example https://viewer.hospital.example,http://10.0.0.5:3000, or * for all."
        )
    return found


def _hosts(text: str) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(part.strip().lower() for part in text.split(",") if part.strip()))
    wrong = [part for part in found if not _HOST.fullmatch(part)]
    if wrong or not found:
        raise UserError(
            f"hosts: {(wrong or [text])[0]!r} is not allowed. Give names of this server without http:// and port, with "
            "commas, for example labels.hospital.example,gpu7."
        )
    return found


_READERS = {
    "labels": parse_labels,
    "generalist": _generalists,
    "features": lambda text: _choice("features", text, FEATURES),
    "propagator": lambda text: _choice("propagator", text, available_propagators()),
    "weights": _folder,
    "roi_size": _roi_size,
    "spacing": _spacing,
    "default_strategy": lambda text: _choice("default_strategy", text, STRATEGIES),
    "channels": _channels,
    "max_upload": _max_upload,
    "max_voxels": _max_voxels,
    "origins": _origins,
    "hosts": _hosts,
    "follow_links": lambda text: _choice("follow_links", text, ("false", "true")) == "true",
    "import": _import,
    "import_names": _import_names,
    "users": _users,
    "dicom_pseudo_labels": lambda text: _choice("dicom_pseudo_labels", text, PSEUDO_LABELS),
}

KEYS = tuple(_READERS)
"""Keys of ``--conf``."""

_FIELDS = {"generalist": "generalists", "import": "import_from"}
"""Fields of ``Settings`` that have another name than their key."""

HELP = f"""\
Allowed:
  --conf labels liver,spleen        names in the order of their voxel values 1, 2, ...; also JSON or a .json file
  --conf generalist NAME            {", ".join(available_generalists())};
                                    several with commas: the first one gives features, all are prompted
  --conf features WHICH             {", ".join(FEATURES)}: the first generalist, and mind where that one's are better
                                    (volumes, if the first is a 2D model); or the first generalist alone
  --conf propagator NAME            {", ".join(available_propagators())}
  --conf weights FOLDER             where the generalists' weights lie; see: {program()} weights list
  --conf roi_size 96,96,96          voxels of the specialist's window (one number counts for all axes)
  --conf spacing 1,1,1              voxel size in mm that the specialist works at (one number counts for all axes)
  --conf channels T1,T2             names of the scans' channels: NAME_0000, NAME_0001, or files with four axes
  --conf default_strategy NAME      {", ".join(STRATEGIES)}
  --conf max_upload 2048            MiB of the largest request that brings a file
  --conf max_voxels 400000000       voxels of the largest scan that is read (default: by the machine's memory)
  --conf origins https://viewer     whose pages may use this server, besides its own; commas between them, * for all
  --conf hosts labels.example.org   names under which browsers may ask for this server; commas between them
  --conf follow_links true          follow links in the study folder that lead out of it
  --conf import FOLDER              labels of other programs that become final at the start; {FROM_SERVER}: those on the
                                    study's DICOM server
  --conf import_names FILE.csv      what their names mean; made when names are not the study's
  --conf users FILE                 who may log in; made by: {program()} users add FILE NAME
  --conf dicom_pseudo_labels WHICH  {", ".join(PSEUDO_LABELS)}: what a DICOM server gets of the app's own labels"""
"""What the start-up message says is allowed."""
