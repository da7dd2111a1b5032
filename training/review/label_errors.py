"""cleanlab's judgement of labels, given probabilities that did not see them. The only file that imports cleanlab, which
brings pandas and datasets with it and takes seconds.

Confident learning: Northcutt, Jiang and Chuang, arXiv:1911.00068.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True)
class Judgement:
    """`quality` (N,): probability of the given label, low is suspicious. `wrong` (N,): counted as an error."""

    quality: npt.NDArray[np.float64]
    wrong: npt.NDArray[np.bool_]

    @property
    def ranks(self) -> npt.NDArray[np.int64]:
        """(N,): 1 for the most suspicious row; equal ones in the order of the rows."""
        order = np.argsort(self.quality, kind="stable")
        ranks = np.empty(len(order), np.int64)
        ranks[order] = np.arange(1, len(order) + 1)
        return ranks


def judge(labels: npt.NDArray[np.int64], probabilities: npt.NDArray[np.float64]) -> Judgement:
    """N label indices against their out-of-fold probabilities (N, C)."""
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    quality = get_label_quality_scores(labels, probabilities, method="self_confidence")
    wrong = find_label_issues(labels, probabilities, filter_by="prune_by_noise_rate", n_jobs=1)
    return Judgement(np.asarray(quality, np.float64), np.asarray(wrong, bool))
