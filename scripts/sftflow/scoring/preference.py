"""Figures of pairwise judgements: win rate, length-controlled win rate, kappa (workflow only).

References
  Dubois et al. (2024) COLM, "Length-controlled AlpacaEval": win probability at equal length.
  Cohen (1960) Educ. Psychol. Meas. 20:37. Agreement beyond chance.
"""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import expit
from scipy.stats import norm
from sftflow.scoring import stats
from statsmodels.stats.inter_rater import cohens_kappa

FEWEST = 10  # units: of fewer, no length effect is estimated
FARTHEST = 8.0  # logits: from here on it is separated, not estimated


@dataclass(frozen=True)
class Rate:
    """A share in [0, 1], its interval, and the p of no preference (1/2)."""

    n: int
    rate: float | None
    interval: stats.Interval | None
    p: float | None = None


def win_rate(
    won: Sequence[int], lost: Sequence[int], clusters: Sequence[str], alpha: float
) -> Rate:
    """Wins and half the ties, as a share of the turns; turns of one dialogue hang together.

    1/2 + half the paired difference of wins (n,) and losses (n,), so the tests of `stats.compare`
    apply. Where all turns ended alike nothing varies, and each dialogue counts as one turn.
    """
    several = len(set(clusters)) < len(won)
    alike = len(set(zip(won, lost, strict=True))) < 2
    if several and alike and won:
        dialogues = len(set(clusters))
        result = stats.compare_counts(won[0] * dialogues, lost[0] * dialogues, dialogues)
    else:
        result = stats.compare(lost, won, list(clusters) if several else None)
    if result.difference is None:
        return Rate(0, None, None)
    interval = result.interval(alpha)
    halved = interval and (0.5 + max(interval[0], -1) / 2, 0.5 + min(interval[1], 1) / 2)
    return Rate(len(won), 0.5 + result.difference / 2, halved, result.p)


def length_controlled(
    scores: Sequence[float], lengths: Sequence[float], clusters: Sequence[str], alpha: float
) -> Rate:
    """Win rate as it would be at equal length.

    scores (n,): 1, 1/2 or 0; lengths (n,): candidate's minus baseline's. Logistic regression on
    tanh of the length difference in its standard deviations, not centred, so that the intercept is
    the answer at equal length; errors robust to clusters. None where it can't be estimated: few
    units, one length, or lengths that tell winners from losers without error.
    """
    from statsmodels.genmod.families import Binomial  # an eighth of a second, where nobody judges
    from statsmodels.genmod.generalized_linear_model import GLM

    difference, y = np.asarray(lengths, float), np.asarray(scores, float)
    nothing = Rate(len(y), None, None)
    if len(set(clusters)) < FEWEST or not difference.std() or y.min() == y.max():
        return nothing
    x = np.column_stack([np.ones(len(y)), np.tanh(difference / difference.std())])
    _, groups = np.unique(np.asarray(clusters, str), return_inverse=True)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        fit = GLM(y, x, family=Binomial()).fit(cov_type="cluster", cov_kwds={"groups": groups})
    if not fit.converged or np.abs(fit.params).max() > FARTHEST or not np.isfinite(fit.bse[0]):
        return nothing
    half = norm.ppf(1 - alpha / 2) * fit.bse[0]
    low, center, high = (float(expit(fit.params[0] + by)) for by in (-half, 0, half))
    return Rate(len(y), center, (low, high), float(fit.pvalues[0]))


def kappa(first: Sequence[str], second: Sequence[str]) -> float | None:
    """Cohen's kappa of two raters over the same items; None where only one category was used."""
    categories = sorted({*first, *second})
    if len(categories) < 2:
        return None
    table = np.zeros((len(categories), len(categories)))
    for one, other in zip(first, second, strict=True):
        table[categories.index(one), categories.index(other)] += 1
    return float(cohens_kappa(table, return_results=False))
