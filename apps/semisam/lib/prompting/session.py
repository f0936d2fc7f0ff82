"""Scans that are open for prompts: what was costly is kept between a person's clicks."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from cachetools import LRUCache
from torch import Tensor

from lib.core.frames import Frame, frame_of
from lib.core.geometry import Volume
from lib.generalists.base import Promptable, Prompts, PromptSession

from .dialogue import Clicks, Dialogue

_MOST_DIALOGUES = 4


@dataclass(eq=False)
class OpenScan:
    """A scan that a model has encoded, and the latest answers on it. Answers one person at a time.

    An answer is made from the clicks and the answer before the last click. Clicks that are taken back get the answer
    that they had got, whatever was clicked since.

    Args:
        scan: the scan.
        model: what answers.
        use_mask: tell the model its previous answer when clicks are added, if it takes masks.
    """

    scan: Volume
    model: Promptable
    use_mask: bool = True
    _frame: Frame = field(init=False)
    _session: PromptSession = field(init=False)
    _dialogues: LRUCache[Hashable, Dialogue] = field(init=False, default_factory=lambda: LRUCache(_MOST_DIALOGUES))
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._frame = whole_frame(self.scan)
        colour = self.scan.colour if getattr(self.model, "colours", False) else None
        channels = [self.scan.clipped] if colour is None else list(colour)
        image = torch.cat([self._frame.image(channel) for channel in channels])
        self._session = self.model.open(image, self._frame.spacing)

    @property
    def bytes(self) -> int:
        """Memory of the scan, its encoding (if the model does not say, as much as one more scan) and the answers."""
        encoding = int(getattr(self._session, "bytes", self.scan.array.nbytes))
        answers = sum(dialogue.bytes for dialogue in list(self._dialogues.values()))
        return 2 * self.scan.array.nbytes + encoding + answers

    def segment(self, clicks: Clicks, who: Hashable = None) -> np.ndarray:
        """The structure that the clicks mean.

        Args:
            clicks: all clicks so far.
            who: the dialogue: previous answers to it are remembered.

        Returns:
            ``[D, H, W]`` boolean on the scan's own grid.

        Raises:
            UserError: when nothing says what is meant, or a click lies outside the scan.
        """
        with self._lock:
            dialogue = self._dialogues.setdefault(who, Dialogue()) if self._remembers else Dialogue()
            inside, said = dialogue.recall(clicks)
            if inside is None or not said:
                inside = self._answer(clicks, inside)
                dialogue.add(clicks, inside)
        # Nothing is resampled: the frame only swaps and flips axes, which takes a boolean mask no floats.
        flips = [axis for axis in range(3) if self._frame.flips[axis]]
        stored = np.flip(inside.numpy(), flips).transpose(np.argsort(self._frame.axes))
        return np.ascontiguousarray(stored)

    @property
    def _remembers(self) -> bool:
        return self.use_mask and "mask" in self.model.prompts

    def _answer(self, clicks: Clicks, mask: Tensor | None) -> Tensor:
        prompts = prompts_of(clicks, self._frame)
        probability = self._session.segment(replace(prompts, mask=None if mask is None else mask.float()))
        return (probability >= 0.5).cpu()

    def close(self) -> None:
        """End what is done in the background."""
        close = getattr(self._session, "close", None)
        if close is not None:
            close()

    def forget(self, who: Hashable) -> None:
        """Begin a dialogue anew."""
        with self._lock:
            self._dialogues.pop(who, None)


class OpenScans:
    """The scans that were asked for last. Safe for threads.

    No cache of ``cachetools``: those bound a number or a size, not both, and keep nothing larger than the bound.

    Args:
        most: how many are kept.
        most_bytes: how much memory they may take together; the latest is always kept.
    """

    def __init__(self, most: int = 4, most_bytes: int = 2 << 30) -> None:
        self._most, self._most_bytes = most, most_bytes
        self._kept: OrderedDict[Hashable, OpenScan] = OrderedDict()
        self._lock = threading.Lock()
        self._opening: dict[Hashable, threading.Lock] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: Hashable, make: Callable[[], OpenScan]) -> OpenScan:
        """The open scan of this key; opened now, once, when it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            opening = self._opening.setdefault(key, threading.Lock())
        with opening:
            with self._lock:
                if key in self._kept:
                    return self._kept[key]
            try:
                opened = make()
            finally:
                with self._lock:
                    self._opening.pop(key, None)
            with self._lock:
                self._kept[key] = opened
                while len(self._kept) > 1 and (
                    len(self._kept) > self._most or sum(s.bytes for s in self._kept.values()) > self._most_bytes
                ):
                    self._kept.popitem(last=False)[1].close()
            return opened

    def clear(self) -> None:
        """Let go of all scans, and of what their models keep for them."""
        with self._lock:
            for scan in self._kept.values():
                scan.close()
            self._kept.clear()


def whole_frame(scan: Volume) -> Frame:
    """The frame of a scan that turns its axes and leaves out nothing."""
    frame = frame_of(scan)
    d, h, w = (scan.shape[axis] for axis in frame.axes)
    return replace(frame, box=((0, d), (0, h), (0, w)), shape=(d, h, w))


def prompts_of(clicks: Clicks, frame: Frame) -> Prompts:
    """Clicks on a scan as prompts in the canonical axes of its (whole) frame."""
    return Prompts(
        points=_turned(np.concatenate([clicks.inside, clicks.outside]), frame),
        positive=torch.tensor([True] * len(clicks.inside) + [False] * len(clicks.outside), dtype=torch.bool),
        box=None if clicks.box is None else _sorted(_turned(clicks.box, frame)),
    )


def _turned(voxels: np.ndarray, frame: Frame) -> Tensor:
    """Voxels ``[n, 3]`` of the scan along the frame's axes."""
    turned = voxels.reshape(-1, 3)[:, list(frame.axes)].astype(np.float32)
    for axis, flipped in enumerate(frame.flips):
        if flipped:
            turned[:, axis] = frame.shape[axis] - 1 - turned[:, axis]
    return torch.from_numpy(turned)


def _sorted(box: Tensor) -> Tensor:
    return torch.stack([box.amin(0), box.amax(0)])
