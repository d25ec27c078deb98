"""Statistics against published values, other libraries, exact enumeration and simulation."""

import numpy as np
import pytest
from scipy import stats as scipy_stats
from sftflow.scoring import stats
from statsmodels.regression.linear_model import OLS


@pytest.mark.parametrize(
    ("right", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_interval_of_a_proportion_is_wilsons(right, n, low, high):
    """Newcombe (1998) Stat. Med. 17:857, table I, method 3."""
    found = stats.mean([1] * right + [0] * (n - right))
    assert found.interval == pytest.approx((low, high), abs=5e-5)
    assert found.mean == right / n


@pytest.mark.parametrize(
    ("cells", "low", "high"), [((36, 12, 2, 0), 0.0569, 0.3404), ((1, 1, 7, 12), -0.5069, -0.0256)]
)
def test_interval_of_a_paired_difference_is_newcombes(cells, low, high):
    """Newcombe (1998) Stat. Med. 17:2635, method 10; Bentur et al. (2009) in Fagerland (2014)."""
    assert stats.newcombe(*cells) == pytest.approx((low, high), abs=5e-5)


def test_interval_of_a_difference_mirrors_when_the_subjects_change_places():
    low, high = stats.newcombe(20, 9, 3, 8)
    assert stats.newcombe(20, 3, 9, 8) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 3), (40, 61)])
def test_paired_test_is_the_exact_sign_test_on_discordant_pairs(fixed, broken):
    expected = scipy_stats.binomtest(fixed, fixed + broken).pvalue if fixed + broken else 1.0
    found = stats.compare_counts(50, fixed, broken, 200)
    assert found.p == pytest.approx(expected, rel=1e-9)
    assert found.difference == (fixed - broken) / 200


def test_sign_flip_test_on_right_or_wrong_is_the_exact_mcnemar_test():
    before = np.array([0, 0, 0, 0, 0, 0, 1, 1, 1, 1])
    after = np.array([1, 1, 1, 1, 1, 1, 0, 1, 1, 1])
    flipped = stats.compare(before, after, clusters=range(10))
    assert flipped.test == "sign-flip permutation"
    assert flipped.p == pytest.approx(stats.compare(before, after).p)


def test_graded_scores_get_students_t_interval():
    random = np.random.default_rng(1)
    before, after = random.uniform(size=30), random.uniform(size=30)
    found = stats.compare(before, after)
    expected = scipy_stats.ttest_rel(after, before).confidence_interval()
    assert found.interval == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(after, before).pvalue, abs=0.03)


def test_holm_as_in_r():
    """R: p.adjust(c(0.01, 0.04, 0.03, 0.02), "holm")"""
    assert stats.holm([0.01, 0.04, None, 0.03, 0.02]) == pytest.approx(
        [0.04, 0.06, None, 0.06, 0.06]
    )
    assert stats.holm([None]) == [None]


def test_macro_f1_as_in_scikit_learn():
    """The example of sklearn.metrics.f1_score, and one with an unparsed answer counted by hand."""
    assert stats.macro_f1(list("012012"), list("021001")) == pytest.approx(0.26666, abs=1e-5)
    # A: TP 1, FN 1 -> 2/3; B: TP 0 -> 0; the answer C belongs to no option that is ever right
    assert stats.macro_f1(["A", "A", "B"], ["A", None, "C"]) == pytest.approx(1 / 3)
    assert stats.macro_f1([], []) is None


def test_clustered_standard_error_is_that_of_a_regression():
    random = np.random.default_rng(2)
    clusters = np.repeat(np.arange(12), 5)
    scores = (random.uniform(size=60) < random.uniform(size=12)[clusters]).astype(float)
    fit = OLS(scores, np.ones(60)).fit(cov_type="cluster", cov_kwds={"groups": clusters})
    assert stats.mean(scores, clusters).stderr == pytest.approx(fit.bse[0])
    assert stats.mean(scores, range(60)).stderr == pytest.approx(scipy_stats.sem(scores))
    wide, narrow = stats.mean(scores, clusters).interval, stats.mean(scores).interval
    assert wide[1] - wide[0] > narrow[1] - narrow[0]


def test_repeating_every_answer_gives_no_more_certainty():
    scores = [1, 0, 1, 1, 0, 1, 0, 0, 1, 1] * 4
    once = stats.mean(scores)
    thrice = stats.mean(np.repeat(scores, 3), np.repeat(np.arange(40), 3))
    assert thrice.mean == pytest.approx(once.mean)
    width = [found.interval[1] - found.interval[0] for found in (once, thrice)]
    assert width[0] <= width[1] < 1.06 * width[0]


@pytest.mark.parametrize("scores", [[1], [0], [1] * 20, [0] * 20])
def test_extremes_have_honest_intervals(scores):
    found = stats.mean(scores)
    low, high = found.interval
    assert 0 <= low <= found.mean <= high <= 1
    assert high - low > 0.1
    again = stats.compare(scores, scores)
    assert (again.difference, again.p, again.fixed, again.broken) == (0, 1, 0, 0)
    assert again.interval[0] < 0 < again.interval[1]


@pytest.mark.parametrize("after", [[1.0], [0.5], [0.5, 1.0, 0.75]])
def test_one_question_or_one_passage_shows_nothing(after):
    """Graded scores, repeats and clusters alike; scipy's own test asks for two values."""
    found = stats.compare([0.25] * len(after), after, clusters=["passage"] * len(after))
    assert (found.p, found.interval, found.detectable) == (1, None, None)
    assert found.difference > 0
    assert stats.mean(after, ["passage"] * len(after)).stderr is None


def test_nothing_is_none():
    assert stats.mean([]) == stats.Mean(0, None, None, None)
    assert stats.compare([], []).difference is None
    assert stats.compare([], [], clusters=[]).p is None
    assert stats.half_width(0) is None
    assert stats.detectable(0, 0.25) is None
    with pytest.raises(ValueError, match="unequal"):
        stats.compare([1, 0], [1])


# --- how often they are right --------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("n", [50, 200, 1000])
def test_intervals_cover_the_truth(n, share):
    """Exact coverage, summed over all outcomes: 94 to 96 %. At n = 50 an outcome more or less is
    more than that, and Wilson's known values are 97.0, 93.5 and 97.0 % (Brown, Cai & DasGupta
    (2001) Stat. Sci. 16:101 describe the oscillation)."""
    outcomes = np.arange(n + 1)
    intervals = [stats.mean([1] * right + [0] * (n - right)).interval for right in outcomes]
    covered = [low <= share <= high for low, high in intervals]
    coverage = scipy_stats.binom.pmf(outcomes, n, share) @ np.array(covered)
    least, most = (0.935, 0.9705) if n == 50 else (0.94, 0.96)
    assert least <= coverage <= most


def test_identical_models_seldom_differ():
    """2,000 pairs of equally good models on 200 questions of unequal difficulty."""
    random = np.random.default_rng(3)
    trials, n = 2000, 200
    difficulty = random.beta(2, 2, size=(trials, n))
    before, after = (random.uniform(size=(2, trials, n)) < difficulty).astype(int)
    found = [stats.compare(a, b) for a, b in zip(before, after, strict=True)]
    noise = 3 * np.sqrt(0.05 * 0.95 / trials)
    assert np.mean([each.p < 0.05 for each in found]) <= 0.05 + noise
    covered = np.mean([each.interval[0] <= 0 <= each.interval[1] for each in found])
    assert covered >= 0.95 - noise


def test_a_real_difference_is_covered_and_found_as_often_as_promised():
    """Power by simulation against power by summation, and coverage of a true difference."""
    random = np.random.default_rng(4)
    n, discordance, trials = 100, 0.3, 2000
    difference = stats.detectable(n, discordance)
    shares = [(discordance + difference) / 2, (discordance - difference) / 2]
    fixed, broken, _ = random.multinomial(n, [*shares, 1 - discordance], size=trials).T
    found = [
        stats.compare_counts(40, int(f), int(b), n) for f, b in zip(fixed, broken, strict=True)
    ]
    assert np.mean([each.p < 0.05 for each in found]) == pytest.approx(0.8, abs=0.03)
    assert stats.power(n, difference, discordance) == pytest.approx(0.8, abs=0.005)
    covered = np.mean([each.interval[0] <= difference <= each.interval[1] for each in found])
    assert 0.93 <= covered <= 0.98


def test_power_without_a_difference_is_the_error_rate_of_the_test():
    for n in (10, 50, 400):
        assert stats.power(n, 0.0, 0.3) <= 0.05


def test_clustered_intervals_cover_the_truth():
    """Passages of 5 questions that are right or wrong together more often than not."""
    random = np.random.default_rng(5)
    covered, naive = [], []
    for _ in range(600):
        easy = random.beta(1, 1, size=40)
        scores = (random.uniform(size=(40, 5)) < easy[:, None]).astype(int).ravel()
        clusters = np.repeat(np.arange(40), 5)
        low, high = stats.mean(scores, clusters).interval
        covered.append(low <= 0.5 <= high)
        low, high = stats.mean(scores).interval
        naive.append(low <= 0.5 <= high)
    assert np.mean(covered) >= 0.93
    assert np.mean(naive) < 0.9  # what clustering is for


def test_answers_that_have_nothing_to_do_with_the_question_score_at_chance():
    """Permuting the answers of a good model over the questions leaves chance."""
    random = np.random.default_rng(6)
    targets = random.choice(list("ABCD"), size=400)
    inside = []
    for _ in range(200):
        answers = random.permutation(targets)
        low, high = stats.mean((answers == targets).astype(int)).interval
        inside.append(low <= 0.25 <= high)
        assert stats.macro_f1(list(targets), list(answers)) == pytest.approx(0.25, abs=0.1)
    assert np.mean(inside) >= 0.9


# --- suite means ---------------------------------------------------------------------------------


def test_bootstrap_agrees_with_scipys_and_pairs_its_columns():
    random = np.random.default_rng(7)
    before, after = random.integers(0, 2, size=(2, 150))
    draws = stats.bootstrap_means(np.column_stack([before, after]), resamples=20_000, seed=1)

    def difference(a, b, axis):
        return np.mean(b - a, axis=axis)

    expected = scipy_stats.bootstrap(
        (before, after),
        difference,
        paired=True,
        method="percentile",
        n_resamples=20_000,
        rng=np.random.default_rng(2),
    ).confidence_interval
    interval = stats.percentile_interval(draws[:, 1] - draws[:, 0])
    assert interval == pytest.approx((expected.low, expected.high), abs=0.007)
    same = stats.bootstrap_means(np.column_stack([before, before]), seed=1)
    assert (same[:, 0] == same[:, 1]).all()
    assert (
        stats.bootstrap_means(same[:, :1], seed=3) == stats.bootstrap_means(same[:, :1], seed=3)
    ).all()


def test_bootstrap_draws_whole_clusters():
    clusters = np.repeat(np.arange(20), 10)
    scores = (clusters % 2).astype(float)[:, None]
    apart, together = stats.bootstrap_means(scores), stats.bootstrap_means(scores, clusters)
    assert together.std() == pytest.approx(apart.std() * 10**0.5, rel=0.1)


def test_limit_10_is_seen_for_what_it_is():
    assert stats.half_width(10) > 0.26
    assert stats.detectable(10, 0.25) > 0.6
    assert stats.detectable(5, 0.25) is None  # five of five in one direction: p = 0.0625
    assert stats.detectable(2000, 0.25) < 0.04


def test_the_interval_of_all_wrong_or_all_right_holds_the_score():
    """A bound a hair beyond the score stops the figure, and with it the whole report."""
    for n in range(1, 200):
        for value in (0.0, 1.0):
            low, high = stats.mean([value] * n).interval
            assert low <= value <= high
