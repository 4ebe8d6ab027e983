"""Where training computes and in which number format: on a CUDA device where there is one, else on the CPU, in f32.

Not in bf16, although that is half as fast again on a CPU that computes in it. The coarse levels of the UNet have logits of over 100. Their softmax is
nearly one-hot, and its gradient a small difference of large numbers, of which bf16 leaves little: over 192 samples the gradient in bf16 had 4 times
the length of that in f32, at a cosine of 0.5. With the attention alone in f32 the cosine was 0.8.
"""
from __future__ import annotations

import torch

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
# The layout of images in memory that is fastest with that: convolutions in f32 on a CPU are a tenth slower with channels last.
LAYOUT = torch.channels_last if DEVICE.type == "cuda" else torch.contiguous_format
torch.set_float32_matmul_precision("high")  # TF32 on a CUDA device, which has the three more bits that bf16 lacks
