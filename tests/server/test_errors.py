"""Every error has a text for the client."""

from __future__ import annotations

import pytest
import torch
from fastapi import HTTPException

from lib.core.errors import UserError
from server.errors import http_answers


@pytest.mark.parametrize(
    ("error", "status", "text"),
    [
        (UserError("No label yet.", status=409), 409, "No label yet."),
        (OSError(28, "No space left on device", "/data/a.nii.gz"), 507, "No space left in /data"),
        (MemoryError("12 GB wanted"), 507, "The memory of this machine does not suffice"),
        (
            RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried"),
            507,
            "choose the preset quick, or a smaller roi_size or a larger spacing",
        ),
        (ZeroDivisionError("12"), 500, "Unexpected error, told in the server's log under the mark"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 507, "choose the preset quick or the device cpu"),
        (
            torch.AcceleratorError("CUDA error: out of memory\nCompile it"),
            507,
            "End other programs that use it",
        ),
        (RuntimeError("CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), 507, "nvidia-smi lists them"),
        (RuntimeError("CUDA out of memory"), 500, "Unexpected error, told in the server's log"),
    ],
)
def test_errors_become_answers(error: Exception, status: int, text: str) -> None:
    with pytest.raises(HTTPException) as caught, http_answers():
        raise error
    assert caught.value.status_code == status
    assert text in caught.value.detail
