"""Networks of other kinds than ``models`` holds: one module per family, in plain PyTorch.

``transformer`` (GPT, attention for recall, ViT), ``tabular`` (FT-Transformer, MLP), ``unet``,
``gin`` and ``pinn``. Each function returns a module whose weights come from torch's global
generator. Bad sizes raise ``bench_apts.core.errors.UserError``.
"""
