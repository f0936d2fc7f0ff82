"""A study without a scan is not a finished one: whoever starts it or asks it for a scan is told what to do."""

from __future__ import annotations

from server.store.folder_store import StudyDatastore
from server.store.study import Study


def emptiness(study: Study) -> str:
    """What to do about a study that has no scan; empty when it has one.

    Args:
        study: the study.
    """
    datastore = study.datastore
    if datastore.list_images():
        return ""
    if trouble := getattr(datastore, "trouble", ""):  # a study on a DICOM server has it
        return (
            f"{trouble}, so it is not known which series it has, and none is known from before. Check whether it runs, "
            "its address and its log-in; what it has is taken up by itself as soon as it answers."
        )
    if study.location.startswith(("http://", "https://")):
        return (
            "The DICOM server lists no series that can be segmented, so there is nothing to do yet. Send images to it; "
            "they are taken up by themselves. If it has some, the address of the study or its search filter "
            "(MONAI_LABEL_DICOMWEB_SEARCH_FILTER) may be wrong."
        )
    left_out = len(datastore.left_out) if isinstance(datastore, StudyDatastore) else 0
    text = (
        "There are no scans in the study's folder, so there is nothing to do yet. Put NIfTI, NRRD or MHA files, 2D "
        "images, or folders of DICOM images there; they are taken up by themselves. If scans should be there already, "
        "the folder's name may be mistyped."
    )
    return text if not left_out else f"{text} Files that are no usable scans: {left_out}; /info/ says why (left_out)."
