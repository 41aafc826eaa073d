"""The stages of the capstone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).resolve().parent
HEAD = '"""A learned image codec, written stage by stage."""\n'


@dataclass(frozen=True)
class Stage:
    """A stage of the capstone.

    Attributes:
        number: Number of the stage, from 1 to 8.
        key: Key of the learner's record, such as "capstone.loop".
        title: Title, as in the notebook.
        names: Functions and classes that the learner writes, each as the first line of a stub.
        minutes: Time that a learner needs.
        seconds: CPU time of the check on the reference solution, rounded up.
    """

    number: int
    key: str
    title: str
    names: tuple[str, ...]
    minutes: int
    seconds: int

    @property
    def module(self) -> str:
        """Name of the module in stages/ that checks this stage."""
        return MODULES[self.number - 1]

    @property
    def solution(self) -> str:
        """Section of the reference solution, without the earlier stages."""
        return (FILE / "solutions" / f"stage{self.number}.py").read_text(encoding="utf-8")

    @property
    def stub(self) -> str:
        """Text that the learner starts with: the heading of the section, and each function or class without a body."""
        lines = "".join(f'\n\n{line}:\n    """Stage {self.number} of the capstone."""\n' for line in self.names)
        return f"# Stage {self.number}: {self.title[0].lower()}{self.title[1:]}\n{lines}"


MODULES = ("surrogates", "transform", "prior", "loop", "coder", "hyperprior", "files", "curve")
_CLASS = "class {}(nn.Module)"
STAGES = tuple(
    Stage(number, f"capstone.{key}", title, names, minutes, seconds)
    for number, (key, title, names, minutes, seconds) in enumerate(
        (
            (
                "surrogates",
                "Surrogates of rounding",
                (
                    "def noise(y, tau, generator)",
                    "def straight_through(y, tau, generator)",
                    "def relaxed(y, tau, generator)",
                ),
                25,
                5,
            ),
            ("transform", "Transforms", ("def dct_basis(M)", "def transforms(M, N, lmbda)"), 35, 5),
            (
                "prior",
                "The prior and the loss",
                (_CLASS.format("Prior"), "def rate_distortion(x_hat, x, likelihoods, lmbda)"),
                45,
                10,
            ),
            ("loop", "A first codec", (_CLASS.format("Factorized"), "def train(codec, photos, steps, seed)"), 55, 60),
            (
                "coder",
                "The range coder",
                (
                    "def table(probabilities)",
                    "def encode(symbols, indexes, tables)",
                    "def decode(data, indexes, tables)",
                ),
                45,
                10,
            ),
            (
                "hyperprior",
                "The hyperprior",
                (
                    "def gaussian_likelihood(y, mu, sigma)",
                    "def lower_bound(x, bound)",
                    "def zero_center(y, mu, surrogate, stop)",
                    _CLASS.format("Hyperprior"),
                ),
                55,
                95,
            ),
            (
                "file",
                "Files",
                (
                    "def tables(codec)",
                    "def fixed_point(codec, z)",
                    "def compress(codec, image)",
                    "def latents(codec, data)",
                    "def decompress(codec, data)",
                ),
                70,
                40,
            ),
            (
                "curve",
                "A curve and an experiment",
                (
                    "def rescale(codec, lmbda)",
                    "def toy_loss(surrogate, seed)",
                    "def paired(a, b)",
                    "def ablation()",
                ),
                45,
                225,
            ),
        ),
        start=1,
    )
)


def stage(number: int) -> Stage:
    """Return the stage with a number.

    Args:
        number: Number of the stage, from 1 to 8.

    Raises:
        ValueError: If there is no such stage.
    """
    if number not in range(1, len(STAGES) + 1):
        raise ValueError(f"stage must be a number from 1 to {len(STAGES)}, got {number!r}")
    return STAGES[number - 1]


def solutions(number: int) -> str:
    """Return a file with the solutions of all stages before a given one.

    Args:
        number: Number of the stage, from 1 to 8. 9 returns the whole reference solution.
    """
    return "\n\n".join([HEAD, *(each.solution for each in STAGES if each.number < number)])
