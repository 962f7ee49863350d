"""Memory of tensors, as operations allocate it."""

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode


class Storages(TorchDispatchMode):
    """Follows every storage of at least ``smallest`` bytes that an operation returns."""

    def __init__(self, smallest):
        super().__init__()
        self.smallest, self.alive, self.peak = smallest, {}, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                if storage.nbytes() >= self.smallest and storage._cdata not in self.alive:
                    self.alive[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self.peak = max(self.peak, self.now)
        return result

    @property
    def now(self):
        self.alive = {k: v for k, v in self.alive.items() if not v[0].expired()}
        return sum(nbytes for _, nbytes in self.alive.values())
