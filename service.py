"""The BentoML services: matching and embeddings, generation, and all in one, which `bentoml serve` starts.

Nothing is loaded at import. What they do stands in serving/; how BentoML meets it, in serving/hosting.py.
"""

from __future__ import annotations

import bentoml

from serving.hosting import HOSTING, GenerationMethods, HostedService, MatchingMethods


@bentoml.service(service_class=HostedService, **HOSTING)
class Matching(MatchingMethods):
    """Match, rerank and embed."""

    kinds = ("matching", "embedding")


@bentoml.service(service_class=HostedService, **HOSTING)
class Generation(GenerationMethods):
    """Completions."""

    kinds = ("generation",)


@bentoml.service(service_class=HostedService, **HOSTING)
class Sluice(MatchingMethods, GenerationMethods):
    """All kinds in one process; serves those of which the store has a model."""

    kinds = ("matching", "embedding", "generation")
