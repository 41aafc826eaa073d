"""The exercises on zero-center quantization recognize mistakes in other code and accept other correct answers."""

import pytest
import torch

from labkit.course import exercise


def detached(mean):
    return mean.detach()


REWRITTEN_MISTAKES = [
    ("center.noisier", 1, "the order has changed"),
    ("center.noisier", lambda: 0.3, "nine times"),
    ("center.noisier", 0.15, "is not right"),
    ("center.partial_stop", lambda y, m, q: (q(y - m) + m, q(y)), "should have been"),
    ("center.partial_stop", lambda y, m, q: [q(y)] * 2, "around 0"),
    ("center.partial_stop", lambda y, m, q: (q(y - m) + m,) * 2, "Nothing is stopped"),
    ("center.partial_stop", lambda y, m, q: (q(y - detached(m)) + detached(m),) * 2, "partial"),
    ("center.partial_stop", lambda y, m, q: (q(y - m) + m, m + q(y - m.data)), "1 instead of 1 − slope"),
    ("center.partial_stop", lambda y, m, q: (q(y - m) + m, m.data + q(y - m)), "−slope instead"),
    ("center.partial_stop", lambda y, m, q: (q(y - m) + m, q(y.detach() - m.detach()) + m.detach()), "Detach only μ"),
    ("center.partial_stop", lambda y, m, q: (q(y - m), q(y - m.data)), "Add μ back"),
    ("center.partial_stop", lambda y, m, q: (q(y - m), q(y - m.data) + m.data), "residual for the rate"),
    ("center.partial_stop", lambda y, m, q: (q(y - m.data) + m.data, q(y - m) + m), "wrong path"),
    ("center.gradient", lambda t: (0, (1 - t) / t**0.5 / t**0.5 + 1), "mean square"),
    ("center.gradient", lambda t: (0, ((1 - t) / t) ** 0.5), "standard deviation"),
    ("center.gradient", lambda t: (t * (1 / t), (1 - t) / t), "1 − slope"),
    ("center.gradient", lambda t: (0 * t, 0 * t), "slope 1 everywhere"),
    ("center.variance", lambda a, b: torch.var(b) / torch.var(a), "pooled"),
    ("center.variance", lambda a, b: torch.trace(torch.cov(a.T)) / torch.trace(torch.cov(b.T)), "inverted"),
    ("center.variance", lambda a, b: b.numpy().var(0).sum() / a.numpy().var(0).sum(), "n − 1"),
    (
        "center.variance",
        lambda a, b: sum(row.numpy().var(ddof=1) for row in b) / sum(row.numpy().var(ddof=1) for row in a),
        "from draw to draw",
    ),
    (
        "center.variance",
        lambda a, b: (torch.trace(torch.cov(b.T)) / torch.trace(torch.cov(a.T))) ** 0.5,
        "standard deviations",
    ),
]


@pytest.mark.parametrize(("key", "wrong", "fragment"), REWRITTEN_MISTAKES)
def test_a_mistake_is_recognized_in_other_code(key, wrong, fragment):
    verdict = exercise(key).check(wrong)
    assert verdict.state == "failed" and fragment in verdict.message


def test_other_correct_answers_pass():
    def step_by_step(y, mean, surrogate):
        rate = surrogate(y - mean).add(mean)
        mean = mean.clone().detach()
        return [rate, surrogate(y.sub(mean)).add(mean)]

    assert exercise("center.noisier").check(0.5)
    assert exercise("center.partial_stop").check(step_by_step)
    assert exercise("center.gradient").check(lambda t: torch.tensor([0.0, (1 - t) / t]))
    assert exercise("center.variance").check(lambda a, b: torch.trace(torch.cov(b.T)) / torch.trace(torch.cov(a.T)))


def test_an_answer_of_the_wrong_type_gets_a_one_line_message():
    assert "two tensors" in exercise("center.partial_stop").check(lambda y, mean, surrogate: y).message
    assert "shape" in exercise("center.variance").check(lambda a, b: a.var(0)).message
