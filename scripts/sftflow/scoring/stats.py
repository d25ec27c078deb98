"""Intervals, paired tests and power (root environment only: numpy, scipy, statsmodels).

Scores are per item: 0 or 1, or a mean over repeats, or a graded metric in [0, 1]. All results are
shares, not percent. What cannot be computed (no item, one cluster) is None, never 0 or NaN.

A `Difference` gives its interval at any level from the test that gave its p: the interval leaves
out 0 exactly where p is below that level. `verdict` reads it off the interval.

References
  Wilson (1927) JASA 22:209. Interval for a proportion.
  Korn & Graubard (1998) Survey Methodology 24:193; Dean & Pagano (2015) JSSAM 3:484.
      The same with the effective sample size of clustered items.
  McNemar (1947) Psychometrika 12:153; Fagerland, Lydersen & Laake (2013) BMC Med. Res. Methodol.
      13:91. Its mid-p form: seldom above the nominal level, and the exact one far below it.
  Tango (1998) Stat. Med. 17:891. Score interval for a paired difference.
  Fisher (1935), chapter 3. The sign-flip (permutation) test; here by its exact distribution.
  Holm (1979) Scand. J. Stat. 6:65.
  Duffy (1984) Biometrics 40:1005. Unconditional power of the McNemar test.
  Connor (1987) Biometrics 43:207. Sample size of the same.
  Graybill & Wang (1980) JASA 75:869; Zou & Donner (2008) Stat. Med. 27:1693. Interval of a sum from
      the intervals of its parts.
  Cochran (1977) Sampling Techniques, 3rd ed. The ratio estimator of a cluster sample.
  Efron & Tibshirani (1993), chapter 13. Percentile bootstrap.
  Rao & Wu (1988), JASA 83:231-241. Bootstrap of strata, without bias where they are small.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf, sqrt

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import optimize, special, stats
from statsmodels.stats.proportion import proportion_confint

Interval = tuple[float, float]
Clusters = Sequence | NDArray | None  # (n,): what items are dependent on; None: on nothing

MCNEMAR = "mid-p McNemar"
SIGN_FLIP = "sign-flip permutation"
RECIPE = "t over trainings and questions"
PAIRED_T = "paired t over texts"
POWER = 0.8


@dataclass(frozen=True)
class Mean:
    """A mean over `n` answers with its standard error and confidence interval."""

    n: int
    mean: float | None
    stderr: float | None
    interval: Interval | None


@dataclass(frozen=True)
class Difference:
    """Candidate minus baseline over the same `n` items, and the test of no difference.

    `fixed` items got better, `broken` got worse. `p_exact` is the exact test's p where `p` is a
    mid-p. `parts` are the variances that add up to that of the difference, each with its degrees of
    freedom; the first is the items' share of it. The McNemar test has none: it works from counts.
    """

    n: int
    difference: float | None
    fixed: int
    broken: int
    p: float | None
    p_exact: float | None
    test: str
    parts: tuple[tuple[float, int], ...] = ()

    def interval(self, alpha: float) -> Interval | None:
        """At level 1 - alpha, by the same test: without 0 exactly where p < alpha."""
        if self.difference is None or self.p is None:
            return None
        rejected = self.p < alpha
        if self.test == MCNEMAR:
            return _score_interval(self.fixed, self.broken, self.n, alpha, rejected)
        if not self.parts:
            return None
        half = _agreeing(_half(self.parts, alpha), abs(self.difference), rejected)
        most = inf if self.test == PAIRED_T else 1.0  # of shares, not of losses or lengths
        return max(self.difference - half, -most), min(self.difference + half, most)

    @property
    def discordance(self) -> float:
        """Share of items that differ; Laplace's rule keeps that of a small sample off 0 and 1."""
        return (self.fixed + self.broken + 1) / (self.n + 2)

    def detectable(self, alpha: float) -> float | None:
        """Smallest true difference that this n would have shown with 80 % power at level alpha."""
        if self.test == MCNEMAR:
            return detectable(self.n, self.discordance, alpha)
        return _reach(self.parts, alpha) or None

    def needed(self, alpha: float, target: float) -> int | None:
        """Items with which a true difference of `target` is found with 80 % power at level alpha.

        None where that can't be said: no target, or a spread that no number of items lessens.
        """
        if target <= 0 or self.n == 0:
            return None
        if self.test == MCNEMAR:
            return questions_needed(target, self.discordance, alpha)
        if not any(variance for variance, _ in self.parts):
            return None
        (items, df), *others = self.parts

        def short(times: float) -> float:
            return _reach(((items / times, df), *others), alpha) - target

        if short(1e6) > 0 or short(1e-6) < 0:
            return None
        return ceil(self.n * optimize.brentq(short, 1e-6, 1e6, rtol=1e-4))


def _half(parts: Sequence[tuple[float, int]], alpha: float) -> float:
    """Half the width of the interval of a sum of estimates: each part with its own t quantile.

    Graybill & Wang's (Zou & Donner's) combination of the intervals of the parts; with one part it
    is Student's t interval.
    """
    return sqrt(sum(variance * _t_quantile(df, alpha) ** 2 for variance, df in parts))


def _reach(parts: Sequence[tuple[float, int]], alpha: float) -> float:
    """True difference at which the interval leaves out 0 with 80 % power."""
    error = sqrt(sum(variance for variance, _ in parts))
    return _half(parts, alpha) + float(special.ndtri(POWER)) * error


BETTER, WORSE, SAME, UNDECIDED = "better", "worse", "practically the same", "undecided"


def verdict(interval: Interval | None, margin: float) -> str:
    """What an interval of a difference says. One without 0 is a change, however small."""
    if interval is None:
        return UNDECIDED
    low, high = interval
    if low > 0:
        return BETTER
    if high < 0:
        return WORSE
    return SAME if -margin <= low and high <= margin else UNDECIDED


def mean(scores: ArrayLike, clusters: Clusters = None, confidence: float = 0.95) -> Mean:
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


def _cluster_totals(values: NDArray, clusters: Clusters) -> NDArray:
    """Sums of `values` (..., n) over the items of each cluster (..., clusters)."""
    if clusters is None:
        return values
    _, index = np.unique(np.asarray(clusters, str), return_inverse=True)
    rows = values.reshape(-1, values.shape[-1])
    return np.array([np.bincount(index, weights=row) for row in rows]).reshape(
        *values.shape[:-1], -1
    )


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


# --- paired differences --------------------------------------------------------------------------


def compare(
    baseline: ArrayLike, candidate: ArrayLike, clusters: Clusters = None, seed: int = 0
) -> Difference:
    """Paired comparison of two score vectors (n,) over the same items in the same order.

    0/1 scores of independent items: mid-p McNemar test, Tango's interval. Otherwise (graded scores,
    means over repeats, clustered items): sign-flip permutation test on cluster totals, mid-p as
    well, and Student's t interval; on independent 0/1 items the two tests are one.
    """
    baseline, candidate = np.asarray(baseline, float), np.asarray(candidate, float)
    if baseline.shape != candidate.shape:
        raise ValueError(f"unequal sample sets: {baseline.shape} and {candidate.shape}")
    n = len(baseline)
    change = candidate - baseline
    fixed, broken = int((change > 0).sum()), int((change < 0).sum())
    if clusters is None and _binary(baseline) and _binary(candidate):
        return compare_counts(fixed, broken, n)
    if n == 0:
        return Difference(0, None, 0, 0, None, None, SIGN_FLIP)
    difference = float(change.mean())
    spread = _cluster_totals(change - difference, clusters)
    count = len(spread)
    variance = float(spread.var(ddof=1)) * count / n**2 if count > 1 else 0.0
    p, exact = _sign_flip(_cluster_totals(change, clusters), seed)
    parts = ((variance, count - 1),) if count > 1 else ()
    return Difference(n, difference, fixed, broken, p, exact, SIGN_FLIP, parts)


def _binary(scores: NDArray) -> bool:
    return bool(((scores == 0) | (scores == 1)).all())


@lru_cache(maxsize=100_000)
def compare_counts(fixed: int, broken: int, n: int) -> Difference:
    """The same from counts: items right in the candidate only, in the baseline only, of n.

    p = P(X <= x) + P(X <= x - 1), X ~ Binomial(fixed + broken, 1/2), x the smaller count.
    """
    if n == 0:
        return Difference(0, None, 0, 0, None, None, MCNEMAR)
    fewer, pairs = min(fixed, broken), fixed + broken
    below = special.bdtr(fewer - 1, pairs, 0.5) if fewer else 0.0
    up_to = special.bdtr(fewer, pairs, 0.5)
    exact = min(float(2 * up_to), 1.0)
    p = 1.0 if fixed == broken else float(up_to + below)
    return Difference(n, (fixed - broken) / n, fixed, broken, p, exact, MCNEMAR)


AGREE = 0.01  # by which share of what was observed an interval then ends beside 0


def _agreeing(critical: float, observed: float, rejected: bool) -> float:
    """What an interval reaches to, moved no further than it takes to agree with the test.

    A continuous reference (normal, t) and a discrete one now and then differ about a split at the
    very edge; there the interval ends just on the test's side of 0.
    """
    if rejected:
        return min(critical, (1 - AGREE) * observed)
    return max(critical, (1 + AGREE) * observed)


@lru_cache(maxsize=100_000)
def _score_interval(fixed: int, broken: int, n: int, alpha: float, rejected: bool) -> Interval:
    """Tango's interval for the paired difference (fixed - broken) / n.

    All differences whose score statistic, with the discordance that is most likely under them, is
    within the critical value; at difference 0 that is McNemar's (fixed - broken) / sqrt(fixed +
    broken).
    """
    pairs, excess = fixed + broken, fixed - broken
    observed = abs(excess) / sqrt(pairs) if pairs else 0.0
    critical = _agreeing(-special.ndtri(alpha / 2), observed, rejected)

    def outside(difference: float) -> float:
        """Positive where a true difference is rejected."""
        rest = difference * (1 - difference)
        linear = (2 * n - excess) * difference - pairs
        root = sqrt(max(linear**2 + 8 * n * broken * rest, 0.0))
        variance = n * ((root - linear) / (2 * n) + rest)  # of fixed - broken
        return (excess - n * difference) ** 2 - critical**2 * max(variance, 0.0)

    center = excess / n

    def bound(end: float) -> float:
        if end == center or outside(end) <= 0:
            return end
        # Not the center itself: where nothing differs, nothing varies there.
        return float(optimize.brentq(outside, end, center + 1e-9 * (end - center)))

    return bound(-1.0), bound(1.0)


@lru_cache(maxsize=10_000)
def _t_quantile(df: float, alpha: float) -> float:
    return float(special.stdtrit(df, 1 - alpha / 2))


def _sign_flip(totals: NDArray, seed: int) -> tuple[float, float]:
    """Two-sided (mid-p, exact p) of the sign-flip test of mean zero.

    Totals that are multiples of one small unit (right or wrong answers, means over repeats) have an
    exact distribution. Graded ones have 9,999 seeded draws, or all where there are few; both p are
    then the same.
    """
    if len(totals) < 2 or not totals.any():  # nothing, or one value: no sign is special
        return 1.0, 1.0
    for parts in range(1, 61):  # 60: halves, thirds, quarters, fifths, sixths, …
        scaled = totals * parts
        whole = np.rint(scaled)
        if np.abs(scaled - whole).max() < 1e-6:
            sizes, counts = np.unique(np.abs(whole[whole != 0]).astype(int), return_counts=True)
            below = _flipped(tuple(sizes.tolist()), tuple(counts.tolist()))
            place = (len(below) - 2 - int(abs(whole.sum()))) // 2
            return (
                min(float(below[place + 1] + below[place]), 1.0),
                min(float(2 * below[place + 1]), 1.0),
            )
    test = stats.permutation_test(
        (totals,),
        lambda values, axis: np.mean(values, axis=axis),
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        rng=np.random.default_rng(seed),
    )
    return float(test.pvalue), float(test.pvalue)


@lru_cache(maxsize=256)
def _flipped(sizes: tuple[int, ...], counts: tuple[int, ...]) -> NDArray:
    """Of the sum J of those values that turn negative when signs are random: P(J < 0, 1, 2, …).

    `counts` says how many values have each of the `sizes`. With S the sum of all sizes, the sum of
    the values is S - 2 J; the result has S + 2 elements.
    """
    chances = np.ones(1)
    for size, count in zip(sizes, counts, strict=True):
        one = np.zeros(size * count + 1)
        one[::size] = stats.binom.pmf(np.arange(count + 1), count, 0.5)
        chances = np.convolve(chances, one)
    return np.concatenate([[0.0], np.cumsum(chances)])


def compare_recipe(
    baseline: ArrayLike,
    trainings: Sequence[ArrayLike],
    clusters: Clusters = None,
    seed: int = 0,
) -> Difference:
    """A recipe against the baseline: scores (n,) of two or more trainings, as a sample of all.

    The mean difference varies with the questions drawn and with the trainings drawn: its variance
    is that of the questions' mean changes, plus that between the trainings' differences, less their
    interaction, which both contain. The estimate may lie below the questions' own share: held at
    it, it would be too large on average. p is the level at which the interval just reaches 0; where
    all changes point one way, it is not below the sign-flip test's of the trainings as given: t is
    too sure of a few questions that changed alike.

    Coverage by simulation, three or five trainings, n = 40, 200, 1,000, spread between trainings 0
    to 0.4 logit: 94.7 to 96.0 %. Of a single t with Satterthwaite's degrees of freedom: 91 to 96 %;
    of a test that takes the trainings as given: 58 to 95 %. Two trainings can't tell their spread
    from the interaction (one degree of freedom), so all of it counts as spread: 96 to 99 %.
    """
    change = np.asarray(trainings, float) - np.asarray(baseline, float)  # (trainings, n)
    k, n = change.shape
    each = change.mean(axis=1)
    difference = float(each.mean())
    together = change.mean(axis=0)
    fixed, broken = int((together > 0).sum()), int((together < 0).sum())
    spread = _cluster_totals(change - each[:, None], clusters)
    count = spread.shape[1]
    if count < 2:
        return Difference(n, difference, fixed, broken, 1.0, None, RECIPE)
    spread *= count / n
    per_question = spread.mean(axis=0)
    questions = float(per_question.var(ddof=1)) / count
    both = float(((spread - per_question) ** 2).sum()) / ((count - 1) * (k - 1)) / (count * k)
    between = float(each.var(ddof=1)) / k
    parts: tuple[tuple[float, int], ...]
    if k == 2:
        parts = (max(questions - both, 0.0), count - 1), (between, 1)
    elif between > both:
        parts = (questions, count - 1), (between - both, k - 1)
    else:  # the true variance holds the interaction, so it is never below that
        parts = ((max(questions + between - both, both), count - 1),)
    p = _p_of(parts, abs(difference))
    totals = _cluster_totals(together, clusters)
    if (totals >= 0).all() or (totals <= 0).all():
        p = max(p, _sign_flip(totals, seed)[0])
    return Difference(n, difference, fixed, broken, p, None, RECIPE, parts)


def compare_totals(baseline: ArrayLike, candidate: ArrayLike, sizes: ArrayLike) -> Difference:
    """Difference of two means over units, from totals (n,) over texts of `sizes` (n,) units each.

    A loss per token, where a text is what was drawn and its tokens hang together: the ratio
    estimator of a cluster sample, with the jackknife's variance (Cochran 1977, chapter 6) and
    Student's t with n - 1 degrees of freedom. Coverage by simulation, texts of very unequal length:
    93.5 % of 12, 94 % of 40, 95 % of 160. `fixed` and `broken` count texts whose total rose and
    fell.
    """
    change = np.asarray(candidate, float) - np.asarray(baseline, float)
    sizes = np.asarray(sizes, float)
    n = len(change)
    rose, fell = int((change > 0).sum()), int((change < 0).sum())
    if n == 0 or not sizes.sum():
        return Difference(n, None, rose, fell, None, None, PAIRED_T)
    difference = float(change.sum() / sizes.sum())
    if (sizes > 0).sum() < 2:
        return Difference(n, difference, rose, fell, None, None, PAIRED_T)
    without = (change.sum() - change) / (sizes.sum() - sizes)  # each text in its turn
    variance = float(((without - without.mean()) ** 2).sum()) * (n - 1) / n
    parts = ((variance, n - 1),)
    p = _p_of(parts, abs(difference))
    return Difference(n, difference, rose, fell, p, None, PAIRED_T, parts)


def _p_of(parts: Sequence[tuple[float, int]], difference: float) -> float:
    """The level at which an interval of these parts ends at 0."""
    least, most = 1e-12, 1 - 1e-12
    if difference == 0 or difference <= _half(parts, most):
        return 1.0
    if difference >= _half(parts, least):
        return least
    return float(
        optimize.brentq(lambda alpha: _half(parts, alpha) - difference, least, most, xtol=1e-14)
    )


def holm(p_values: Sequence[float | None], alpha: float) -> list[tuple[float | None, float]]:
    """For each test of a family (Holm-adjusted p, the level at which Holm's procedure tested it).

    The smallest p is tested at alpha / m, the next at alpha / (m - 1), and so on to the first that
    is not rejected, at whose level all further ones are left. Equal p values have one level. A test
    that is missing counts as p = 1: what was planned stays planned, whatever came of it.
    """
    family = np.array([1.0 if p is None else p for p in p_values])
    ascending = np.sort(family)
    at_least = len(family) - np.searchsorted(ascending, ascending)  # with so large a p, or larger
    adjusted = np.minimum(np.maximum.accumulate(ascending * at_least), 1.0)
    levels = alpha / at_least
    kept = ascending >= levels
    if kept.any():
        levels[kept.argmax() :] = levels[kept.argmax()]
    places = np.searchsorted(ascending, family)
    return [
        (None if p is None else float(adjusted[place]), float(levels[place]))
        for p, place in zip(p_values, places, strict=True)
    ]


# --- power ---------------------------------------------------------------------------------------


@lru_cache(maxsize=100_000)
def power(n: int, difference: float, discordance: float, alpha: float = 0.05) -> float:
    """Unconditional power of the two-sided mid-p McNemar test with n pairs.

    Sum over the number of discordant pairs m ~ Binomial(n, discordance) of the chance that the
    split of m, Binomial(m, (discordance + difference) / (2 discordance)), is significant.
    """
    spread = 6 * (n * discordance * (1 - discordance)) ** 0.5 + 1
    low = max(int(n * discordance - spread), 0)
    high = min(int(n * discordance + spread) + 1, n)
    discordant = np.arange(low, high + 1)
    share = (discordance + difference) / (2 * discordance)
    critical = _critical(max(64, 1 << n.bit_length()), alpha)[low : high + 1]
    can = critical >= 0
    significant = np.zeros(len(discordant))
    significant[can] = special.bdtr(critical[can], discordant[can], 1 - share)
    significant[can] += special.bdtr(critical[can], discordant[can], share)
    return float(stats.binom.pmf(discordant, n, discordance) @ significant)


@lru_cache(maxsize=1000)
def _critical(most: int, alpha: float) -> NDArray:
    """For m = 0..most discordant pairs: the largest minority count that is significant (-1: none).

    Significant: p = P(X <= x) + P(X <= x - 1) < alpha, X ~ Binomial(m, 1/2), as compare_counts has.
    """
    pairs = np.arange(most + 1)
    largest = stats.binom.ppf(alpha / 2, pairs, 0.5) + 1  # surely not below the one looked for
    for _ in range(3):
        p = stats.binom.cdf(largest, pairs, 0.5) + stats.binom.cdf(largest - 1, pairs, 0.5)
        largest = np.where((p >= alpha) & (largest >= 0), largest - 1, largest)
    return largest


@lru_cache(maxsize=100_000)
def detectable(n: int, discordance: float, alpha: float = 0.05) -> float | None:
    """Smallest true paired difference that the mid-p McNemar test finds with 80 % power.

    `discordance` is the share of items on which the two subjects differ; where that is too small
    to be significant at this n, the difference itself is all of it. None: even a difference of 1
    would not be found. To four digits, which is what is solved for.
    """

    def shortfall(difference: float) -> float:
        return power(n, difference, max(discordance, difference), alpha) - POWER

    if n < 1 or shortfall(1.0) < 0:
        return None
    return round(optimize.brentq(shortfall, 1e-9, 1.0, xtol=1e-5), 4)


def questions_needed(difference: float, discordance: float, alpha: float = 0.05) -> int:
    """Pairs with which the paired test finds a true difference with 80 % power (Connor 1987)."""
    discordance = max(discordance, difference)
    root = -special.ndtri(alpha / 2) * sqrt(discordance)
    root += special.ndtri(POWER) * sqrt(discordance - difference**2)
    return ceil((root / difference) ** 2)


def half_width(n: int, confidence: float = 0.95, share: float = 0.5) -> float | None:
    """Half the width of Wilson's interval at n items (widest at share 0.5)."""
    if n < 1:
        return None
    low, high = proportion_confint(share * n, n, 1 - confidence, "wilson")
    return float(high - low) / 2


# --- means over several benchmarks ---------------------------------------------------------------


# Clusters that are resampled among themselves: for the means to which they contribute, by name,
# their items' totals (clusters, columns) and numbers of items (clusters,).
Stratum = list[tuple[tuple, NDArray, NDArray]]


def bootstrap_means(
    strata: Sequence[Stratum], resamples: int = 2000, seed: int = 0
) -> dict[object, NDArray]:
    """Means by their name, (resamples, columns), when each stratum's clusters are drawn anew.

    The clusters drawn are the same for every column and every mean, so the difference of two
    columns is the paired bootstrap of their difference. Of m clusters m - 1 are drawn, each with
    weight m / (m - 1): m would vary too little where a stratum is small (Rao & Wu 1988). A draw
    without an item of some mean has NaN for it.
    """
    means: dict[object, NDArray] = {}
    counts: dict[object, NDArray] = {}
    for place, stratum in enumerate(strata):
        random = np.random.default_rng([seed, place])
        clusters = len(stratum[0][2])
        for start in range(0, resamples, 250):  # in parts: a resample is one weight per cluster
            part = slice(start, min(start + 250, resamples))
            size = part.stop - start
            most = max(clusters - 1, 1)
            drawn = random.integers(clusters, size=(size, most))
            drawn += clusters * np.arange(size)[:, None]
            times = np.bincount(drawn.ravel(), minlength=size * clusters).reshape(size, clusters)
            weights = times * (clusters / most)
            for names, totals, sizes in stratum:
                sums, numbers = weights @ totals, weights @ sizes
                for name in names:
                    if name not in means:
                        means[name] = np.zeros((resamples, totals.shape[1]))
                        counts[name] = np.zeros(resamples)
                    means[name][part] += sums
                    counts[name][part] += numbers
    for name, total in means.items():
        total /= np.where(counts[name], counts[name], np.nan)[:, None]
    return means


def percentile_interval(draws: NDArray, confidence: float = 0.95) -> Interval | None:
    """None where all draws are equal: resampling one value says nothing about others."""
    draws = draws[~np.isnan(draws)]
    return percentile_intervals(draws[None], confidence)[0] if len(draws) else None


def percentile_intervals(draws: NDArray, confidence: float = 0.95) -> list[Interval | None]:
    """The same of several means (means, resamples), at once where none of their draws is NaN."""
    if np.isnan(draws).any():
        return [percentile_interval(each, confidence) for each in draws]
    ends = np.quantile(draws, [(1 - confidence) / 2, (1 + confidence) / 2], axis=1)
    varies = np.ptp(draws, axis=1) > 0
    return [
        (float(low), float(high)) if known else None
        for low, high, known in zip(*ends, varies, strict=True)
    ]


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
