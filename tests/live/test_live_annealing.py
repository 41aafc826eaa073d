"""The annealing panel shows its schedule immediately, trains the grid of temperatures once, and returns all losses."""

import math

import numpy as np
import pytest

from labkit.live import AnnealingPanel
from labkit.live.annealing import ANNEALED, TEMPERATURES, UNANNEALED, scalar_training


@pytest.fixture(scope="module")
def panel():
    panel = AnnealingPanel(steps=30, seeds=2)
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
    assert len(frame.lines["Gumbel"][0]) == 0  # no code has been trained yet
    job.close()
    assert set(frame.lines) <= set(panel.plot.traces)


def test_the_first_run_trains_the_grid_and_every_run_trains_the_schedule(panel, monkeypatch):
    trained, train_codes = [], scalar_training.train_codes

    def counted(rows, *rest, **options):
        trained.append(len(rows))
        return train_codes(rows, *rest, **options)

    monkeypatch.setattr(scalar_training, "train_codes", counted)
    first = panel.run(60, temperature=0.45, end=0.05, shape="exponential", lmbda=1.5)
    assert set(first.constant) == set(first.scheduled) == set(ANNEALED) and set(first.unannealed) == set(UNANNEALED)
    for name in ANNEALED:
        assert first.constant[name].shape == (len(TEMPERATURES), 2) and first.scheduled[name].shape == (2,)
        assert (first.constant[name] > 0).all() and (first.scheduled[name] > 0).all()  # above the loss of the best code
        assert len(first.mismatch[name]) == len(first.risk[name]) == len(TEMPERATURES)
    second = panel.run(60, shape="constant", temperature=0.2)
    assert trained == [len(ANNEALED) * (1 + len(TEMPERATURES)) + 2, len(ANNEALED)]
    index = TEMPERATURES.index(0.2)
    for name in ANNEALED:
        assert np.array_equal(second.constant[name], first.constant[name])
        assert np.allclose(second.scheduled[name], first.constant[name][index], rtol=1e-2)
        assert not np.allclose(second.scheduled[name], first.scheduled[name], rtol=1e-4)
        x, y = panel.plot.points(f"{name}, your schedule")
        assert np.allclose(x, 0.2) and np.allclose(y, second.scheduled[name].mean())
        temperatures, losses = panel.plot.points(name)
        assert np.allclose(temperatures, TEMPERATURES) and np.allclose(losses, first.constant[name].mean(1))
    assert math.isclose(second.loss, second.best + min(excess.mean() for excess in second.scheduled.values()))
    assert "soft rounding" in str(second) and "straight-through" in panel.plot.label
    with pytest.raises(ValueError, match=r"temperature.*0\.33"):
        panel.run(temperature=0.33)


def test_covered_plots_are_uncovered_one_after_the_other():
    panel = AnnealingPanel(steps=5, seeds=1, covered=True)
    shapes = panel.plot.figure.layout.shapes
    assert [shape.xref for shape in shapes] == ["x2 domain", "x4 domain"]
    assert panel.widget.children[0].description == "Uncover the next plot"
    panel._uncover_button.click()
    assert [shape.xref for shape in panel.plot.figure.layout.shapes] == ["x4 domain"]
    panel.uncover()
    panel.uncover()  # nothing is left
    assert not panel.plot.figure.layout.shapes and panel._uncover_button.disabled
    panel.close()
