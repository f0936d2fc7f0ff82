"""nnU-Net v2 through its Python interface.

Isensee et al., "nnU-Net: a self-configuring method for deep learning-based biomedical image segmentation",
https://doi.org/10.1038/s41592-020-01008-z. nnU-Net chooses spacing, window, batch, network and training itself; it only
gets scans, labels and folds from here. Nothing of it is imported before it is used.
"""

from .dataset import write_case, write_dataset
from .install import MissingPackageError, need_nnunet
from .scheme import NnunetScheme, predict_scan
from .training import NnunetPlan, plan_dataset, stock_trainer, train_fold

__all__ = [
    "MissingPackageError",
    "NnunetPlan",
    "NnunetScheme",
    "need_nnunet",
    "plan_dataset",
    "predict_scan",
    "stock_trainer",
    "train_fold",
    "write_case",
    "write_dataset",
]
