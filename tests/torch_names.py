"""Operations that newer versions of torch call otherwise, by the newest name that is there.

The older names warn that they are deprecated. Arguments are the same.
"""

import torch.distributed as dist

all_gather_single = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
reduce_scatter_single = (
    getattr(dist, "reduce_scatter_single", None) or dist.reduce_scatter_tensor)
