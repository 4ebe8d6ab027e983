"""Where training computes and in which number format: a CUDA device in bf16 where there is one, else the CPU.

On a CPU products are bf16 only where the processor computes in it: emulated bf16 is slower than f32.
"""
from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_CPU = Path("/proc/cpuinfo")
_BF16 = DEVICE.type == "cuda" or _CPU.exists() and any(w in _CPU.read_text() for w in ("avx512_bf16", "amx_bf16"))
# The layout of images in memory that is fastest with that: convolutions in f32 on a CPU are a tenth slower with channels last.
LAYOUT = torch.channels_last if _BF16 else torch.contiguous_format


def autocast() -> AbstractContextManager:
    """Around a forward pass: products in bf16 with f32 weights, or nothing."""
    return torch.autocast(DEVICE.type, torch.bfloat16) if _BF16 else nullcontext()
