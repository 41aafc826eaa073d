"""Damaged strings behind correct checksums decode or are refused in one line, in bounded time and memory."""

import pytest
from click.testing import CliRunner

from tests.bench import hostile


def failed(rows):
    return [row for row in rows if row["outcome"] not in ("decoded", "refused") or not row["within"]]


@pytest.mark.parametrize("kind", ["factorized_prior", "mean_scale_hyperprior", "joint_autoregressive"])
def test_damaged_strings_decode_or_are_refused(kind, monkeypatch):
    monkeypatch.setattr(hostile, "SIDES", ((64, 64),))
    rows = [row for row in hostile.run_cases(kind, 34, seed=0) if "outcome" in row]
    assert len(rows) == 34 and not failed(rows)
    assert {row["outcome"] for row in rows} == {"decoded", "refused"}
    assert {row["way"] for row in rows} == set(hostile.WAYS)


@pytest.mark.slow
def test_a_process_decodes_damaged_strings_of_every_network():
    done = CliRunner().invoke(hostile.main, ["--strings", "800", "--seed", "1"], catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_a_crash_is_reported_with_its_case(monkeypatch):
    """A process that ends within a case counts as a failure of that case, and another process goes on after it."""

    def child(kind, count, seed, start):
        rows = [{"number": number, "outcome": "decoded"} for number in range(start, count)]
        return [*rows[:2], {"number": 2, "outcome": "crashed with status -11"}] if start < 2 else rows

    monkeypatch.setattr(hostile, "_child", child)
    rows = hostile.results("factorized_prior", 5, 0)
    assert [row["outcome"] for row in rows] == ["decoded"] * 2 + ["crashed with status -11"] + ["decoded"] * 2
