"""Errors of torch about memory become one line that says what to do."""

import pytest
import torch

from gan_vkd.runtime.errors import VkdError, one_line_without_memory

LOST = "DataLoader worker (pid 71) is killed by signal: Killed."
BUS = "DataLoader worker (pid(s) 7) exited unexpectedly. It might be out of shared memory"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"), "out of memory; less"),
        (MemoryError(), "out of memory; less"),
        (RuntimeError("DefaultCPUAllocator: not enough memory: you tried"), "out of memory; less"),
        (RuntimeError(LOST), "--shm-size"),
        (RuntimeError(BUS), "data.workers"),
    ],
)
def test_out_of_memory_is_a_one_line_error(error: Exception, line: str) -> None:
    with pytest.raises(VkdError, match=line) as caught, one_line_without_memory("less"):
        raise error
    assert len(str(caught.value).splitlines()) == 1


def test_other_errors_keep_their_traceback() -> None:
    message = "Caught RuntimeError in DataLoader worker process 0.\nOriginal Traceback: ..."
    with pytest.raises(RuntimeError, match="Original Traceback"), one_line_without_memory("less"):
        raise RuntimeError(message)
