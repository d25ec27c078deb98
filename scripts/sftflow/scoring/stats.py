"""Intervals, paired tests and power, from scipy and statsmodels (root environment only).

Scores are per item: 0 or 1, or a mean over repeats, or a graded metric in [0, 1]. All results are
shares, not percent. What cannot be computed (no item, one cluster) is None, never 0 or NaN.

References
  Wilson (1927) JASA 22:209. Interval for a proportion.
  Korn & Graubard (1998) Survey Methodology 24:193; Dean & Pagano (2015) JSSAM 3:484.
      The same with the effective sample size of clustered items.
  McNemar (1947) Psychometrika 12:153, exact two-sided form.
  Newcombe (1998) Stat. Med. 17:2635, method 10 ("square-and-add"; recommended by Fagerland,
      Lydersen & Laake (2014) Stat. Med. 33:2850). Interval for a paired difference.
  Holm (1979) Scand. J. Stat. 6:65.
  Duffy (1984) Biometrics 40:1005. Unconditional power of the exact McNemar test.
  Efron & Tibshirani (1993), chapter 13. Percentile bootstrap.
"""

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, stats
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests
from statsmodels.stats.proportion import proportion_confint

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """A mean over `n` answers with its standard error and confidence interval."""

    n: int
    mean: float | None
    stderr: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline over the same `n` items.

    `fixed` items got better, `broken` got worse. `detectable` is the smallest true difference that
    the test would have found with 80 % power at the unadjusted level.
    """

    n: int
    difference: float | None
    interval: Interval | None
    fixed: int
    broken: int
    p: float | None
    detectable: float | None
    test: str


def mean(scores: ArrayLike, clusters: Sequence | None = None, confidence: float = 0.95) -> Mean:
    """Mean of `scores` (n,), with items of one cluster (n,) counted as dependent.

    Standard error: cluster-robust (the usual one where every item is its own cluster). Interval:
    Wilson for 0/1 scores, at Korn and Graubard's effective sample size where clustered; Student's
    t for graded scores.
    """
    scores = np.asarray(scores, float)
    n = len(scores)
    if n == 0:
        return Mean(0, None, None, None)
    average = float(scores.mean())
    totals = _cluster_totals(scores - average, clusters)
    count = len(totals)
    stderr = float(stats.sem(totals) * count / n) if count > 1 else None
    if not np.isin(scores, (0, 1)).all():
        return Mean(n, average, stderr, _t_interval(average, stderr, count, confidence, scores))
    effective = _effective_size(scores, stderr, count, confidence)
    low, high = proportion_confint(average * effective, effective, 1 - confidence, "wilson")
    # Rounding leaves the bounds of 0 and 1 a hair off; they are exact there.
    return Mean(n, average, stderr, (min(float(low), average), max(float(high), average)))


def _cluster_totals(values: NDArray, clusters: Sequence | None) -> NDArray:
    if clusters is None:
        return values
    _, index = np.unique(np.asarray(clusters, str), return_inverse=True)
    return np.bincount(index, weights=values)


def _effective_size(scores: NDArray, stderr: float | None, count: int, confidence: float) -> float:
    """Independent 0/1 items that would be as informative as these `count` clusters."""
    n = len(scores)
    if count == n or stderr is None:  # none: a single cluster
        return count
    if stderr == 0 and scores.std() == 0:  # all right or all wrong: the data cannot show dependence
        return count
    naive = float(stats.sem(scores))
    design = max((stderr / naive) ** 2, 1.0)
    level = (1 + confidence) / 2
    few_clusters = (stats.t.ppf(level, n - 1) / stats.t.ppf(level, count - 1)) ** 2
    return n / design * float(few_clusters)


def _t_interval(
    center: float, stderr: float | None, count: int, confidence: float, scores: NDArray
) -> Interval | None:
    """Student's t over `count` clusters, kept within [0, 1] for a metric that lives there."""
    if stderr is None:
        return None
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * stderr
    low, high = center - half, center + half
    if scores.min() >= 0 and scores.max() <= 1:
        low, high = max(low, 0.0), min(high, 1.0)
    return low, high


def compare(
    baseline: ArrayLike,
    candidate: ArrayLike,
    clusters: Sequence | None = None,
    confidence: float = 0.95,
    seed: int = 0,
) -> Difference:
    """Paired comparison of two score vectors (n,) over the same items in the same order.

    0/1 scores of independent items: exact McNemar test, Newcombe's interval. Otherwise (graded
    scores, means over repeats, clustered items): sign-flip permutation test on cluster totals and
    Student's t interval; on independent 0/1 items the sign-flip test is the McNemar test.
    """
    baseline, candidate = np.asarray(baseline, float), np.asarray(candidate, float)
    if baseline.shape != candidate.shape:
        raise ValueError(f"unequal sample sets: {baseline.shape} and {candidate.shape}")
    n = len(baseline)
    change = candidate - baseline
    fixed, broken = int((change > 0).sum()), int((change < 0).sum())
    binary = bool(np.isin(baseline, (0, 1)).all() and np.isin(candidate, (0, 1)).all())
    if binary and clusters is None:
        return compare_counts(int((baseline * candidate).sum()), fixed, broken, n, confidence)
    if n == 0:
        return Difference(0, None, None, 0, 0, None, None, "sign-flip permutation")
    totals = _cluster_totals(change, clusters)
    count = len(totals)
    difference = float(change.mean())
    spread = _cluster_totals(change - difference, clusters)
    stderr = float(stats.sem(spread) * count / n) if count > 1 else None
    z = stats.norm.ppf((1 + confidence) / 2) + stats.norm.ppf(POWER)
    return Difference(
        n,
        difference,
        None if stderr is None else _t_difference(difference, stderr, count, confidence),
        fixed,
        broken,
        _sign_flip(totals, seed),
        float(z * stderr) if stderr else None,
        "sign-flip permutation",
    )


def _t_difference(center: float, stderr: float, count: int, confidence: float) -> Interval:
    half = float(stats.t.ppf((1 + confidence) / 2, count - 1)) * stderr
    return max(center - half, -1.0), min(center + half, 1.0)


def _sign_flip(totals: NDArray, seed: int) -> float:
    """Two-sided sign-flip test of mean zero: exact up to 13 values, else 9,999 seeded draws."""
    if len(totals) < 2 or not totals.any():  # nothing, or one value: no sign is special
        return 1.0
    test = stats.permutation_test(
        (totals,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue)


@lru_cache(maxsize=100_000)
def compare_counts(
    both: int, fixed: int, broken: int, n: int, confidence: float = 0.95
) -> Difference:
    """The same from counts: items right in both, in the candidate only, in the baseline only."""
    if n == 0:
        return Difference(0, None, None, 0, 0, None, None, "exact McNemar")
    neither = n - both - fixed - broken
    table = [[both, fixed], [broken, neither]]
    return Difference(
        n,
        (fixed - broken) / n,
        newcombe(both, fixed, broken, neither, confidence),
        fixed,
        broken,
        float(mcnemar(table, exact=True).pvalue),
        # Laplace's rule keeps the observed discordance of a small sample away from 0 and 1.
        detectable(n, round((fixed + broken + 1) / (n + 2), 2), 1 - confidence),
        "exact McNemar",
    )


def newcombe(
    both: int, first: int, second: int, neither: int, confidence: float = 0.95
) -> Interval:
    """Newcombe's method 10 for the paired difference (first - second) / n.

    `first` and `second` count the items that only the one or the other got right. Built from the
    Wilson intervals of the two margins (statsmodels) and their correlation phi, which is corrected
    for continuity when positive.
    """
    n = both + first + second + neither
    right, other = both + first, both + second
    p, q = right / n, other / n
    bounds = proportion_confint(np.array([right, other]), n, 1 - confidence, "wilson")
    (low_p, low_q), (high_p, high_q) = ((float(x), float(y)) for x, y in bounds)
    margins = right * (n - right) * other * (n - other)
    product: float = both * neither - first * second
    if product > 0:
        product = max(product - n / 2, 0)
    phi = product / margins**0.5 if margins else 0.0

    def reach(a: float, b: float) -> float:
        return max(a * a - 2 * phi * a * b + b * b, 0.0) ** 0.5

    low = p - q - reach(p - low_p, high_q - q)
    high = p - q + reach(high_p - p, q - low_q)
    return max(low, -1.0), min(high, 1.0)


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Holm-adjusted p values; a missing test stays missing and does not count in the family."""
    known = [p for p in p_values if p is not None]
    gc.freeze()  # multipletests collects garbage each time: slow with thousands of scores in memory
    adjusted = iter(multipletests(known, method="holm")[1]) if known else iter(())
    gc.unfreeze()
    return [None if p is None else float(next(adjusted)) for p in p_values]


POWER = 0.8


@lru_cache(maxsize=100_000)
def power(n: int, difference: float, discordance: float, alpha: float = 0.05) -> float:
    """Unconditional power of the exact two-sided McNemar test with n pairs.

    Sum over the number of discordant pairs m ~ Binomial(n, discordance) of the chance that the
    split of m, Binomial(m, (discordance + difference) / (2 discordance)), is significant.
    """
    spread = 6 * (n * discordance * (1 - discordance)) ** 0.5 + 1
    low = max(int(n * discordance - spread), 0)
    high = min(int(n * discordance + spread) + 1, n)
    discordant = np.arange(low, high + 1)
    share = (discordance + difference) / (2 * discordance)
    critical = _critical(n, alpha)[low : high + 1]
    significant = stats.binom.cdf(critical, discordant, 1 - share) + stats.binom.cdf(
        critical, discordant, share
    )
    return float(stats.binom.pmf(discordant, n, discordance) @ significant)


@lru_cache(maxsize=1000)
def _critical(n: int, alpha: float) -> NDArray:
    """For m = 0..n discordant pairs: the largest minority count that is significant (-1: none)."""
    pairs = np.arange(n + 1)
    largest = stats.binom.ppf(alpha / 2, pairs, 0.5)
    return np.where(2 * stats.binom.cdf(largest, pairs, 0.5) <= alpha, largest, largest - 1)


@lru_cache(maxsize=100_000)
def detectable(n: int, discordance: float, alpha: float = 0.05) -> float | None:
    """Smallest true paired difference that the exact McNemar test finds with 80 % power.

    `discordance` is the share of items on which the two subjects differ; where that is too small
    to be significant at this n, the difference itself is all of it. None: even a difference of 1
    would not be found.
    """

    def shortfall(difference: float) -> float:
        return power(n, difference, max(discordance, difference), alpha) - POWER

    if n < 1 or shortfall(1.0) < 0:
        return None
    return float(optimize.brentq(shortfall, 1e-9, 1.0, xtol=1e-4))


def half_width(n: int, confidence: float = 0.95, share: float = 0.5) -> float | None:
    """Half the width of Wilson's interval at n items (widest at share 0.5)."""
    if n < 1:
        return None
    low, high = proportion_confint(share * n, n, 1 - confidence, "wilson")
    return float(high - low) / 2


def bootstrap_means(
    scores: ArrayLike,
    clusters: Sequence | None = None,
    resamples: int = 2000,
    seed: int | Sequence[int] = 0,
) -> NDArray:
    """Column means of `scores` (n, columns) under resampling of its rows: (resamples, columns).

    The rows (or whole clusters of rows) drawn are the same for every column, so the difference of
    two columns is the paired bootstrap of their difference.
    """
    scores = np.asarray(scores, float)
    index = np.arange(len(scores))
    if clusters is not None:
        index = np.unique(np.asarray(clusters, str), return_inverse=True)[1]
    sizes = np.bincount(index).astype(float)
    totals = np.column_stack([np.bincount(index, weights=column) for column in scores.T])
    random, count = np.random.default_rng(seed), len(sizes)
    means = np.empty((resamples, scores.shape[1]))
    for start in range(0, resamples, 250):  # in parts: a resample is one weight per row
        part = min(250, resamples - start)
        drawn = random.integers(count, size=(part, count)) + count * np.arange(part)[:, None]
        weights = np.bincount(drawn.ravel(), minlength=part * count).reshape(part, count)
        means[start : start + part] = weights @ totals / (weights @ sizes)[:, None]
    return means


def percentile_interval(draws: NDArray, confidence: float = 0.95) -> Interval | None:
    """None where all draws are equal: resampling one value says nothing about others."""
    low, high = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2])
    return None if np.ptp(draws) == 0 else (float(low), float(high))


def macro_f1(targets: Sequence[str], answers: Sequence[str | None]) -> float | None:
    """Mean of F1 = 2 TP / (2 TP + FP + FN) over the options that are the right answer of some item.

    None, no answer found, is a miss. Equals scikit-learn's f1_score(labels=sorted(set(targets)),
    average="macro", zero_division=0).
    """
    if not targets:
        return None
    scores = []
    for option in sorted(set(targets)):
        right = sum(t == a == option for t, a in zip(targets, answers, strict=True))
        scores.append(2 * right / (targets.count(option) + list(answers).count(option)))
    return float(np.mean(scores))
