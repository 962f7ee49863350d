"""What differs between versions of torch: names of operations, and how they are counted.

The older names warn that they are deprecated. Arguments are the same.
"""

import pytest
import torch
import torch.distributed as dist

HOOKED = hasattr(dist.ProcessGroup, "register_pre_hook")
CUDA_BUILD = hasattr(torch._C, "_cuda_getDeviceCount")
METER = "c10d pre-hook" if HOOKED else "c10d dispatcher"
"""What counts collectives unless it is asked otherwise."""

GLOO_ALL_TO_ALL = HOOKED
"""Whether gloo sends a list of tensors to all, and not a single tensor only."""

hooked = pytest.mark.skipif(not HOOKED, reason="this torch has no pre-hook")

all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = (
    getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)
