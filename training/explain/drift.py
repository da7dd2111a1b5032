"""What compression costs a language model: perplexity against the parent's, by source, and what passages lose most."""

from __future__ import annotations

import numpy as np

from training.bootstrap import Range
from training.explain.contract import Findings, Subject
from training.explain.language import Passage, as_range, passage_table, passages, sources
from training.explain.likelihood import TextLosses, perplexity, perplexity_ratio
from training.explain.lineage import links
from training.explain.show import bars
from training.explain.words import Words
from training.pages.page import Section


class SourceDrift(Findings):
    """Perplexity over the parent's on the tokens of one source."""

    name: str
    tokens: int
    ratio: Range


class StepDrift(Findings):
    """An artifact against its parent on the same tokens. `worse_share`: of tokens that cost a tenth of a nat more."""

    artifact: str
    parent: str
    steps: tuple[str, ...]
    tokens: int
    perplexity: Range
    perplexity_before: Range
    ratio: Range
    worse_share: float
    by_source: tuple[SourceDrift, ...]
    worst: tuple[Passage, ...]


class DriftFindings(Findings):
    """Every artifact whose parent lies there too."""

    steps: tuple[StepDrift, ...]


def find(subject: Subject) -> DriftFindings | None:
    """Compare each artifact with the one it was made from, on the subject's split."""
    found = []
    for link in links(subject):
        before, after = (subject.losses(each, subject.split) for each in (link.parent, link.artifact))
        found.append(compare(before, after, link.name, link.parent_name, link.steps, subject.seed))
    return DriftFindings(steps=tuple(found)) if found else None


def compare(
    before: TextLosses, after: TextLosses, artifact: str, parent: str, steps: tuple[str, ...], seed: int
) -> StepDrift:
    """Two models on the same tokens."""
    changes = [new.losses - old.losses for old, new in zip(before.documents, after.documents, strict=True)]
    parts = zip(sources(before.documents), sources(after.documents), strict=True)
    return StepDrift(
        artifact=artifact,
        parent=parent,
        steps=steps,
        tokens=len(after.losses),
        perplexity=as_range(perplexity(after.losses, seed)),
        perplexity_before=as_range(perplexity(before.losses, seed)),
        ratio=as_range(perplexity_ratio(after.losses, before.losses, seed)),
        worse_share=round(float((np.concatenate(changes) > 0.1).mean()), 5),
        by_source=tuple(
            SourceDrift(name=source, tokens=len(new), ratio=as_range(perplexity_ratio(new, old, seed)))
            for (source, old), (_, new) in parts
        ),
        worst=passages(after.documents, changes),
    )


def show(found: DriftFindings, section: Section, word: Words) -> None:
    """A line an artifact, then where it lost."""
    columns = (
        "artifact",
        "made from",
        "step",
        "perplexity before",
        "perplexity",
        "ratio [95 %]",
        "tokens worse by 0.1",
    )
    section.table(
        [word(each) for each in columns],
        [
            [
                each.artifact,
                each.parent,
                ", ".join(each.steps) or None,
                each.perplexity_before.value,
                each.perplexity.value,
                f"{each.ratio.value:.4f} [{each.ratio.low:.4f}, {each.ratio.high:.4f}]",
                f"{each.worse_share:.1%}",
            ]
            for each in found.steps
        ],
        caption=word("Each artifact against the one that it was made from, on the same tokens."),
    )
    for each in found.steps:
        if not each.worst:
            continue  # as good as nothing changed
        section.figure(
            bars(
                [(one.name, one.ratio) for one in each.by_source],
                word("perplexity over the parent's"),
                each.ratio.value,
            ),
            f"{each.artifact}: {word('By source')}",
        )
        title = word(
            "Passages that {artifact} predicts worse than {parent}", artifact=each.artifact, parent=each.parent
        )
        passage_table(title, each.worst, section, word)
