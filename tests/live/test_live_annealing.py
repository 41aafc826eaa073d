"""The annealing panel: its codes against the laboratory, its trainer row by row, and what a run comes to."""

import math

import numpy as np
import pytest
import torch

from labkit import analysis, schedules, surrogates
from labkit.live import annealing
from labkit.live.annealing import ANNEALED, TEMPERATURES, UNANNEALED, Codes


def scalar(codes, lmbda):
    gain, step, scale = (float(each) for each in codes)
    return analysis.ScalarCode(analysis.sources.laplace(), gain, lmbda, scale=scale, step=step)


def test_rounded_loss_is_that_of_quadrature():
    codes = Codes(*torch.tensor([[0.26, 0.7, 2.0, 0.1], [2.6, 1.2, 0.5, 5.0], [0.27, 0.5, 2.5, 0.2]]))
    for i, loss in enumerate(annealing.rounded_loss(codes, 1.7)):
        assert math.isclose(loss, analysis.test_loss(scalar([each[i] for each in codes], 1.7)).total, rel_tol=1e-6)


@pytest.mark.parametrize("lmbda", annealing.LMBDAS)
def test_nothing_is_better_than_the_best_code(lmbda):
    best, loss = annealing.best_code(lmbda)
    for parameter in ("gain", "step", "scale"):  # it is flat there
        assert abs(analysis.exact_gradient(scalar(best, lmbda), parameter)) < 2e-2
    near_and_far = torch.exp(torch.randn(3, 4000, generator=torch.Generator().manual_seed(0)) * torch.rand(4000))
    others = Codes(*(each * factor for each, factor in zip(best, near_and_far, strict=True)))
    assert annealing.rounded_loss(others, lmbda).min() > loss


def test_bits_of_training_are_those_of_the_laboratory():
    y, scale = torch.linspace(-3, 3, 61), torch.tensor([[0.3], [1.0], [3.0]])
    exact = analysis.gaussian_bits(y.double(), torch.zeros(1), scale.double())
    close = exact < 60
    assert close.float().mean() > 0.8
    assert torch.allclose(annealing._bits(y, scale).double()[close], exact[close], rtol=1e-4, atol=1e-5)


def test_the_source_has_its_mean_and_deviation():
    x = annealing._laplace((torch.arange(1_000_000).double() + 0.5) / 1_000_000)
    assert abs(x.mean()) < 1e-6 and abs(x.std() - 1) < 1e-4
    assert abs((x < -0.4).double().mean() - analysis.sources.laplace().cdf(-0.4)) < 1e-5


def last(rows, **options):
    *_, codes = annealing.train(rows, 1.5, **{"steps": 25, "seeds": 3, "batch": 32, **options})
    return torch.stack(codes)


def test_every_row_trains_as_if_alone():
    one, warm = schedules.exponential(1.0, 0.1), schedules.constant(0.4)
    names = list(ANNEALED.values())
    rows = [(names[0], warm), (names[2], one), (names[1], warm), (names[0], one), (names[3], warm), (names[2], warm)]
    together = last(rows)
    assert together.shape == (3, 6, 3)
    for i, row in enumerate(rows):
        assert torch.allclose(last([row])[:, 0], together[:, i], rtol=2e-3, atol=1e-4), row
    assert len({round(float(each), 5) for each in together[0, :, 0]}) == 6  # no two rows are one


def test_a_first_step_follows_the_gradient_of_backpropagation():
    """Adam's first step is the learning rate times the gradient's sign; a mirror-image law would turn it round."""
    (codes,) = annealing.train([(surrogates.get("ste"), schedules.constant(1.0))], 1.5, steps=1, seeds=1, batch=4096)
    code = analysis.ScalarCode(analysis.sources.laplace(), 1.0, 1.5, scale=1.0, step=1.0)
    for name, value in (("gain", codes.gain), ("step", codes.step)):
        downhill = -analysis.gradient_risk(code, "ste", name, batch_sizes=1)["mean"][0]
        assert math.isclose(float(value), math.exp(math.copysign(0.02, downhill)), rel_tol=1e-4), name


def test_seeds_differ_and_repeat():
    row = [(surrogates.get("sga"), schedules.constant(0.3))]
    assert torch.equal(last(row, seed=5), last(row, seed=5))
    assert not torch.equal(last(row, seed=5), last(row, seed=6))
    first, second, third = last(row)[0, 0]
    assert len({float(first), float(second), float(third)}) == 3


@pytest.mark.parametrize("name", ANNEALED)
def test_measures_are_those_of_the_laboratory(name):
    best, _ = annealing.best_code(1.5)
    mismatch, risk = annealing.measure(ANNEALED[name], 0.45, best, 1.5)
    row = analysis.gradient_risk(scalar(best, 1.5), {name: ANNEALED[name]}, "gain", 0.45, annealing.BATCH).iloc[0]
    assert math.isclose(mismatch, row["mismatch"], rel_tol=0.01)
    assert math.isclose(risk, row["risk"], rel_tol=0.25 if name == "Gumbel" else 0.03)  # its slope is singular


@pytest.fixture(scope="module")
def panel():
    panel = annealing.annealing_panel(steps=30, seeds=2)
    yield panel
    panel.close()


def test_the_schedule_is_shown_before_anything_is_computed(panel):
    job = panel.job({"temperature": 0.7, "end": 0.1, "shape": "cosine", "lmbda": 3.0})
    frame = next(job)()
    _, tau = frame.lines["schedule"]
    assert tau[0] == 0.7 and math.isclose(tau[-1], 0.1) and math.isclose(tau[50], 0.4)
    assert set(np.asarray(frame.lines["chosen τ, risk"][0])[[0, 1, 3, 4]]) == {0.7, 0.1}
    assert len(frame.lines["Gumbel"][0]) == 0 and len(frame.lines["Gumbel, mismatch"][0]) == 0
    for _ in range(len(ANNEALED) * len(TEMPERATURES)):
        frame = next(job)()
    assert len(frame.lines["Gumbel, mismatch"][0]) == len(TEMPERATURES)
    assert len(frame.lines["Gumbel"][0]) == 0  # nothing is trained yet
    job.close()
    assert set(frame.lines) <= set(panel.plot.traces)


def test_a_run_trains_the_grid_once_and_the_schedule_every_time(panel, monkeypatch):
    trained, train = [], annealing.train

    def counted(rows, *rest, **options):
        trained.append(len(rows))
        return train(rows, *rest, **options)

    monkeypatch.setattr(annealing, "train", counted)
    first = panel.run(60, temperature=0.45, end=0.05, shape="exponential", lmbda=1.5)
    assert set(first.constant) == set(first.scheduled) == set(ANNEALED) and set(first.unannealed) == set(UNANNEALED)
    for name in ANNEALED:
        assert first.constant[name].shape == (len(TEMPERATURES), 2) and first.scheduled[name].shape == (2,)
        assert (first.constant[name] > 0).all() and (first.scheduled[name] > 0).all()  # above the best code
        assert len(first.mismatch[name]) == len(first.risk[name]) == len(TEMPERATURES)
    second = panel.run(60, shape="constant", temperature=0.2)
    assert trained == [4 + 4 * len(TEMPERATURES) + 2, 4]
    at = TEMPERATURES.index(0.2)
    for name in ANNEALED:
        assert np.array_equal(second.constant[name], first.constant[name])
        assert np.allclose(second.scheduled[name], first.constant[name][at], rtol=1e-2)
        assert not np.allclose(second.scheduled[name], first.scheduled[name], rtol=1e-4)
        x, y = panel.plot.points(f"{name}, your schedule")
        assert np.allclose(x, 0.2) and np.allclose(y, second.scheduled[name].mean())
        temperatures, losses = panel.plot.points(name)
        assert np.allclose(temperatures, TEMPERATURES) and np.allclose(losses, first.constant[name].mean(1))
    assert math.isclose(second.loss, second.best + min(each.mean() for each in second.scheduled.values()))
    assert "soft rounding" in str(second) and "straight-through" in panel.plot.label
    with pytest.raises(ValueError, match=r"temperature must be one of .*, got 0\.33"):
        panel.run(temperature=0.33)


def test_annealing_beats_noise_at_low_rate():
    best = annealing.best_code(1.5)[1]
    rows = [(ANNEALED["soft rounding"], schedules.constant(0.14)), (UNANNEALED["noise"], schedules.constant(1.0))]
    *_, codes = annealing.train(rows, 1.5, steps=400, seeds=16)  # of which now and then one ends elsewhere
    soft, noise = annealing.rounded_loss(codes, 1.5).mean(1) - best
    assert 0 < soft < 0.03 < 0.06 < noise < 0.1
