"""The trainer times steps to choose the number of threads and chooses again when the load changes."""

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


def used_threads(chosen, seconds, steps):
    """Return the number of threads of each step; `seconds` gives the duration of a step for each number."""
    used = []
    for _ in range(steps):
        assert torch.get_num_threads() == chosen.number
        used.append(chosen.number)
        chosen.timed(seconds[chosen.number])
    return used


@pytest.mark.parametrize("seconds, best", [({1: 4, 2: 2, 4: 1}, 4), ({1: 1, 2: 1.5, 4: 2}, 1), ({1: 3, 2: 1, 4: 2}, 2)])
def test_the_fastest_number_is_chosen_and_the_original_number_is_restored(seconds, best):
    with Threads() as chosen:
        used = used_threads(chosen, seconds, 60)
        assert set(used[:12]) == {1, 2, 4} and set(used[12:]) == {best}
    assert torch.get_num_threads() == 4


def test_a_core_that_becomes_busy_or_free_is_noticed_within_a_few_steps():
    quiet, busy = {1: 1.3, 2: 1.1, 4: 1.0}, {1: 1.4, 2: 6.0, 4: 9.0}
    with Threads() as chosen:
        used_threads(chosen, quiet, 100)
        assert chosen.number == 4
        used = used_threads(chosen, busy, 100)
        slow = sum(busy[n] for n in used if n != 1)
        assert chosen.number == 1 and sum(n != 1 for n in used) <= module.WATCH + module.TRIAL + 3, used
        assert slow < 110  # about a dozen steps with four threads
        used = used_threads(chosen, quiet, 2 * module.LAST_LOOK)
        assert chosen.number == 4


def test_repeated_trials_cost_little():
    """On a machine with a busy core, trials with more threads take less than 2% of the time."""
    busy = {1: 1.0, 2: 6.0, 4: 9.0}
    with Threads() as chosen:
        used_threads(chosen, busy, 300)
        used = used_threads(chosen, busy, 10_000)
    tried = [busy[n] for n in used if n != 1]
    assert 0 < sum(tried) < 0.02 * sum(busy[n] for n in used)


def test_a_fixed_number_does_not_change_and_one_thread_leaves_no_choice():
    with Threads(2) as chosen:
        assert set(used_threads(chosen, {2: 9.0}, 50)) == {2}
    torch.set_num_threads(1)
    with Threads() as chosen:
        assert set(used_threads(chosen, {1: 9.0}, 50)) == {1}


def test_one_slow_step_does_not_change_the_choice():
    with Threads() as chosen:
        used_threads(chosen, {1: 3, 2: 2, 4: 1}, 60)
        chosen.timed(100.0)
        assert set(used_threads(chosen, {1: 3, 2: 2, 4: 1}, 60)) == {4}
