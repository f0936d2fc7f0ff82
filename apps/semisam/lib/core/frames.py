"""Frames: a working grid laid over a scan, and the way from the scan's own grid to it and back.

All methods work on arrays whose axes point to the patient's right, anterior and superior (as near as whole axis
swaps allow), cropped to the scan's content, at a spacing or shape of their choice. A ``Frame`` makes such an array from
a scan and carries results back into the scan's own grid. It is the one preprocessing path of inference, training and
scoring.

A 2D image has a working grid of one slice, across the third axis, and its columns and rows always count as those of an
axial slice: where a picture lies in the patient is rarely known. Nor is its true size: lengths in its frame are such
that its longer side has ``PICTURE_SIDE`` "mm", so that pictures of many resolutions come to one working grid, and so
has its thickness, so that it counts as a thick slice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import nibabel.orientations
import numpy as np
import torch
from torch import Tensor

from .geometry import Volume
from .resampling import along_axes, area_means, averaging, interpolation, resize

PICTURE_SIDE = 256.0
"""Length of a 2D image's longer side in its frame, in "mm"."""
LONGEST_BODY = 10_000.0
"""Length in mm that no scan has along any side. Lengths beyond it are those of a header with another unit: they count
1000 times less in the frame, so that the scan can be laid beside others and on grids of mm."""
SHORTEST_BODY = 1.0
"""Length in mm that every scan has along one side at least: below it, lengths count 1000 times more in the frame, or a
grid of mm over the scan had no voxels."""
_FEW = 500_000
"""Voxels of a working grid that take little memory, whatever is kept of them."""


@dataclass(frozen=True)
class Frame:
    """Maps between a scan's own grid and a working grid over the scan's content.

    Args:
        source_shape: voxels of the scan's own grid.
        axes: canonical axis ``n`` is the scan's axis ``axes[n]``.
        flips: whether the canonical axis ``n`` runs against the scan's axis.
        box: first and past-the-last canonical voxel of the content, per axis.
        voxel: size in mm of a canonical (unscaled) voxel; for a 2D image see above.
        shape: voxels of the working grid, which covers the box from edge to edge.
    """

    source_shape: tuple[int, int, int]
    axes: tuple[int, int, int]
    flips: tuple[bool, bool, bool]
    box: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    voxel: tuple[float, float, float]
    shape: tuple[int, int, int]

    @property
    def flat(self) -> bool:
        """Whether the scan is a 2D image."""
        return self.source_shape[2] == 1

    @property
    def extent(self) -> tuple[float, float, float]:
        """Size of the box in mm."""
        x, y, z = ((b[1] - b[0]) * v for b, v in zip(self.box, self.voxel, strict=True))
        return x, y, z

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of the working grid in mm."""
        x, y, z = (e / n for e, n in zip(self.extent, self.shape, strict=True))
        return x, y, z

    def with_shape(self, shape: Sequence[int]) -> Frame:
        """The same box on a grid of ``shape`` voxels."""
        d, h, w = (max(1, int(n)) for n in shape)
        return replace(self, shape=(d, h, w))

    def with_spacing(self, spacing: Sequence[float]) -> Frame:
        """The same box on a grid whose voxels have about ``spacing`` mm."""
        shape = [round(e / s) for e, s in zip(self.extent, spacing, strict=True)]
        return self.with_shape([*shape[:2], 1] if self.flat else shape)

    def with_voxels(self, most: int, least: int) -> Frame:
        """The same box in about ``most`` voxels, as near to cubes as they can be.

        Args:
            most: voxels in all; pixels of a 2D image.
            least: voxels along each axis (in its plane, for a 2D image); else never finer than the scan.
        """
        x, y, z = self.extent
        if self.flat:
            edge = max((x * y / most) ** (1 / 2), min(self.spacing[:2]))
        else:
            edge = max((x * y * z / most) ** (1 / 3), min(self.spacing))
        shape = [max(least, round(e / edge)) for e in self.extent]
        return self.with_shape([*shape[:2], 1] if self.flat else shape)

    def around(self, mask: Tensor, margin: float) -> Frame:
        """The part of the box around the marked voxels, at the scan's own resolution.

        Args:
            mask: ``[D', H', W']`` boolean on the working grid; at least one voxel is marked.
            margin: mm to leave on all sides, as far as the box goes.
        """
        box = []
        for axis, ((start, end), voxel, count) in enumerate(zip(self.box, self.voxel, self.shape, strict=True)):
            places = mask.any(dim=[n for n in range(3) if n != axis]).nonzero()
            one = (end - start) / count  # canonical voxels of a working one
            first = start + int(places[0]) * one - margin / voxel
            last = start + (int(places[-1]) + 1) * one + margin / voxel
            box.append((max(start, math.floor(first + 1e-6)), min(end, math.ceil(last - 1e-6))))
        d, h, w = (last - first for first, last in box)
        return replace(self, box=(box[0], box[1], box[2]), shape=(d, h, w))

    def onto(self, values: Tensor, other: Frame) -> tuple[Tensor, Tensor]:
        """Values ``[C, D', H', W']`` of this working grid on another one of the same scan.

        Returns:
            ``[C, *other.shape]``, 0 outside this frame's box; and ``[1, *other.shape]``: 1 inside it, 0 outside.
        """
        if self.box == other.box:
            return resize(values, other.shape), values.new_ones(1, *other.shape)
        # No finer than wanted: what follows only interpolates.
        least = [min(n, max(1, round(e / s))) for n, e, s in zip(self.shape, self.extent, other.spacing, strict=True)]
        pairs = zip(self.box, least, other.box, other.shape, strict=True)
        ways = [interpolation(*pair) for pair in pairs]
        inside = [way.sum(dim=1, keepdim=True) for way in ways]
        return along_axes(resize(values, least), ways), along_axes(values.new_ones(1, 1, 1, 1), inside)

    def crop(self, array: np.ndarray) -> np.ndarray:
        """The content of an array ``[D, H, W]`` on the scan's own grid, in canonical axes (a view)."""
        if array.shape != self.source_shape:
            raise ValueError(f"array has shape {array.shape}, the frame belongs to {self.source_shape}")
        turned = np.flip(array.transpose(self.axes), [n for n in range(3) if self.flips[n]])
        return turned[tuple(slice(*b) for b in self.box)]

    def image(self, array: np.ndarray) -> Tensor:
        """A scan's intensities on the working grid: ``[D, H, W]`` to ``[1, D', H', W']`` float32."""
        content = self.crop(array)
        if self.shape == content.shape:
            return torch.from_numpy(np.array(content, dtype=np.float32))[None]
        small = torch.empty(1, *self._shrunk)
        for at, slab, mean in self._slabs(content):
            small[at] = mean(slab)
        return resize(small, self.shape)

    def one_hot(self, label: np.ndarray, channels: int) -> Tensor:
        """A label map on the working grid as soft labels: ``[D, H, W]`` to ``[channels, D', H', W']``, sum 1."""
        small = torch.zeros(channels, *self._shrunk)
        small[0] = 1.0
        for at, slab, mean in self._slabs(self.crop(label)):
            if not slab.any():
                continue
            values = slab.astype(np.uint8)
            counts = np.bincount(values.ravel(order="K"), minlength=channels)
            small[:1][at] = 0.0
            for c in np.flatnonzero(counts[:channels]):
                small[c : c + 1][at] = mean(values == c)
        return torch.stack([resize(each[None], self.shape)[0] for each in small])

    @property
    def _shrunk(self) -> tuple[int, int, int]:
        """The working grid, nowhere finer than the content."""
        d, h, w = (min(b[1] - b[0], n) for b, n in zip(self.box, self.shape, strict=True))
        return d, h, w

    def _slabs(
        self, content: np.ndarray
    ) -> Iterator[tuple[tuple[slice, ...], np.ndarray, Callable[[np.ndarray], Tensor]]]:
        """The parts of a scan's content that become one plane each of the working grid.

        They lie one after the other in memory, and are small: a large scan is never converted whole.

        Yields:
            where the plane lies in ``[1, *self._shrunk]``; the part; and what gives the plane ``[1, D', H', W']`` of
            an array like the part.
        """
        axis = int(np.argmax(np.abs(content.strides)))
        others = [
            averaging(*sizes) for n, sizes in enumerate(zip(content.shape, self._shrunk, strict=True)) if n != axis
        ]
        for n, weights in enumerate(area_means(content.shape[axis], self._shrunk[axis]).numpy()):
            reach = np.flatnonzero(weights)
            first, last = int(reach[0]), int(reach[-1]) + 1
            part, at = [slice(None)] * 3, [slice(None)] * 4
            part[axis], at[axis + 1] = slice(first, last), slice(n, n + 1)

            def mean(slab: np.ndarray, near: np.ndarray = weights[first:last]) -> Tensor:
                plane = sum(weight * each for weight, each in zip(near, np.moveaxis(slab, axis, 0), strict=True))
                flat = torch.from_numpy(plane.astype(np.float32))[None, None]
                return along_axes(flat, [None, *others]).movedim(1, axis + 1)

            yield tuple(at), content[tuple(part)], mean

    def map_back(self, values: Tensor) -> np.ndarray:
        """A scalar map ``[D', H', W']`` to the scan's own grid: ``[D, H, W]`` float32, 0 outside the box."""
        whole = np.zeros(self.source_shape, dtype=np.float32)
        inside = self.crop(whole)
        inside[...] = resize(values.float()[None], inside.shape)[0].numpy()
        return whole

    def labels_back(self, probabilities: Tensor) -> np.ndarray:
        """The most probable class in the scan's own grid: ``[C, D', H', W']`` to ``[D, H, W]`` uint8.

        The array lies in memory as NIfTI files hold it, so that it is written and compared with theirs quickly.
        Probabilities, not labels, are interpolated. Outside the box all is background. Working plane by plane, and only
        where a structure may be the most probable class, keeps memory and time bounded for large scans with many
        classes.
        """
        whole = np.zeros(self.source_shape, dtype=np.uint8, order="F")
        inside = self.crop(whole)
        depth = min(self.shape[0], len(inside))
        if depth < self.shape[0]:
            probabilities = resize(probabilities.float(), (depth, *self.shape[1:]))
        regions = _regions(probabilities, inside.shape[1:])
        planes: dict[tuple[int, int], Tensor] = {}  # in-plane interpolated, by working plane and class

        def plane(k: int, c: int) -> Tensor:
            if (k, c) not in planes:
                planes[k, c] = resize(probabilities[c : c + 1, k : k + 1].float(), (1, *inside.shape[1:]))[0, 0]
            return planes[k, c]

        for n in range(len(inside)):
            position = min(max((n + 0.5) * depth / len(inside) - 0.5, 0.0), depth - 1.0)
            low = int(position)
            high = min(low + 1, depth - 1)
            for old in [key for key in planes if key[0] < low]:
                del planes[old]
            found = _joined(regions[low], regions[high])
            if not found:
                continue
            around = _hull(found.values())
            best = torch.lerp(plane(low, 0)[around], plane(high, 0)[around], position - low)
            classes = torch.zeros(best.shape, dtype=torch.uint8)
            for c, region in found.items():
                mixed = torch.lerp(plane(low, c)[region], plane(high, c)[region], position - low)
                here = tuple(slice(r.start - a.start, r.stop - a.start) for r, a in zip(region, around, strict=True))
                classes[here].masked_fill_(mixed > best[here], c)
                torch.maximum(best[here], mixed, out=best[here])
            inside[n][around] = classes.numpy()
        return whole


Rectangle = tuple[slice, slice]
_SURELY = 1e-4
"""How far background must lead in all neighbours for the place between them to be surely background."""


def _regions(probabilities: Tensor, size: Sequence[int]) -> list[dict[int, Rectangle]]:
    """By working plane, where each structure may win over background, in voxels of planes of ``size``.

    A mean of neighbours in all of which background leads is background, too: so only the neighbourhood of places where
    a structure comes near it counts.

    Args:
        probabilities: ``[C, D', H', W']``, background first.
        size: voxels of a plane on the scan's own grid.
    """
    found: list[dict[int, Rectangle]] = [{} for _ in range(probabilities.shape[1])]
    for c in range(1, len(probabilities)):
        rival = probabilities[c] > probabilities[0] - _SURELY
        rows, columns = rival.any(2).numpy(), rival.any(1).numpy()
        for k in np.flatnonzero(rows.any(1)):
            found[k][c] = (_reach(rows[k], size[0]), _reach(columns[k], size[1]))
    return found


def _reach(where: np.ndarray, size: int) -> slice:
    """The voxels of an axis of ``size`` on which the marked ones of a working axis have an influence, or a few more."""
    marked, scale = np.flatnonzero(where), size / len(where)
    first, last = int((marked[0] - 1) * scale) - 1, int((marked[-1] + 2) * scale) + 2
    return slice(max(0, first), min(size, last))


def _joined(one: dict[int, Rectangle], other: dict[int, Rectangle]) -> dict[int, Rectangle]:
    """Of each class, the hull of its two rectangles; in the order of the classes."""
    return {c: _hull([part[c] for part in (one, other) if c in part]) for c in sorted({*one, *other})}


def _hull(rectangles: Iterable[Rectangle]) -> Rectangle:
    """The smallest rectangle around several."""
    rows, columns = zip(*rectangles, strict=True)
    return (
        slice(min(r.start for r in rows), max(r.stop for r in rows)),
        slice(min(c.start for c in columns), max(c.stop for c in columns)),
    )


def frame_of(scan: Volume) -> Frame:
    """The frame of a scan at its own resolution, around its content."""
    axes, flips, voxel = _flat_axes(scan) if scan.flat else _canonical_axes(scan)
    turned = np.flip(scan.array.transpose(axes), [n for n in range(3) if flips[n]])
    box = content_box(turned)
    size = [b[1] - b[0] for b in box]
    return Frame(
        source_shape=scan.shape,
        axes=(axes[0], axes[1], axes[2]),
        flips=(flips[0], flips[1], flips[2]),
        box=box,
        voxel=(voxel[0], voxel[1], voxel[2]),
        shape=(size[0], size[1], size[2]),
    )


def _canonical_axes(scan: Volume) -> tuple[list[int], list[bool], list[float]]:
    """Axes, flips and voxel size of a volume's frame."""
    directions = nibabel.orientations.io_orientation(scan.affine)
    # io_orientation says, per scan axis, which world axis it follows; we need the reverse.
    axes = [int(np.flatnonzero(directions[:, 0] == n)[0]) for n in range(3)]
    longest = max(n * size for n, size in zip(scan.shape, scan.spacing, strict=True))
    unit = 1.0
    while longest * unit > LONGEST_BODY:  # mm that were taken for m; a grid of mm over them would fill any memory
        unit /= 1000
    while longest * unit < SHORTEST_BODY:  # mm that were taken for micrometres
        unit *= 1000
    return axes, [bool(directions[a, 1] < 0) for a in axes], [scan.spacing[a] * unit for a in axes]


def _flat_axes(scan: Volume) -> tuple[list[int], list[bool], list[float]]:
    """The same of a 2D image's frame."""
    width, height = scan.spacing[0] * scan.shape[0], scan.spacing[1] * scan.shape[1]
    unit = PICTURE_SIDE / max(width, height)
    # As an axial slice is stored: columns run to the left, rows to the back.
    return [0, 1, 2], [True, True, False], [scan.spacing[0] * unit, scan.spacing[1] * unit, PICTURE_SIDE]


def content_box(array: np.ndarray) -> tuple[tuple[int, int], tuple[int, int], tuple[int, int]]:
    """The smallest box outside which ``array`` ``[D, H, W]`` is constant padding; at least two voxels wide.

    Planes of one value at either end of an axis are padding, whatever their value; a scan without such planes keeps
    its whole extent. An axis of one voxel stays.
    """
    box = []
    for axis in range(3):
        # From both ends inwards: most scans have content in their first planes, and are not read whole.
        planes = np.moveaxis(array, axis, 0)
        order = range(len(planes))
        first = next((n for n in order if planes[n].min() < planes[n].max()), 0)
        last = next((n + 1 for n in reversed(order) if planes[n].min() < planes[n].max()), len(planes))
        if last - first < 2:
            first, last = max(0, first - 1), min(array.shape[axis], last + 1)
        box.append((first, last))
    return box[0], box[1], box[2]


def common_frame(frames: Sequence[Frame]) -> Frame:
    """One frame for working grids of one scan: around all of them, and as fine as the finest, within bounds.

    It is the first one where all have the same box, else it has at most four times the voxels of the largest, unless
    these are few.
    """
    first = frames[0]
    if all(each.box == first.box for each in frames):
        return first
    box = [(min(each.box[n][0] for each in frames), max(each.box[n][1] for each in frames)) for n in range(3)]
    finest = [min(each.spacing[n] for each in frames) for n in range(3)]
    joined = replace(first, box=(box[0], box[1], box[2])).with_spacing(finest)
    most = max(_FEW, 4 * max(math.prod(each.shape) for each in frames))
    return joined if math.prod(joined.shape) <= most else joined.with_voxels(most, 1)
