"""Generation served: beside the raw loop of its own graph, beside peers, with newcomers, mixed lengths, shared prefixes
and three times what it can do."""
