"""The TextCNN (Kim, arXiv:1408.5882): as a layer over hidden states, and as an encoder from nothing.

A convolution over text is a product of each token's window with a matrix, and so it is written: a matrix product is
what every runtime has a fast form for, in fp32 and in int8.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from models.sequence_encoder import SequenceConfig, SequenceEncoder

WIDTHS = (3, 5)  # tokens a window; odd, so that a window has a token in its middle


class TextCNN(nn.Module):
    """Windows of several widths side by side: (B, T, in) -> (B, T, out), an equal share of each width."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.out = out
        self.windows = nn.ModuleList(nn.Linear(tokens * width, out // len(WIDTHS)) for tokens in WIDTHS)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` (B, T): 1 for a token, 0 for the padding behind it. Zeros at padding; there, `x` is not read."""
        kept = mask.unsqueeze(-1).to(x.dtype)
        side = max(WIDTHS) // 2
        length = x.shape[1]
        padded = functional.pad(x * kept, (0, 0, side, side))
        shifted = [padded[:, start : start + length] for start in range(2 * side + 1)]  # each (B, T, in)
        found = []
        for tokens, layer in zip(WIDTHS, self.windows, strict=True):
            near = shifted[side - tokens // 2 : side + tokens // 2 + 1]
            found.append(layer(torch.cat(near, dim=-1)))
        hidden: Tensor = functional.relu(torch.cat(found, dim=-1)) * kept
        return hidden


class TextCNNConfig(SequenceConfig):
    """See SequenceConfig."""

    model_type = "textcnn"


class TextCNNModel(SequenceEncoder):
    """A stack of TextCNNs on embeddings."""

    config_class = TextCNNConfig
    layer = TextCNN
