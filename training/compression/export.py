"""The step from torch to ONNX: fp32, operators fused, nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Format, Kind, Manifest, read_manifest
from training.compression.step import ENCODER_GRAPH, GRAPH, Comparison, Context, Step


class Export(Step):
    """Checkpoint -> fp32 graph; held to the checkpoint's scores, cosines or log-probabilities."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "onnx"
    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")
    compares: ClassVar[Comparison | None] = "largest"
    takes_source: ClassVar[bool] = True

    step: Literal["export"] = "export"
    tolerance: float = Field(default=1e-3, gt=0)

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        manifest = read_manifest(source)
        if manifest.causal is None:
            from training.encoder_graph import write_encoder_graph

            return {"fused": write_encoder_graph(source, manifest.kind, directory / GRAPH)}
        from models import causal_lm, seq2seq_lm
        from training.causal_graph import write_causal_graph
        from training.checkpoint import read_config
        from training.seq2seq_writers import write_seq2seq_graphs

        if manifest.causal.has_source:
            state = {name: value.numpy() for name, value in seq2seq_lm.load(source).state_dict().items()}
            graphs = (directory / ENCODER_GRAPH, directory / GRAPH)
            head_dim = write_seq2seq_graphs(read_config(source), state, *graphs)
            return {"attention": "GroupQueryAttention, two shared caches", "head_dim": head_dim}
        state = {name: value.numpy() for name, value in causal_lm.load(source).state_dict().items()}
        head_dim = write_causal_graph(read_config(source), state, directory / GRAPH)
        return {"attention": "GroupQueryAttention, shared cache", "head_dim": head_dim}

    def changed(self, parent: Manifest, done: dict[str, Any]) -> dict[str, Any]:
        """The graph may have padded its heads."""
        if parent.causal is None:
            return {}
        graphs = {"encoder_graph": ENCODER_GRAPH} if parent.causal.has_source else {}
        return graphs | {"causal": parent.causal.model_copy(update={"head_dim": done["head_dim"]})}
