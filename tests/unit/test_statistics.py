"""Statistics against published values, other libraries and exact enumeration.

How often tests and intervals are right: test_simulations.py.
"""

import itertools

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


def test_interval_of_a_paired_difference_is_tangos():
    """Bentur et al. (2009), as in Fagerland, Lydersen & Laake (2014) Stat. Med. 33:2850; and where
    nothing differs: z^2 / (n + z^2) on both sides."""
    assert stats.compare_counts(1, 7, 21).interval(0.05) == pytest.approx(
        (-0.517, -0.026), abs=5e-4
    )
    z = scipy_stats.norm.isf(0.025)
    low, high = stats.compare_counts(0, 0, 40).interval(0.05)
    assert (low, high) == pytest.approx((-(z**2) / (40 + z**2), z**2 / (40 + z**2)))


def test_interval_of_a_difference_mirrors_when_the_subjects_change_places():
    low, high = stats.compare_counts(9, 3, 40).interval(0.05)
    assert stats.compare_counts(3, 9, 40).interval(0.05) == pytest.approx((-high, -low))


@pytest.mark.parametrize(("fixed", "broken"), [(0, 0), (1, 0), (5, 0), (6, 0), (12, 3), (40, 61)])
def test_paired_test_is_mid_p_mcnemar(fixed, broken):
    """Half of the observed split's own chance, on both sides; the exact p is the sign test's."""
    pairs, fewer = fixed + broken, min(fixed, broken)
    found = stats.compare_counts(fixed, broken, 200)
    exact = scipy_stats.binomtest(fixed, pairs).pvalue if pairs else 1.0
    assert found.p_exact == pytest.approx(exact, rel=1e-9)
    at = scipy_stats.binom.pmf(fewer, pairs, 0.5)
    assert found.p == pytest.approx(1.0 if fixed == broken else exact - at, rel=1e-9)
    assert found.difference == (fixed - broken) / 200


def test_mid_p_as_published():
    """Fagerland, Lydersen & Laake (2013), airway hyper-responsiveness: 1 pair against 7."""
    assert stats.compare_counts(1, 7, 21).p == pytest.approx(0.0391, abs=5e-5)
    assert stats.compare_counts(1, 7, 21).p_exact == pytest.approx(0.0703, abs=5e-5)


@pytest.mark.parametrize("totals", [[1, 1, -1, 1, 1, 1], [2, -1, 3, 3, 1, 0], [0.5, 1, -0.5, 1.5]])
def test_sign_flips_are_counted_out(totals):
    """Against all 2^n signs one by one."""
    signs = np.array(list(itertools.product([-1, 1], repeat=len(totals))))
    sums, observed = signs @ np.array(totals), abs(sum(totals))
    above, at = np.mean(sums > observed + 1e-9), np.mean(np.abs(sums - observed) < 1e-9)
    after = np.array(totals, float)
    found = stats.compare(np.zeros(len(totals)), after, clusters=range(len(totals)))
    assert found.test == stats.SIGN_FLIP
    assert found.p == pytest.approx(min(2 * above + at, 1))
    assert found.p_exact == pytest.approx(min(2 * (above + at), 1))


def test_sign_flip_test_on_right_or_wrong_is_the_mcnemar_test():
    random = np.random.default_rng(8)
    before, after = (random.uniform(size=(2, 300)) < [[0.5], [0.57]]).astype(int)
    flipped, counted = (
        stats.compare(before, after, clusters=range(300)),
        stats.compare(before, after),
    )
    assert (flipped.test, counted.test) == (stats.SIGN_FLIP, stats.MCNEMAR)
    assert flipped.p == pytest.approx(counted.p)
    assert flipped.p_exact == pytest.approx(counted.p_exact)
    assert flipped.interval(0.05) == pytest.approx(counted.interval(0.05), abs=0.004)


def test_graded_scores_get_students_t_interval():
    random = np.random.default_rng(1)
    before, after = random.uniform(size=30), random.uniform(size=30)
    found = stats.compare(before, after)
    expected = scipy_stats.ttest_rel(after, before).confidence_interval()
    assert found.interval(0.05) == pytest.approx((expected.low, expected.high))
    assert found.p == pytest.approx(scipy_stats.ttest_rel(after, before).pvalue, abs=0.03)


LEVELS = (0.05, 0.05 / 2, 0.05 / 7, 0.1, 0.001)


def test_interval_and_test_agree_in_every_table_of_small_counts():
    """Every split of up to 30 of n discordant pairs: 0 is left out exactly where p < level."""
    for n in (1, 2, 5, 13, 30, 200):
        for fixed in range(min(n, 30) + 1):
            for broken in range(min(n, 30) - fixed + 1):
                found = stats.compare_counts(fixed, broken, n)
                for level in LEVELS:
                    low, high = found.interval(level)
                    assert -1 <= low <= found.difference <= high <= 1 and low < high
                    assert (low > 0 or high < 0) == (found.p < level)


@pytest.mark.slow
def test_interval_and_test_agree_for_clusters_repeats_graded_scores_and_recipes():
    random = np.random.default_rng(9)
    for _ in range(400):
        n = int(random.integers(2, 40))
        clusters = random.integers(max(n // 2, 1), size=n)
        shift = random.uniform(-0.4, 0.4)
        graded = bool(random.integers(2))
        draws = np.clip(random.uniform(size=(4, n)) + shift * np.array([[0], [1], [1], [1]]), 0, 1)
        before, *after = draws if graded else np.rint(3 * draws) / 3
        for found in (
            stats.compare(before, after[0], clusters),
            stats.compare(before, after[0]),
            stats.compare_recipe(before, after, clusters),
        ):
            for level in LEVELS:
                interval = found.interval(level)
                if interval is None:
                    assert found.p == 1
                    continue
                assert (interval[0] > 0 or interval[1] < 0) == (found.p < level)
                assert interval[0] <= found.difference <= interval[1]


def test_the_four_verdicts_are_read_off_the_interval():
    said = [
        stats.verdict(interval, 0.02)
        for interval in ((0.001, 0.3), (-0.3, -0.001), (-0.02, 0.02), (-0.01, 0.03), None)
    ]
    assert said == ["better", "worse", "practically the same", "undecided", "undecided"]
    assert stats.verdict((-0.001, 0.001), 0) == "undecided"


def test_holm_as_in_r():
    """R: p.adjust(c(0.01, 0.04, 1, 0.03, 0.02), "holm"): a missing test counts with p = 1."""
    found = stats.holm([0.01, 0.04, None, 0.03, 0.02], 0.05)
    assert [p for p, _ in found] == [pytest.approx(p) for p in (0.05, 0.09)] + [None] + [
        pytest.approx(p) for p in (0.09, 0.08)
    ]
    assert stats.holm([None], 0.05) == [(None, 0.05)]
    assert stats.holm([], 0.05) == []


def test_holms_levels_are_those_at_which_each_p_was_tested():
    """0.001 at 0.05 / 4, 0.02 not at 0.05 / 3: there it stops, though 0.024 would pass 0.05 / 2."""
    levels = [level for _, level in stats.holm([0.024, 0.001, 0.02, 0.6], 0.05)]
    assert levels == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    assert stats.holm([0.02, 0.02], 0.05) == [pytest.approx((0.04, 0.025))] * 2


def test_a_level_and_an_adjusted_p_say_the_same():
    random = np.random.default_rng(10)
    for _ in range(500):
        p_values = list(random.beta(0.4, 3, size=random.integers(1, 9)).round(3))
        for p, (adjusted, level) in zip(p_values, stats.holm(p_values, 0.05), strict=True):
            assert (p < level) == (adjusted < 0.05)


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
    low, high = again.interval(0.05)
    assert low < 0 < high


@pytest.mark.parametrize("after", [[1.0], [0.5], [0.5, 1.0, 0.75]])
def test_one_question_or_one_passage_shows_nothing(after):
    """Graded scores, repeats and clusters alike; scipy's own test asks for two values."""
    found = stats.compare([0.25] * len(after), after, clusters=["passage"] * len(after))
    assert (found.p, found.interval(0.05), found.detectable(0.05)) == (1, None, None)
    assert found.needed(0.05, 0.1) is None
    assert found.difference > 0
    assert stats.mean(after, ["passage"] * len(after)).stderr is None


def test_a_few_questions_that_all_changed_alike_prove_no_recipe():
    """Nothing varies, so that a t test would be certain; three questions are three questions."""
    found = stats.compare_recipe([0, 0, 0], [[1, 1, 1]] * 3)
    assert found.p == pytest.approx(stats.compare([0, 0, 0], [1, 1, 1]).p)
    assert stats.verdict(found.interval(0.05), 0.02) == "undecided"


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


def test_power_is_that_of_the_test_itself():
    """Against every table of 40 pairs, with its chance; at Holm's levels too."""
    n, discordance = 40, 0.35
    fixed, broken = np.indices((n + 1, n + 1)).reshape(2, -1)
    possible = fixed + broken <= n
    fixed, broken = fixed[possible], broken[possible]
    p_values = np.array(
        [stats.compare_counts(int(f), int(b), n).p for f, b in zip(fixed, broken, strict=True)]
    )
    for difference in (0.0, 0.1, 0.25):
        up, down = (discordance + difference) / 2, (discordance - difference) / 2
        chances = scipy_stats.multinomial.pmf(
            np.column_stack([fixed, broken, n - fixed - broken]), n, [up, down, 1 - discordance]
        )
        for level in (0.05, 0.05 / 4):
            expected = chances @ (p_values < level)
            assert stats.power(n, difference, discordance, level) == pytest.approx(
                expected, abs=1e-6
            )


@pytest.mark.parametrize("level", [0.05, 0.05 / 7])
@pytest.mark.parametrize("target", [0.03, 0.1, 0.2])
def test_questions_needed_are_those_that_find_the_difference(target, level):
    n = stats.questions_needed(target, 0.25, level)
    # Connor's formula errs on the safe side where nearly all that differs differs one way
    assert 0.79 <= stats.power(n, target, 0.25, level) <= 0.85


@pytest.mark.parametrize("share", [0.02, 0.06, 0.15])
def test_with_the_questions_needed_the_same_difference_is_found(share):
    """Right-or-wrong, graded and recipes alike: the same data as often as needed."""
    random = np.random.default_rng(11)
    before = random.uniform(size=120) < 0.5
    after = [np.where(random.uniform(size=120) < 0.3, ~before, before) for _ in range(3)]
    for found in (stats.compare(before, after[0]), stats.compare(before / 2, after[0] / 2)):
        times = found.needed(0.05, share) / 120
        stderr = (found.discordance - share**2) ** 0.5 if found.test == stats.MCNEMAR else None
        stderr = stderr or found.parts[0][0] ** 0.5 * 120**0.5
        assert share / (stderr / (120 * times) ** 0.5) == pytest.approx(1.96 + 0.84, abs=0.15)
    recipe = stats.compare_recipe(before, after)
    needed = recipe.needed(0.05, 0.5)
    assert needed is not None and recipe.needed(0.05, 0.2) > needed


def test_power_without_a_difference_is_the_error_rate_of_the_test():
    for n in (10, 50, 400):
        assert stats.power(n, 0.0, 0.3) <= 0.05


@pytest.mark.slow
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


def resampled(scores: np.ndarray, clusters=None, **settings) -> np.ndarray:
    """Bootstrap of the mean of scores (n, columns) whose clusters (n,) are all alike."""
    index = np.arange(len(scores)) if clusters is None else clusters
    totals = np.column_stack([np.bincount(index, weights=column) for column in scores.T])
    return stats.bootstrap_means([[(("mean",), totals, np.bincount(index))]], **settings)["mean"]


def test_bootstrap_agrees_with_scipys_and_pairs_its_columns():
    random = np.random.default_rng(7)
    before, after = random.integers(0, 2, size=(2, 150))
    draws = resampled(np.column_stack([before, after]), resamples=20_000, seed=1)

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
    same = resampled(np.column_stack([before, before]), seed=1)
    assert (same[:, 0] == same[:, 1]).all()
    assert (resampled(same[:, :1], seed=3) == resampled(same[:, :1], seed=3)).all()


def test_bootstrap_draws_whole_clusters():
    clusters = np.repeat(np.arange(20), 10)
    scores = (clusters % 2).astype(float)[:, None]
    apart, together = resampled(scores), resampled(scores, clusters)
    assert together.std() == pytest.approx(apart.std() * 10**0.5, rel=0.1)


def test_limit_10_is_seen_for_what_it_is():
    assert stats.half_width(10) > 0.26
    assert stats.detectable(10, 0.25) > 0.55
    assert stats.detectable(4, 0.25) is None  # four of four in one direction: p = 0.0625
    assert stats.detectable(2000, 0.25) < 0.04


def test_the_interval_of_all_wrong_or_all_right_holds_the_score():
    """A bound a hair beyond the score stops the figure, and with it the whole report."""
    for n in range(1, 200):
        for value in (0.0, 1.0):
            low, high = stats.mean([value] * n).interval
            assert low <= value <= high
