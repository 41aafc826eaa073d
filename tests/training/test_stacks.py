"""Networks trained in a stack end with the same weights and histories as networks trained alone."""

from __future__ import annotations

import copy

import pytest
import torch

import labkit as lk
from labkit import datasets, networks, schedules, schemes, training
from labkit.training.stacked import StackedTraining

# The order of float32 sums differs. This changes a step by 1e-7, and Adam takes nearly full steps even for gradients
# that consist of rounding errors. Over 30 steps, weights differed by 1e-6 and values of the history by a relative 1e-5.
WEIGHTS, SHARE = 1e-5, 1e-4
BANANA = datasets.Banana()
COMMON = {"steps": 12, "batch_size": 32, "lr": 1e-3, "precision": "float32", "threads": 1, "progress": False}
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")  # pytest replaces the filters in the code
ANNEALED = schedules.exponential(1, 0.1)


def toys(*chosen: schemes.Scheme, seeds=(0, 1, 2, 3)) -> list[networks.ToyTransformCode]:
    return [networks.toy_2d(chosen[i % len(chosen)], hidden=8, seed=seed) for i, seed in enumerate(seeds)]


def train_alone(nets, each, source=BANANA, **settings) -> list[training.TrainingRun]:
    """Train copies of the networks, each with `train`."""
    runs = []
    for net, overrides in zip(copy.deepcopy(nets), each, strict=True):
        runs.append(lk.train(net, source, **{**COMMON, **settings, **overrides}))
    return runs


def assert_same(stacked, single, weights: float = WEIGHTS, share: float = SHARE) -> None:
    for ours, reference in zip(stacked, single, strict=True):
        state = reference.net.state_dict()
        for name, value in ours.net.state_dict().items():
            tolerance = {"rtol": 1e-4, "atol": 2e-3} if name.endswith("quantiles") else {"rtol": 0, "atol": weights}
            torch.testing.assert_close(value, state[name], **tolerance, msg=lambda text, name=name: f"{name}: {text}")
        assert len(ours.history) == len(reference.history)
        for row, expected in zip(ours.history, reference.history, strict=True):
            for column in ("step", "loss", "rate", "distortion", "norm", "temperature", "lr"):
                assert getattr(row, column) == pytest.approx(getattr(expected, column), rel=share)


EACH = [
    {"lmbda": 1.0, "lr": 1e-3, "seed": 0},
    {"lmbda": 8.0, "lr": schedules.cosine(1e-2, 1e-4), "seed": 5, "ema": 0.9},
    {"lmbda": 2.0, "lr": 3e-3, "seed": 5, "clip": 0.1},
    {"lmbda": 4.0, "lr": 2e-3, "seed": 1, "ema": 0.5},
]


def noise_with_expected_gradients():
    return schemes.noise(rate={"name": "aun", "gradient": "expected"})


@pytest.mark.parametrize(
    ("make_scheme", "schedule"),
    [
        (schemes.noise, None),
        (noise_with_expected_gradients, None),
        (schemes.straight_through, None),
        (schemes.mixed, None),
        (schemes.soft_rounding, ANNEALED),
        (schemes.gumbel, ANNEALED),
        (schemes.annealed, ANNEALED),
        (schemes.universal_ds, ANNEALED),
        (schemes.soft_then_hard, None),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_each_member_ends_as_if_it_were_trained_alone(make_scheme, schedule):
    """Members have their own λ, learning rate, clipping, averaging, seed, and temperature."""
    constant = schedule and schedules.constant(0.4)
    nets = toys(*(make_scheme(temperature=s) for s in (schedule, constant)) if schedule else [make_scheme()])
    single = train_alone(nets, EACH)
    runs = training.train_stack(nets, BANANA, EACH, **COMMON)
    assert [run.how for run in runs] == ["stacked"] * 4
    assert [run.net for run in runs] == nets and [run.settings for run in runs] == [run.settings for run in single]
    assert not any(net.training for net in nets)
    assert_same(runs, single)


def test_quantiles_are_solved_in_a_stack_as_in_training_alone(monkeypatch):
    """Straight-through rounding uses the medians, which move every few steps at this large learning rate."""
    monkeypatch.setattr(training.trainer, "SOLVE_EVERY", 4)
    nets = toys(schemes.straight_through())
    nets[1].entropy_bottleneck.biases[-1].data.add_(3.0)  # moves the median of member 1 far from the others
    each = [{"lmbda": lmbda} for lmbda in (1.0, 2.0, 4.0, 8.0)]
    single = train_alone(nets, each, lr=0.05)
    assert_same(training.train_stack(nets, BANANA, each, **{**COMMON, "lr": 0.05}), single, 1e-4, 1e-3)


def test_the_search_for_quantiles_gives_each_member_the_same_result_as_alone():
    nets = toys(schemes.noise())
    for i, net in enumerate(nets):  # the search ends earlier far from zero
        net.entropy_bottleneck.biases[-1].data.add_(torch.tensor([4.0, -2.0])[:, None, None] * i)
    single = copy.deepcopy(nets)
    stack = StackedTraining(nets, BANANA, [training.Settings(lmbda=1.0, steps=1)] * 4)
    stack.solve_quantiles()
    lk.entropy.solve_quantiles(torch.nn.ModuleList(single))
    solved = [net.entropy_bottleneck.quantiles for net in nets]
    assert all(torch.equal(a, b.entropy_bottleneck.quantiles) for a, b in zip(solved, single, strict=True))


def test_a_stack_of_one_and_a_stack_of_equal_seeds_train_as_if_alone():
    for count in (1, 3):  # members with the same seed share batch and noise
        nets, each = toys(schemes.mixed(), seeds=range(count)), [{"lmbda": 1.0 + i} for i in range(count)]
        single = train_alone(nets, each, seed=4)
        runs = training.train_stack(nets, BANANA, each, how="stacked", seed=4, **COMMON)
        assert_same(runs, single)


def test_permuted_members_give_permuted_results():
    nets, order = toys(schemes.gumbel(ANNEALED)), [2, 0, 3, 1]
    others = [copy.deepcopy(nets[i]) for i in order]
    runs = training.train_stack(nets, BANANA, EACH, **COMMON)
    permuted = training.train_stack(others, BANANA, [EACH[i] for i in order], **COMMON)
    assert_same(permuted, [runs[i] for i in order])


def test_networks_with_different_structure_form_different_stacks():
    nets = [
        *toys(schemes.noise(), schemes.straight_through()),
        networks.toy_2d(schemes.noise(scale_lower_bound=0.2), hidden=8, seed=4),  # joins the other networks with noise
        networks.toy_2d(schemes.noise(), hidden=12, seed=5),
    ]
    each = [{"lmbda": 1.0 + i} for i in range(6)]
    single = train_alone(nets, each)
    runs = training.train_stack(nets, BANANA, each, **COMMON)
    assert [run.how for run in runs] == ["stacked"] * 5 + ["in turn, because no other network has its structure"]
    assert_same(runs, single)
    assert torch.equal(runs[5].net.g_a[0].weight, single[5].net.g_a[0].weight)


def test_a_member_that_diverges_does_not_change_the_others():
    """Member 2 takes a step so large that its next loss is not finite; it keeps the weights after that step."""
    nets = toys(schemes.mixed())
    without, single = copy.deepcopy(nets), copy.deepcopy(nets)
    each = [overrides | {"lr": 1e30} if i == 2 else overrides for i, overrides in enumerate(EACH)]
    bad = training.train_stack(nets, BANANA, each, **COMMON)
    good = training.train_stack(without, BANANA, EACH, **COMMON)
    for i in (0, 1, 3):
        a, b = bad[i].net.state_dict(), good[i].net.state_dict()
        assert bad[i].error is None and len(bad[i].history) == 12
        assert all(torch.equal(a[name], b[name]) for name in a)
    in_turn = training.train_stack(single[1:3], BANANA, each[1:3], how="in turn", **COMMON)
    assert [run.how for run in in_turn] == ["in turn, as requested"] * 2
    assert in_turn[0].error is None and len(in_turn[0].history) == 12
    for run in (bad[2], in_turn[1]):
        assert isinstance(run.error, FloatingPointError) and len(run.history) == 1
        assert "at step 2: lower the learning rate" in str(run.error)
        assert all(bool(p.isfinite().all()) for p in run.net.g_s.parameters())


def test_the_durations_of_steps_are_shares_of_the_duration_of_the_stack():
    runs = training.train_stack(toys(schemes.noise()), BANANA, EACH, **COMMON)
    assert len({run.seconds for run in runs}) == 1
    assert 0 < sum(step.seconds for step in runs[0].history) < runs[0].seconds


def test_training_does_not_change_the_global_random_state():
    before = torch.get_rng_state()
    training.train_stack(toys(schemes.mixed()), BANANA, EACH, **COMMON)
    assert torch.equal(torch.get_rng_state(), before)


def test_image_codecs_are_stacked_on_request_and_timed_otherwise(train_photos):
    nets = [
        networks.get("mean_scale_hyperprior", "tiny", schemes.annealed(scale_lower_bound=b), seed=0)
        for b in (0.11, 0.3)
    ]
    each, settings = [{"lmbda": 0.01}, {"lmbda": 0.02}], {**COMMON, "steps": 2, "batch_size": 1, "crop": 64}
    single = train_alone(nets, each, train_photos[:1], **settings)
    runs = training.train_stack(copy.deepcopy(nets), train_photos[:1], each, how="stacked", **settings)
    assert_same(runs, single)
    measured = training.train_stack(nets, train_photos[:1], each, **settings)
    assert all(run.how == "stacked" or run.how.startswith("in turn, because stacked it takes") for run in measured)
    assert_same(measured, single)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"how": "parallel"}, "unknown how 'parallel'; expected one of auto, stacked, in turn"),
        ({"each": EACH[:3]}, "each must hold settings for each of the 4 networks, got 3"),
        (
            {"how": "stacked", "precision": "bfloat16"},
            "how is 'stacked', but stacks are trained in float32, without compile, and in one process; use how='auto'",
        ),
        ({"each": [{"lmbda": -1.0}] * 4}, "lmbda must be a positive finite number, got -1.0"),
    ],
)
def test_an_invalid_argument_raises_an_error(changes, message):
    with pytest.raises(ValueError) as error:
        training.train_stack(toys(schemes.noise()), BANANA, **{"each": EACH, **COMMON, **changes})
    assert str(error.value) == message


def test_a_network_that_is_listed_twice_is_rejected():
    net = networks.toy_2d(hidden=8)
    with pytest.raises(ValueError, match=r"^nets must hold each network once, because it is trained in place$"):
        training.train_stack([net, net], BANANA, EACH[:2], **COMMON)
