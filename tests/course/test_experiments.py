"""The learner's own experiment: paired seeds, a rule registered before the run, and a verdict."""

import numpy as np
import pytest

from labkit import course, statistics
from labkit.course import experiments, record
from labkit.course.experiments import Paired, Rule
from labkit.statistics import Interval


@pytest.fixture
def trained(monkeypatch):
    """Replace the training by losses that are 2% lower with the second scheme, more or less; return its seeds."""
    seeds = []

    def train(self, given):
        seeds.append(list(given))
        rng = np.random.default_rng(len(seeds[-1]))
        first = rng.uniform(5, 6, len(seeds[-1]))
        second = first * np.exp(-0.02 + 0.001 * rng.standard_normal(len(first)))
        return Paired(self.names, tuple(seeds[-1]), np.stack([first, second]), 0.0)

    monkeypatch.setattr(experiments.Experiment, "_compare", train)
    return seeds


def test_an_experiment_goes_from_a_pilot_to_a_verdict(trained):
    experiment = course.experiment("noise", "mixed")
    pilot = experiment.pilot()
    assert pilot.deviation == pytest.approx(pilot.differences.std(ddof=1)) and 0.01 < pilot.deviation < 0.5
    with pytest.raises(ValueError, match="rule must be registered before the training"):
        experiment.train()
    card = experiment.register(seeds=5, negligible=0.5)
    assert "Seeds: 5. Rule: supported if the whole 95% interval lies below 0" in str(card)
    with pytest.raises(ValueError, match=r"call train\(\) first"):
        experiment.conclude("supported")
    result = experiment.train()
    assert trained == [[0, 1, 2, 3], [100, 101, 102, 103, 104]]  # a run repeats no seed of the pilot
    assert "5 seeds, in percent: -1.98% [-2.10, -1.85]" in str(result)
    assert "No verdict yet" in str(experiment.conclude(None))
    wrong, right = experiment.conclude("inconclusive"), experiment.conclude("supported")
    assert "Your rule says supported" in str(wrong) and "agrees with your rule" in str(right)
    (entry,) = record.read()["experiments"].values()
    assert entry["seeds"] == 5 and entry["verdict"] == "supported" and entry["registrations"] == 1
    assert entry["differences"] == pytest.approx(result.differences)


def test_a_second_registration_discards_the_result_and_is_counted(trained):
    experiment = course.experiment("noise", "mixed")
    experiment.register(seeds=3, negligible=0)
    experiment.train()
    assert "registered this experiment 2 times" in str(experiment.register(seeds=9, negligible=0))
    assert experiment.result is None


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-3, -0.1, "supported"),
        (-0.4, -0.1, "supported"),
        (-0.4, 2, "not supported"),
        (1, 2, "not supported"),
        (-0.6, 2, "inconclusive"),
    ],
)
def test_the_rule_decides_by_both_ends_of_the_interval(low, high, verdict):
    assert Rule(5, 0.5).decide(Interval((low + high) / 2, low, high, 0.95)) == verdict


@pytest.mark.slow
def test_codes_of_one_seed_see_the_same_batches_and_another_seed_gives_other_codes():
    result = course.experiment("noise", "mixed", source="laplacian", lmbda=2.0, steps=3).pilot(seeds=2)
    again = course.experiment("mixed", "noise", source="laplacian", lmbda=2.0, steps=3).pilot(seeds=2)
    assert result.losses == pytest.approx(again.losses[::-1], rel=1e-5)
    assert len(np.unique(result.losses)) == 4 and result.differences.shape == (2,)
    assert result.differences == pytest.approx(100 * np.log(result.losses[1] / result.losses[0]))
    assert "<caption>" in result.table().to_html() and repr(result).startswith("Paired(mixed − noise, 2 seeds")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("noise", "noise"), "second must be a different scheme than first, got 'noise'"),
        (("noise", "nosie"), "unknown scheme 'nosie'"),
    ],
)
def test_an_experiment_needs_two_schemes(arguments, message):
    with pytest.raises(ValueError, match=message):
        course.experiment(*arguments)


def test_seeds_and_percentages_out_of_range_are_refused():
    experiment = course.experiment("noise", "mixed")
    for seeds, message in ((1, "seeds must be an integer ≥ 2, got 1"), (31, "at most 30, which take a minute")):
        with pytest.raises(ValueError, match=message):
            experiment.register(seeds=seeds, negligible=0.5)
    with pytest.raises(ValueError, match="negligible must be a percentage"):
        experiment.register(seeds=5, negligible=-1)


# The registered rule as a whole: how often it errs


def test_the_rule_rarely_supports_a_claim_that_is_wrong_and_mostly_one_that_the_power_was_computed_for():
    """Without a difference, 2.5% of the intervals lie below 0; the bounds allow three standard errors (1.5% and 4%)."""
    rng = np.random.default_rng(5)
    seeds = statistics.pairs_needed(effect=-2.0, deviation=1.5)
    for effect, low, high in ((0.0, 0.0, 0.04), (-2.0, 0.76, 0.92)):
        intervals = [statistics.mean_interval(effect + 1.5 * rng.standard_normal(seeds)) for _ in range(1000)]
        share = np.mean([Rule(seeds, 0.5).decide(interval) == "supported" for interval in intervals])
        assert low <= share <= high
