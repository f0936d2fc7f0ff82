"""A trained specialist, and its file."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from lib.core.errors import UserError
from lib.core.files import write_whole
from lib.nnunet import MissingPackageError, NnunetScheme, need_nnunet

from .contents import check_tensors, read_content
from .networks import build_network
from .spec import SpecialistSpec

log = logging.getLogger("semisam.specialists")

_FORMAT = 1
_MOST_MEMBERS = 100

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Specialist:
    """A trained specialist.

    Args:
        spec: what its networks are and see.
        members: its networks; their probabilities are averaged.
        notes: where it comes from (plain types): recipe, round, seed, ...
        nnunet: how nnU-Net predicts with its networks, None for our own networks.
    """

    spec: SpecialistSpec
    members: tuple[nn.Module, ...]
    notes: Mapping[str, object] = field(default_factory=dict)
    nnunet: NnunetScheme | None = None

    def to(self, device: str | torch.device) -> Specialist:
        """The same specialist with its networks moved to ``device`` and ready to predict."""
        for member in self.members:
            member.to(device).eval()
        return self


def save_specialist(
    path: Path,
    spec: SpecialistSpec,
    members: Sequence[nn.Module],
    notes: Mapping[str, object] | None = None,
    nnunet: NnunetScheme | None = None,
) -> None:
    """Write a specialist to one file, whole or not at all; only plain types and tensors, so it loads safely.

    Raises:
        UserError: (507) when there is no space left.
    """
    content = {
        "format": _FORMAT,
        "spec": spec.as_plain(),
        "members": [{k: v.detach().cpu().contiguous() for k, v in m.state_dict().items()} for m in members],
        "notes": dict(notes or {}),
        "nnunet": None if nnunet is None else nnunet.as_plain(),
    }
    write_whole(path, lambda temporary: _save(content, temporary))


def load_specialist(path: str | os.PathLike[str], device: str = "cpu") -> Specialist:
    """Read what ``save_specialist`` wrote.

    Raises:
        UserError: (404) when there is no such file, (422) when it is damaged or no specialist of this app, (409) when
            it needs nnU-Net and that is not installed.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError("There is no trained specialist yet. Train first, then try again.", status=404)
    specialist = _read(path, lambda: _build(read_content(path)))
    return specialist.to(device)  # the file is not to blame where there is no room for it


def _read(path: Path, read: Callable[[], T]) -> T:
    """What ``read`` gives; whatever goes wrong is the file's fault."""
    try:
        return read()
    except MissingPackageError:
        raise
    except Exception as error:
        # torch.load alone raises pickle, zip, runtime, EOF and key errors; their words are for the log.
        log.warning("%s cannot be loaded (%s: %s)", path, type(error).__name__, str(error).strip()[:300])
        raise UserError(
            f"{path.name} is damaged or no specialist of this app. Train again, or put a good copy there.", status=422
        ) from error


def _build(content: Mapping[str, Any]) -> Specialist:
    """The specialist that a file describes, on the CPU.

    Raises:
        MissingPackageError: when it needs nnU-Net and that is not installed.
        KeyError, TypeError, ValueError, RuntimeError: when something is missing or does not fit.
    """
    if content["format"] != _FORMAT:
        raise ValueError(f"format {content['format']}, expected {_FORMAT}")
    spec = SpecialistSpec.from_plain(content["spec"])
    scheme, notes, members = None, content["notes"], content["members"]
    if content.get("nnunet") is not None:
        need_nnunet()
        scheme = NnunetScheme.from_plain(content["nnunet"])
    if not isinstance(notes, dict) or not isinstance(members, list) or not 0 < len(members) <= _MOST_MEMBERS:
        raise ValueError("no networks, or no notes in it")
    check_tensors({f"{n} {name}": value for n, weights in enumerate(members) for name, value in weights.items()})

    def build() -> nn.Module:
        return build_network(spec) if scheme is None else scheme.build_network()

    with torch.device("meta"):  # takes no memory, whatever the file asks for
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    if any({name: value.shape for name, value in weights.items()} != shapes for weights in members):
        raise ValueError("its weights are not those of its network")
    networks = []
    for weights in members:
        network = build()
        network.load_state_dict(weights)
        networks.append(network)
    return Specialist(spec, tuple(networks), notes, scheme)


def read_spec(path: Path) -> SpecialistSpec:
    """What a specialist's networks are, without building them.

    Raises:
        UserError: (422) when the file is damaged or no specialist of this app.
    """
    return _read(path, lambda: SpecialistSpec.from_plain(read_content(path, numbers=False)["spec"]))


def load_fitting(path: str | os.PathLike[str], names: Sequence[str], device: str = "cpu") -> Specialist:
    """The same, if it knows the structures of the study.

    Args:
        path: its file.
        names: of the study's structures, in order.
        device: where its networks go.

    Raises:
        UserError: as above; (409) when it was made for other structures.
    """
    specialist = load_specialist(path, device)
    if specialist.spec.label_names != tuple(names):
        raise UserError(
            f"The specialist in service knows {', '.join(specialist.spec.label_names)}, but the labels of this "
            f"study are {', '.join(names)}. Train again.",
            status=409,
        )
    return specialist


def _save(content: object, path: str) -> None:
    # Through a file object: torch turns a full disk into a RuntimeError when it writes to a path itself.
    with open(path, "wb") as file:
        torch.save(content, file)
