"""The bidirectional LSTM (Graves and Schmidhuber, 2005): as a layer over hidden states, and as an encoder from nothing.

Padding does not exist for it: each row is read to its own length, forwards and backwards from its last token.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from models.sequence_encoder import SequenceConfig, SequenceEncoder


class BiLSTM(nn.Module):
    """Both directions side by side: (B, T, in) -> (B, T, out), out / 2 of each."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.out = out
        self.lstm = nn.LSTM(width, out // 2, batch_first=True, bidirectional=True)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        """`mask` (B, T): 1 for a token, 0 for the padding behind it. Zeros at padding."""
        lengths = mask.sum(1)
        if torch.compiler.is_exporting():
            exported: Tensor = torch.ops.sluice.bilstm(x, lengths, *self.packed)
            return exported
        packed = pack_padded_sequence(x, lengths.clamp(min=1).cpu(), batch_first=True, enforce_sorted=False)
        hidden, _ = pad_packed_sequence(self.lstm(packed)[0], batch_first=True, total_length=x.shape[1])
        return hidden

    def pack(self) -> None:
        """Before an export: the weights as ONNX has them, W (2, 4H, in), R (2, 4H, H) and B (2, 8H), H = out / 2."""
        laid = []
        for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
            both = torch.stack([getattr(self.lstm, f"{name}_l0{direction}") for direction in ("", "_reverse")]).detach()
            # torch has input, forget, cell, output; ONNX input, output, forget, cell.
            i, f, g, o = both.chunk(4, dim=1)
            laid.append(torch.cat([i, o, f, g], dim=1))
        self.packed = (laid[0], laid[1], torch.cat(laid[2:], dim=1))


@torch.library.custom_op("sluice::bilstm", mutates_args=())
def bilstm(x: Tensor, lengths: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    """In a graph, in place of packing: x (B, T, in), lengths (B,), weights as ONNX has them -> (B, T, out).

    torch wants a body of every operator; this one is only ever traced, by the shape that `register_fake` gives.
    """
    raise NotImplementedError("only for export; see training/encoder_graph.py")


@bilstm.register_fake
def _(x: Tensor, lengths: Tensor, weight: Tensor, recurrent: Tensor, bias: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1], 2 * recurrent.shape[2])


class BiLSTMConfig(SequenceConfig):
    """See SequenceConfig."""

    model_type = "bilstm"


class BiLSTMModel(SequenceEncoder):
    """A stack of BiLSTMs on embeddings."""

    config_class = BiLSTMConfig
    layer = BiLSTM
