"""`.lkc` files have the documented bytes, and a damaged file causes an error of one line before torch is imported."""

import itertools
import json
import os
import random
import stat
import struct
import subprocess
import sys
import zlib
from dataclasses import replace

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from labkit import datasets, networks
from labkit.cli import main
from labkit.files import container as format_
from labkit.files.container import Container

GOOD = Container(
    network="mean_scale_hyperprior",
    size="tiny",
    N=24,
    M=36,
    weights="00112233445566ff",
    width=65,
    height=48,
    strings=(b"the latent itself...", b"its hyperlatent."),
    image_checksum=0x89ABCDEF,
    latents_checksum=0x01234567,
)
FIRST = replace(GOOD, latents_checksum=None, arithmetic="floating-point")  # a file of version 1


def header(**changed):
    """Return a header as documented in the module, with a correct checksum."""
    fields = {"magic": b"\x89LKC\r\n\x1a\n", "version": 2, "network": 2, "size": 1, "N": 24, "M": 36}
    fields |= {"weights": bytes.fromhex("00112233445566ff"), "width": 65, "height": 48, "count": 2}
    fields |= {"verified": 1, "image": 0x89ABCDEF, "arithmetic": 1, "latents": 0x01234567} | changed
    if fields["version"] == 1:
        del fields["arithmetic"], fields["latents"]
    byte_counts = {"N": 2, "M": 2, "width": 2, "height": 2, "image": 4, "latents": 4}
    encoded = (v if isinstance(v, bytes) else v.to_bytes(byte_counts.get(k, 1), "little") for k, v in fields.items())
    packed = b"".join(encoded)
    return packed + zlib.crc32(packed).to_bytes(4, "little")


def sections(strings, start):
    """Return sections that continue the checksum in the last four bytes of `start`."""
    checksum, packed = int.from_bytes(start[-4:], "little"), b""
    for string in strings:
        length = struct.pack("<I", len(string))
        checksum = zlib.crc32(length + string, checksum)
        packed += length + struct.pack("<I", checksum) + string
    return packed


def assemble(strings=GOOD.strings, **changed):
    """Return the bytes of a file as documented in the module, with changed fields in the header."""
    start = header(**changed)
    return start + sections(strings, start)


def bad_files():
    """Yield the names and the contents of damaged files."""
    good = GOOD.pack()
    draw = random.Random(0)
    yield from ((f"cut after {n}", good[:n]) for n in range(len(good)))
    for place, byte in enumerate(good):
        flipped = byte ^ draw.randrange(1, 256)
        yield f"byte {place} is {flipped}", good[:place] + bytes([flipped]) + good[place + 1 :]
    first, second = (len(string) + 8 for string in GOOD.strings)
    start = len(good) - first - second
    middle = start + first
    yield "sections swapped", good[:start] + good[middle:] + good[start:middle]
    yield "a section twice", good + good[middle:]
    yield "a section of another file", good[:middle] + replace(GOOD, width=66).pack()[middle:]
    yield "strings of another file", good[:start] + replace(GOOD, weights="0" * 16).pack()[start:]
    yield "one byte more", good + b"\0"
    yield "a line end more", good + b"\r\n"
    yield "another file behind", good + good
    yield "newer", assemble(version=3)
    yield "much newer", assemble(version=255, network=99)
    yield "version zero", assemble(version=0)
    yield "version 1 in the header of version 2", good[:8] + b"\x01" + good[9:]
    yield "newer arithmetic", assemble(arithmetic=2)
    yield "much newer arithmetic", assemble(arithmetic=255)
    yield "floating point in version 2", assemble(arithmetic=0)
    yield "first edition, cut", FIRST.pack()[:37]
    yield "first edition, one byte more", FIRST.pack() + b"\0"
    yield "unknown network", assemble(network=200)
    yield "unknown size", assemble(size=4)
    for name in ("N", "M", "width", "height"):
        yield f"zero {name}", assemble(**{name: 0})
    yield "huge", assemble(width=65535, height=65535)
    yield "a pixel too many", assemble(width=10001, height=10000)
    yield "no string", assemble(strings=(), count=0)
    yield "one string more", assemble(count=1)
    yield "255 strings", assemble(count=255)
    yield "verified twice", assemble(verified=2)
    yield "checksums of nothing", assemble(verified=0)
    yield "checksum of no image", assemble(verified=0, latents=0)
    yield "checksum of no latents", assemble(verified=0, image=0)
    yield "checksum of nothing in version 1", assemble(version=1, verified=0)
    yield "string of no whole words", assemble(strings=(b"123456789", b"12345678"))
    yield "string without a state", assemble(strings=(b"1234", b"12345678"))
    yield "empty string", assemble(strings=(b"", b"12345678"))
    yield "endless number of digits", assemble(strings=(b"12345678", b"\xff" * 64))
    yield "section of 4 GB", header() + b"\xff\xff\xff\xff" + good[start + 4 :]
    yield "line ends as on Unix", good.replace(b"\r\n", b"\n")
    yield "line ends as on Windows", good.replace(b"\n", b"\r\n")
    yield "seven bits", bytes(byte & 127 for byte in good)
    yield "as text", good.decode("latin-1").encode()
    yield "as text, replaced", good.decode(errors="replace").encode()
    yield "in hexadecimal", good.hex().encode()
    yield "backwards", good[::-1]
    yield "PNG", b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + bytes(100)
    yield "zeros", bytes(len(good))
    yield "longer than any", good + bytes(format_.MAX_BYTES)


BAD = dict(bad_files())
SAMPLE = (
    "cut after 0",
    "cut after 7",
    "cut after 8",
    "cut after 36",
    "cut after 37",
    "cut after 60",
    "byte 1",
    "byte 8",
)
SAMPLE += ("byte 20", "byte 38", "byte 60", "sections swapped", "newer", "zero width", "huge", "section of 4 GB")
SAMPLE += ("PNG", "longer than any")


def sample():
    return {name: next(data for full, data in BAD.items() if full.split(" is ")[0] == name) for name in SAMPLE}


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """Return a folder that contains all bad files, with numbers as their names."""
    folder = tmp_path_factory.mktemp("bad")
    for number, data in enumerate(BAD.values()):
        (folder / f"{number}.lkc").write_bytes(data)
    return folder


# The format -----------------------------------------------------------------------------------------------------------


def test_a_file_has_the_bytes_of_the_documented_table():
    assert GOOD.pack() == assemble() and Container.unpack(assemble()) == GOOD
    unverified = replace(GOOD, image_checksum=None, latents_checksum=None)
    assert unverified.pack() == assemble(verified=0, image=0, latents=0)
    assert Container.unpack(unverified.pack()) == unverified


def test_a_file_of_version_1_has_the_bytes_of_its_documented_table():
    assert FIRST.pack() == assemble(version=1) and Container.unpack(assemble(version=1)) == FIRST
    assert (FIRST.version, GOOD.version) == (1, 2) and len(FIRST.pack()) == len(GOOD.pack()) - 5
    unverified = replace(FIRST, image_checksum=None)
    assert unverified.pack() == assemble(version=1, verified=0, image=0)
    assert Container.unpack(unverified.pack()) == unverified


def test_the_text_says_where_a_file_decodes_and_what_was_verified():
    assert "decodes  on every machine (fixed-1 arithmetic)" in str(GOOD)
    assert "verified, checksums of the latents 01234567 and of the image 89abcdef" in str(GOOD)
    assert "decodes  on similar processors (floating-point arithmetic)" in str(FIRST)
    assert "verified, checksum of the image 89abcdef" in str(FIRST)
    assert "not verified" in str(replace(GOOD, image_checksum=None, latents_checksum=None))
    assert GOOD.summary() | {"version": 2, "arithmetic": "fixed-1", "latents_checksum": 0x01234567} == GOOD.summary()
    assert FIRST.summary() | {"version": 1, "arithmetic": "floating-point", "latents_checksum": None} == FIRST.summary()


def test_a_file_of_two_strings_has_58_bytes_of_overhead():
    assert GOOD.file_bytes == len(GOOD.pack()) == 58 + sum(map(len, GOOD.strings))
    assert GOOD.bpp == 8 * len(GOOD.pack()) / (65 * 48)


def test_the_numbers_of_the_networks_never_change():
    first = ["factorized_prior", "scale_hyperprior", "mean_scale_hyperprior", "joint_autoregressive"]
    first += ["cheng2020_anchor", "cheng2020_attention", "elic", "channel_autoregressive"]
    assert list(format_.NETWORKS[: len(first)]) == first and len(set(format_.NETWORKS)) == len(format_.NETWORKS)
    assert set(networks.names()) <= set(format_.NETWORKS)
    assert format_.SIZES == ("custom", "tiny", "small", "paper")
    assert {size for sizes in networks.SIZES.values() for size in sizes} < set(format_.SIZES)


def test_the_pixel_limit_equals_that_of_datasets():
    assert format_.MAX_PIXELS == datasets.MAX_PIXELS


words = st.binary(min_size=2, max_size=12).map(lambda half: half[: len(half) // 2 * 2] * 4)
checksums = st.none() | st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
containers = st.builds(
    lambda verified, first, **fields: Container(
        image_checksum=verified and verified[0],
        latents_checksum=None if first else verified and verified[1],
        arithmetic="floating-point" if first else "fixed-1",
        **fields,
    ),
    verified=checksums,
    first=st.booleans(),
    network=st.sampled_from(format_.NETWORKS),
    size=st.sampled_from(format_.SIZES),
    N=st.integers(1, 65535),
    M=st.integers(1, 65535),
    weights=st.binary(min_size=8, max_size=8).map(bytes.hex),
    width=st.integers(1, 10_000),
    height=st.integers(1, 10_000),
    strings=st.lists(words.filter(lambda string: b"\xff" * 16 not in string), min_size=1, max_size=12).map(tuple),
)


@settings(derandomize=True, deadline=None, max_examples=200)
@given(containers, st.data())
def test_packed_files_are_unpacked_and_changed_files_are_refused(container, data):
    packed = container.pack()
    assert Container.unpack(packed) == container
    burst = data.draw(st.binary(min_size=1, max_size=4).filter(any))  # a CRC-32 detects every burst of 32 bits
    place = data.draw(st.integers(0, len(packed) - len(burst)))
    changed = bytearray(packed)
    for offset, mask in enumerate(burst):
        changed[place + offset] ^= mask
    with pytest.raises(ValueError):
        Container.unpack(bytes(changed))
    with pytest.raises(ValueError):
        Container.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])
    with pytest.raises(ValueError):
        Container.unpack(packed + data.draw(st.binary(min_size=1, max_size=40)))


@settings(derandomize=True, deadline=None, max_examples=300)
@given(st.binary(max_size=80), st.integers(0, 2))
def test_random_bytes_cause_a_value_error(noise, depth):
    starts = (b"", format_.MAGIC, header())
    with pytest.raises(ValueError):
        Container.unpack(starts[depth] + noise)


@pytest.mark.parametrize(
    "changed, message",
    [
        ({"network": "elik"}, "network must be one of factorized_prior, .* got 'elik'"),
        ({"size": "huge"}, "size must be one of custom, tiny, small, paper, got 'huge'"),
        ({"N": 0}, "N must be 1 to 65,535, got 0"),
        ({"width": 65536}, "width must be 1 to 65,535, got 65,536"),
        ({"width": 10_001, "height": 10_000}, "must be at most 100,000,000 pixels, got 10001×10000"),
        ({"weights": "xyz"}, "weights must be 16 hexadecimal digits, got 'xyz'"),
        ({"image_checksum": -1}, "image_checksum must be a CRC-32, got -1"),
        ({"latents_checksum": 2**32}, "latents_checksum must be a CRC-32, got 4294967296"),
        ({"latents_checksum": None}, "latents_checksum must be set if and only if image_checksum is, and never in ver"),
        (
            {"arithmetic": "floating-point"},
            "if and only if .* got 19088743 with image_checksum 2309737967 in version 1",
        ),
        ({"arithmetic": "fixed-0"}, "arithmetic must be one of floating-point, fixed-1, got 'fixed-0'"),
        ({"strings": ()}, "the number of strings must be 1 to 255, got 0"),
        ({"strings": (bytes(9),)}, "string 1 must have 8, 12, 16, … bytes, got 9"),
        ({"strings": (bytes(8), b"\xff" * 16)}, "string 2 has 16 consecutive bytes of 255"),
        ({"strings": (bytes(2**26),)}, "the file must have at most 67,108,864 bytes"),
    ],
)
def test_the_error_names_a_field_that_is_out_of_range(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(GOOD, **changed)


# On disk --------------------------------------------------------------------------------------------------------------


def test_a_written_file_has_ordinary_permissions_and_leaves_no_other_file(tmp_path):
    path = tmp_path / "a.lkc"
    GOOD.write(path)
    assert Container.read(path) == GOOD and os.listdir(tmp_path) == ["a.lkc"]
    (tmp_path / "ordinary").write_bytes(b"")
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE((tmp_path / "ordinary").stat().st_mode)
    replace(GOOD, width=9).write(path)
    assert Container.read(path).width == 9


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_write_leaves_only_the_old_file(tmp_path, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    path = tmp_path / "a.lkc"
    path.write_text("old")
    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ValueError, match=r"a\.lkc cannot be written: No space left on device"):
        GOOD.write(path)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["a.lkc"]


def test_the_error_names_a_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"absent/a\.lkc cannot be written: No such file or directory"):
        GOOD.write(tmp_path / "absent" / "a.lkc")


# Bad files ------------------------------------------------------------------------------------------------------------


def check_error(output, status, path):
    lines = output.splitlines()
    assert status == 2 and len(lines) == 1 and lines[0].startswith(f"labkit: {path}"), (path, lines)
    assert len(lines[0]) < len(str(path)) + 120 and "Traceback" not in lines[0]


@pytest.mark.parametrize("version", [1, 2])
def test_every_cut_every_flipped_bit_and_every_byte_behind_is_refused_in_one_line(version):
    good = {1: FIRST, 2: GOOD}[version].pack()
    changed = [good[:n] for n in range(len(good))] + [good + bytes([n]) for n in range(256)]
    for place, bit in itertools.product(range(len(good)), range(8)):
        changed.append(good[:place] + bytes([good[place] ^ 1 << bit]) + good[place + 1 :])
    for data in changed:
        with pytest.raises(ValueError) as caught:
            Container.unpack(data)
        assert "\n" not in str(caught.value) and len(str(caught.value)) < 120


def test_there_are_at_least_200_bad_files():
    assert len(BAD) >= 200 and len(set(BAD.values())) == len(BAD)


@pytest.mark.parametrize("name", [*BAD, "folder", "missing"])
def test_a_bad_file_causes_an_error_of_one_line_and_changes_no_file(name, bad, tmp_path):
    path = bad / f"{list(BAD).index(name)}.lkc" if name in BAD else bad if name == "folder" else bad / "none.lkc"
    kept, fresh = tmp_path / "kept.png", tmp_path / "fresh.png"
    kept.write_text("my own")
    for arguments in (["info", path], ["decompress", path, "-o", fresh], ["decompress", path, "--force", "-o", kept]):
        done = CliRunner().invoke(main, [str(argument) for argument in arguments])
        check_error(done.output, done.exit_code, path)
    assert os.listdir(tmp_path) == ["kept.png"] and kept.read_text() == "my own"


@pytest.mark.parametrize(
    "name, message",
    [
        ("cut after 0", "the file is empty"),
        ("cut after 5", "it ends after 5 bytes, inside its header"),
        ("newer", "a newer labkit wrote it: its format has version 3, this labkit reads 2"),
        ("newer arithmetic", "a newer labkit wrote it: this labkit does not know its arithmetic (number 2)"),
        ("floating point in version 2", "its header has values that labkit never writes"),
        ("zero width", "width must be 1 to 65,535, got 0"),
        ("huge", "must be at most 100,000,000 pixels, got 65535×65535"),
        ("section of 4 GB", "string 1 of 2 claims 4,294,967,295 bytes, more than are left"),
        ("sections swapped", "string 1 of 2 does not match its checksum"),
        ("one byte more", "1 bytes follow its last string"),
        ("line ends as on Unix", "as in a transfer in text mode"),
        ("seven bits", "as in a transfer in text mode"),
        ("as text, replaced", "as in a transfer in text mode"),
        ("PNG", "it is not a .lkc file"),
        ("longer than any", "longer than 67,108,864 bytes"),
    ],
)
def test_error_messages_name_the_damage(name, message):
    with pytest.raises(ValueError) as caught:
        Container.unpack(BAD[name])
    assert message in str(caught.value)


def test_bad_files_are_rejected_without_torch(bad):
    """Read all bad files in an interpreter that cannot import torch, NumPy or Pillow."""
    code = (
        "import sys; sys.modules.update(dict.fromkeys(('torch', 'numpy', 'PIL', 'compressai'))); import labkit.cli\n"
        "from click.testing import CliRunner\n"
        f"for n in range({len(BAD)}):\n"
        "    for arguments in (['info'], ['decompress', '-o', sys.argv[1] + '/never.png']):\n"
        "        done = CliRunner().invoke(labkit.cli.main, [*arguments, f'{sys.argv[1]}/{n}.lkc'])\n"
        "        print(n, done.exit_code, len(done.output.splitlines()))\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(bad)], capture_output=True, text=True, check=True)
    expected = [f"{n} 2 1" for n in range(len(BAD)) for _ in range(2)]
    assert done.stdout.splitlines() == expected and not (bad / "never.png").exists()


SPAWN = """
import json, os, sys
for path in json.load(sys.stdin):
    read, write = os.pipe()
    act = [(os.POSIX_SPAWN_DUP2, write, 2), (os.POSIX_SPAWN_DUP2, write, 1), (os.POSIX_SPAWN_CLOSE, read)]
    command = [sys.executable, "-m", "labkit.cli", "decompress", path, "-o", path + ".png"]
    child = os.posix_spawn(sys.executable, command, os.environ, file_actions=act)
    os.close(write)
    output = open(read, encoding="utf-8").read()
    _, status, usage = os.wait4(child, 0)
    seconds = usage.ru_utime + usage.ru_stime
    print(json.dumps([path, os.waitstatus_to_exitcode(status), output, seconds, usage.ru_maxrss / 1024]), flush=True)
"""


def measure(paths):
    """Run `labkit decompress` on each file; return its exit status, output, CPU seconds and peak memory in MB.

    CPU seconds hardly depend on other programs, which would slow down a measurement of elapsed time. A small
    process starts the commands, because the peak memory of a child on Linux includes that of its parent.
    """
    spawn = [sys.executable, "-c", SPAWN]
    done = subprocess.run(spawn, input=json.dumps(paths), capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def check_processes(paths):
    rows = measure(paths)
    assert [row[0] for row in rows] == paths
    for path, status, output, _, _ in rows:
        check_error(output, status, path)
        assert not os.path.exists(path + ".png")
    slow = [row[0] for row in rows if row[3] >= 1 or row[4] >= 200]
    again = measure(slow)  # another program may have slowed down the first attempt
    assert all(seconds < 1 and peak < 200 for *_, seconds, peak in again), again


@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory of a process is read with wait4")
def test_a_sample_of_bad_files_takes_under_a_second_and_200_megabytes(tmp_path):
    paths = []
    for number, data in enumerate(sample().values()):
        (tmp_path / f"{number}.lkc").write_bytes(data)
        paths.append(str(tmp_path / f"{number}.lkc"))
    check_processes([*paths, str(tmp_path), str(tmp_path / "absent.lkc")])


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "wait4"), reason="peak memory of a process is read with wait4")
def test_every_bad_file_takes_under_a_second_and_200_megabytes(bad):
    check_processes([str(bad / f"{number}.lkc") for number in range(len(BAD))])
