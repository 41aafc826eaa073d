"""The learner's own experiment: two schemes, paired seeds on a toy, and a decision rule that is registered first."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from labkit import statistics
from labkit.checks import check_at_least, check_name, check_positive
from labkit.course import record
from labkit.course.cards import Card
from labkit.course.tables import table
from labkit.research.study.findings import INCONCLUSIVE, NOT_SUPPORTED, SUPPORTED
from labkit.statistics import Array, Interval

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

SOURCES = {"laplacian": "toy_1d", "gaussian": "toy_1d", "banana": "toy_2d", "ring": "toy_2d"}  # and their networks
STEPS, BATCH_SIZE = 300, 256
MOST_SEEDS = 30  # limits a run to a minute on one core
FIRST_SEED = 100  # first seed of a run; a pilot uses seeds from 0 on, so no run repeats it
VERDICTS = (SUPPORTED, NOT_SUPPORTED, INCONCLUSIVE)
POINTS, POINTS_SEED = 2**14, 1_000_000  # test points of all codes


@dataclass(frozen=True, repr=False)
class Paired:
    """Losses of two schemes, trained with the same seeds.

    Attributes:
        names: The two schemes.
        seeds: The seeds.
        losses: Test losses with rounding, of shape (2, seeds).
        seconds: Duration of training and testing.
    """

    names: tuple[str, str]
    seeds: tuple[int, ...]
    losses: Array
    seconds: float

    @property
    def differences(self) -> Array:
        """Loss of the second scheme relative to the first, for each seed, in percent.

        This is 100 times a difference of natural logarithms. For small differences, that is the relative change.
        """
        logs = np.log(self.losses)
        differences: Array = 100 * (logs[1] - logs[0])
        return differences

    @property
    def deviation(self) -> float:
        """Standard deviation of the differences, in percent."""
        return float(self.differences.std(ddof=1))

    def table(self) -> Styler:
        """Return a table with one row per seed."""
        import pandas as pd

        columns = dict(zip(self.names, self.losses, strict=True))
        frame = pd.DataFrame({"seed": self.seeds, **columns, "difference (%)": self.differences})
        return table(frame, f"Test loss R + λD in bits per point, with rounding, and {self.names[1]} − {self.names[0]}")

    def __repr__(self) -> str:
        return f"Paired({self.names[1]} − {self.names[0]}, {len(self.seeds)} seeds, {self.seconds:.0f} s)"

    def __str__(self) -> str:
        return f"{self.names[1]} − {self.names[0]}, {len(self.seeds)} seeds, in percent: {_interval(self.differences)}"


@dataclass(frozen=True)
class Rule:
    """A decision rule for the claim that the second scheme has a lower loss than the first.

    Attributes:
        seeds: Number of seeds.
        negligible: Reduction of the loss, in percent, below which a difference does not matter.
    """

    seeds: int
    negligible: float

    def __str__(self) -> str:
        return (
            f"supported if the whole 95% interval lies below 0; otherwise not supported if it lies above "
            f"−{self.negligible:g}%; otherwise inconclusive"
        )

    def decide(self, interval: Interval) -> str:
        """Return the verdict on an interval of differences in percent."""
        if interval.high < 0:
            return SUPPORTED
        return NOT_SUPPORTED if interval.low > -self.negligible else INCONCLUSIVE


class Experiment:
    """A comparison of two schemes on a toy source: pilot, registration, training, and the learner's verdict.

    Attributes:
        names: The two schemes. The claim is that the second one has a lower test loss.
        rule: The registered decision rule, or None.
        result: The result of the training under this rule, or None.
    """

    def __init__(self, first: str, second: str, source: str, lmbda: float, steps: int) -> None:
        self.names = (first, second)
        self.rule: Rule | None = None
        self.result: Paired | None = None
        self._source, self._lmbda, self._steps = source, lmbda, steps

    @property
    def claim(self) -> str:
        """Claim that the experiment tests."""
        first, second = self.names
        return f"On {self._source} at λ = {self._lmbda:g}, {second} has a lower test loss than {first}."

    def __repr__(self) -> str:
        return f"Experiment({self.claim})"

    def pilot(self, seeds: int = 4) -> Paired:
        """Train both schemes with a few seeds to find out how much the differences vary.

        Args:
            seeds: Number of seeds, from 2 to MOST_SEEDS.
        """
        self._check(seeds)
        return self._compare(range(seeds))

    def register(self, seeds: int, negligible: float) -> Card:
        """Register the number of seeds and the decision rule before the training.

        Args:
            seeds: Number of seeds, from 2 to MOST_SEEDS.
            negligible: Reduction of the loss, in percent, below which a difference does not matter; at least 0.

        Raises:
            ValueError: If an argument is out of range.
        """
        self._check(seeds)
        if not 0 <= negligible < 100:
            raise ValueError(f"negligible must be a percentage from 0 to below 100, got {negligible}")
        self.rule, self.result = Rule(seeds, float(negligible)), None
        before = self._entry.get("registrations", 0)
        date = time.strftime("%Y-%m-%d")
        entry = {"date": date, "seeds": seeds, "negligible": self.rule.negligible, "registrations": before + 1}
        record.write("experiments", self.claim, entry)
        text = f"Registered on {date}. Claim: {self.claim} Seeds: {seeds}. Rule: {self.rule}."
        if before:
            text += f" You have registered this experiment {before + 1} times: report every one of them."
        return Card(text, text, "note")

    def train(self) -> Paired:
        """Train both schemes with the registered number of seeds, none of which was used in the pilot.

        Raises:
            ValueError: If no rule is registered.
        """
        if self.rule is None:
            raise ValueError("rule must be registered before the training: call register(seeds=…, negligible=…) first")
        self.result = self._compare(range(FIRST_SEED, FIRST_SEED + self.rule.seeds))
        record.write("experiments", self.claim, self._entry | {"differences": self.result.differences.tolist()})
        return self.result

    def conclude(self, verdict: str | None) -> Card:
        """Record the learner's verdict, and compare it with the verdict of the registered rule.

        Args:
            verdict: "supported", "not supported" or "inconclusive"; None for no verdict yet.

        Raises:
            ValueError: If there is no such verdict, or no result.
        """
        if self.rule is None or self.result is None:
            raise ValueError("result must exist before a verdict: call train() first")
        if verdict is None:
            text = f"No verdict yet. Write one of: {', '.join(VERDICTS)}."
            return Card(text, text)
        check_name("verdict", verdict, VERDICTS)
        interval = statistics.mean_interval(self.result.differences)
        decided = self.rule.decide(interval)
        record.write("experiments", self.claim, self._entry | {"verdict": verdict})
        found = f"{self.claim} Difference: {_interval(self.result.differences)}. Rule: {self.rule}."
        agreed = verdict == decided
        answer = f"Your verdict, {verdict}, agrees with your rule."
        if not agreed:
            answer = f"Your verdict is {verdict}. Your rule says {decided}: compare both ends of the interval with it."
        return Card(f"{found} <b>{answer}</b>", f"{found} {answer}", "good" if agreed else "bad")

    @property
    def _entry(self) -> dict[str, Any]:
        entry: dict[str, Any] = record.read()["experiments"].get(self.claim, {})
        return entry

    def _check(self, seeds: int) -> None:
        check_at_least(2, seeds=seeds)
        if seeds > MOST_SEEDS:
            raise ValueError(
                f"seeds must be at most {MOST_SEEDS}, which take a minute, got {seeds}. Ask for a larger effect"
            )

    def _compare(self, seeds: Iterable[int]) -> Paired:
        import torch

        from labkit import datasets, networks, schedules, schemes, training

        begin, seeds = time.perf_counter(), tuple(seeds)
        make, source = getattr(networks, SOURCES[self._source]), getattr(datasets, self._source.capitalize())()
        nets = [make(schemes.get(name), seed=seed) for name in self.names for seed in seeds]
        runs = training.train_stack(
            nets, source, [{"seed": seed} for _ in self.names for seed in seeds], lmbda=self._lmbda, steps=self._steps,
            batch_size=BATCH_SIZE, lr=schedules.cosine(1e-2, 5e-4), device="cpu", threads=1, progress=True,
        )  # fmt: skip
        if errors := [run.error for run in runs if run.error]:
            raise errors[0]
        points = source.draw(POINTS, torch.Generator().manual_seed(POINTS_SEED))
        with torch.no_grad():
            losses = [float(training.rate_distortion(net.eval()(points), points, self._lmbda).total) for net in nets]
        return Paired(self.names, seeds, np.reshape(losses, (2, -1)), time.perf_counter() - begin)


def experiment(
    first: str, second: str, *, source: str = "laplacian", lmbda: float = 2.0, steps: int = STEPS
) -> Experiment:
    """Plan an experiment about the claim that one scheme has a lower test loss than another.

    Both schemes train toy codes with the same seeds, that is, with the same initial weights and the same batches. All
    codes of a scheme are trained together.

    Args:
        first: Name of the scheme to compare with, one of `labkit.schemes.names()`.
        second: Name of the scheme that the claim is about.
        source: Toy source: "laplacian" or "gaussian" in one dimension, "banana" or "ring" in two.
        lmbda: Weight of the distortion.
        steps: Number of optimizer steps.

    Raises:
        ValueError: If an argument is out of range.

    >>> import labkit as lk
    >>> lk.course.experiment("noise", "mixed")
    Experiment(On laplacian at λ = 2, mixed has a lower test loss than noise.)
    """
    from labkit import schemes

    for name in (first, second):
        check_name("scheme", name, schemes.names())
    if first == second:
        raise ValueError(f"second must be a different scheme than first, got {second!r} for both")
    check_name("source", source, SOURCES)
    check_positive(lmbda=lmbda)
    check_at_least(1, steps=steps)
    return Experiment(first, second, source, lmbda, steps)


def _interval(differences: Array) -> str:
    interval = statistics.mean_interval(differences)
    return f"{interval.estimate:+.2f}% [{interval.low:+.2f}, {interval.high:+.2f}]"
