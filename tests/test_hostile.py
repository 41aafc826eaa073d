"""Damaged strings behind correct checksums decode or are refused in one line, in bounded time and memory."""

import copy
from dataclasses import replace

import psutil
import pytest
import torch
from click.testing import CliRunner

from labkit import networks
from labkit.files.container import Container
from tests.bench import hostile


def failed(rows):
    return [row for row in rows if row["outcome"] not in ("decoded", "refused") or not row["within"]]


@pytest.mark.parametrize(
    "kind, count", [("factorized_prior", 45), ("mean_scale_hyperprior", 34), ("joint_autoregressive", 23)]
)
def test_damaged_strings_decode_or_are_refused(kind, count, monkeypatch):
    monkeypatch.setattr(hostile, "SIDES", ((64, 64),))
    rows = [row for row in hostile.run_cases(kind, count, seed=0) if "outcome" in row]
    assert len(rows) == count and not failed(rows)
    assert {row["outcome"] for row in rows} == {"decoded", "refused"}
    assert {row["way"] for row in rows} == set(hostile.WAYS)


@pytest.mark.slow
@pytest.mark.parametrize("kind", networks.names())
def test_a_process_decodes_damaged_strings_of_every_network(kind):
    arguments = ["--network", kind, "--strings", "10", "--seed", "1"]
    done = CliRunner().invoke(hostile.main, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output


def test_a_crash_is_reported_with_its_case(monkeypatch):
    """A process that ends within a case counts as a failure of that case, and another process goes on after it."""

    def child(kind, count, seed, start):
        rows = [{"number": number, "outcome": "decoded"} for number in range(start, count)]
        return [*rows[:2], {"number": 2, "outcome": "crashed with status -11"}] if start < 2 else rows

    monkeypatch.setattr(hostile, "_child", child)
    rows = hostile.results("factorized_prior", 5, 0)
    assert [row["outcome"] for row in rows] == ["decoded"] * 2 + ["crashed with status -11"] + ["decoded"] * 2


@pytest.mark.parametrize("kind", ["factorized_prior", "mean_scale_hyperprior"])
def test_a_short_file_that_claims_a_huge_image_is_refused_before_memory_is_used(kind):
    container = hostile.codec.compress(torch.zeros(3, 64, 64, dtype=torch.uint8), hostile.network(kind), verify=False)
    huge = Container.unpack(replace(container, width=10_000, height=10_000).pack())

    def decode():
        with pytest.raises(
            ValueError, match=r"cannot be decoded: a string of \d+ bytes is too short for [\d,]+ latents"
        ):
            hostile.codec.decompress(huge, hostile.network(kind))

    outcome, seconds, megabytes = hostile.peak_megabytes(decode, psutil.Process().memory_info().rss)
    assert outcome == "decoded" and seconds < 1 and megabytes < 100


def test_where_a_short_string_may_be_valid_its_end_is_checked_before_the_next_latent_is_decoded():
    """A string of 12 bytes may hold 588,744 latents z if each has one value with all but the least probability."""
    net = copy.deepcopy(hostile.network("mean_scale_hyperprior"))
    bottleneck = net.entropy_bottleneck
    bottleneck._quantized_cdf = torch.tensor([[0, 65535, 65536]] * net.N, dtype=torch.int32)
    bottleneck._cdf_length = torch.full((net.N,), 3, dtype=torch.int32)
    string = b"\xe3\xb4\x05\x91\x00\x00\x00\x07abcd"

    def decode():
        with pytest.raises(ValueError, match=r"^a string does not end with its last latent"):
            net.decompress([[string], [string]], (156, 157))

    outcome, seconds, megabytes = hostile.peak_megabytes(decode, psutil.Process().memory_info().rss)
    assert outcome == "decoded" and seconds < 2 and megabytes < 200
