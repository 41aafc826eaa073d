"""The number of threads is found out by timing steps, and again when the machine has changed."""

import pytest
import torch

from labkit.training import threads as module
from labkit.training.threads import Threads


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    torch.set_num_threads(before)


def told(chosen, seconds, steps):
    """Numbers of threads that so many steps were made with, each taking what `seconds` says of its number."""
    used = []
    for _ in range(steps):
        assert torch.get_num_threads() == chosen.number
        used.append(chosen.number)
        chosen.timed(seconds[chosen.number])
    return used


@pytest.mark.parametrize("seconds, best", [({1: 4, 2: 2, 4: 1}, 4), ({1: 1, 2: 1.5, 4: 2}, 1), ({1: 3, 2: 1, 4: 2}, 2)])
def test_the_fastest_is_taken_and_torchs_own_number_comes_back(seconds, best):
    with Threads() as chosen:
        used = told(chosen, seconds, 60)
        assert set(used[:12]) == {1, 2, 4} and set(used[12:]) == {best}
    assert torch.get_num_threads() == 4


def test_a_core_that_gets_busy_is_noticed_within_a_few_steps_and_so_is_its_end():
    quiet, busy = {1: 1.3, 2: 1.1, 4: 1.0}, {1: 1.4, 2: 6.0, 4: 9.0}
    with Threads() as chosen:
        told(chosen, quiet, 100)
        assert chosen.number == 4
        used = told(chosen, busy, 100)
        slow = sum(busy[n] for n in used if n != 1)
        assert chosen.number == 1 and sum(n != 1 for n in used) <= module.WATCH + module.TRIAL + 3, used
        assert slow < 110  # a dozen steps with four threads
        used = told(chosen, quiet, 2 * module.LAST_LOOK)
        assert chosen.number == 4


def test_looking_again_costs_little():
    """Beside a busy core, the steps that are tried with more threads take less than 2% of the time."""
    busy = {1: 1.0, 2: 6.0, 4: 9.0}
    with Threads() as chosen:
        told(chosen, busy, 300)
        used = told(chosen, busy, 10_000)
    tried = [busy[n] for n in used if n != 1]
    assert 0 < sum(tried) < 0.02 * sum(busy[n] for n in used)


def test_a_number_that_is_given_stays_and_one_thread_has_no_choice():
    with Threads(2) as chosen:
        assert set(told(chosen, {2: 9.0}, 50)) == {2}
    torch.set_num_threads(1)
    with Threads() as chosen:
        assert set(told(chosen, {1: 9.0}, 50)) == {1}


def test_one_slow_step_changes_nothing():
    with Threads() as chosen:
        told(chosen, {1: 3, 2: 2, 4: 1}, 60)
        chosen.timed(100.0)
        assert set(told(chosen, {1: 3, 2: 2, 4: 1}, 60)) == {4}
