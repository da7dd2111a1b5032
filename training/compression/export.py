"""The step from torch to ONNX: fp32, operators fused, nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from runtime.manifest import Format, Kind, Manifest, read_manifest
from training.compression.step import GRAPH, Comparison, Context, Step


class Export(Step):
    """Checkpoint -> fp32 graph; held to the checkpoint's scores, cosines or log-probabilities."""

    consumes: ClassVar[Format] = "torch"
    produces: ClassVar[Format] = "onnx"
    kinds: ClassVar[tuple[Kind, ...]] = ("matching", "embedding", "generation")
    compares: ClassVar[Comparison | None] = "largest"

    step: Literal["export"] = "export"
    tolerance: float = Field(default=1e-3, gt=0)

    def apply(self, source: Path, directory: Path, context: Context) -> dict[str, Any]:
        """See Step."""
        kind = read_manifest(source).kind
        if kind != "generation":
            from training.encoder_graph import write_encoder_graph

            return {"fused": write_encoder_graph(source, kind, directory / GRAPH)}
        from models import causal_lm
        from training.causal_graph import write_causal_graph
        from training.checkpoint import read_config

        state = {name: value.numpy() for name, value in causal_lm.load(source).state_dict().items()}
        head_dim = write_causal_graph(read_config(source), state, directory / GRAPH)
        return {"attention": "GroupQueryAttention, shared cache", "head_dim": head_dim}

    def changed(self, parent: Manifest, done: dict[str, Any]) -> dict[str, Any]:
        """The graph may have padded its heads."""
        if parent.causal is None:
            return {}
        return {"causal": parent.causal.model_copy(update={"head_dim": done["head_dim"]})}
