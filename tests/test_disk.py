"""Files are whole or as they were, whatever ends the writing, and have the permissions that new files have."""

import os
import re
import signal
import stat
import subprocess
import sys
import threading

import pytest

from labkit.disk import whole, write_whole

NEW = b"new" * 50_000
TEMPORARY = re.compile(r"\.net\.bin\.[0-9a-f]{8}\.tmp")


@pytest.fixture(params=[True, False], ids=["there", "absent"])
def path(request, tmp_path):
    path = tmp_path / "net.bin"
    if request.param:
        path.write_bytes(b"old")
    return path


@pytest.fixture
def as_before(path):
    """Whether the folder is as it was."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    return lambda: {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_nothing_is_seen_before_the_end(path):
    with whole(path) as temporary:
        assert temporary.parent == path.parent and TEMPORARY.fullmatch(temporary.name)
        assert temporary.read_bytes() == b""
        temporary.write_bytes(NEW)
        assert not path.exists() or path.read_bytes() == b"old"
    assert path.read_bytes() == NEW and os.listdir(path.parent) == ["net.bin"]
    write_whole(str(path), b"newer")
    assert path.read_bytes() == b"newer" and os.listdir(path.parent) == ["net.bin"]


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_in_the_block_passes_and_leaves_everything_as_it_was(path, as_before, error):
    with pytest.raises(error, match="in the middle"), whole(path) as temporary:
        temporary.write_bytes(NEW)
        raise error("in the middle")
    assert as_before()


def test_a_writer_that_removes_what_it_could_not_finish(path, as_before):
    """As pyarrow does."""
    with pytest.raises(ZeroDivisionError), whole(path) as temporary:
        temporary.unlink()
        raise ZeroDivisionError
    assert as_before()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_step_that_fails_is_named_and_leaves_everything_as_it_was(path, as_before, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ValueError, match=r"/net\.bin cannot be written: No space left on device$"):
        write_whole(path, NEW)
    assert as_before()


def python(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **options)


def test_a_disk_that_is_full_in_the_middle(path, as_before):
    """The system itself ends the write: a process may be kept from writing files over a size."""
    code = """
import resource, sys
from labkit.disk import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_whole(sys.argv[1], bytes(150_000))
except ValueError as error:
    print(error)
"""
    said, _ = python(code, path, stdout=subprocess.PIPE).communicate(timeout=30)
    assert said == f"{path} cannot be written: File too large\n" and as_before()


@pytest.mark.parametrize("way", [signal.SIGKILL, signal.SIGTERM])
def test_a_process_that_is_killed_leaves_the_old_file_and_a_name_that_says_so(path, way):
    before = path.exists()
    code = """
import sys, time
from labkit.disk import whole
with whole(sys.argv[1]) as temporary, open(temporary, "wb") as file:
    file.write(b"half")
    file.flush()
    print("half", flush=True)
    time.sleep(60)
"""
    process = python(code, path, stdout=subprocess.PIPE)
    assert process.stdout.readline() == "half\n"
    process.send_signal(way)
    process.communicate(timeout=30)
    assert process.returncode == -way
    (left,) = [file for file in path.parent.iterdir() if file != path]
    assert TEMPORARY.fullmatch(left.name) and left.read_bytes() == b"half"
    assert path.exists() == before and (not before or path.read_bytes() == b"old")
    write_whole(path, NEW)  # what is left does not stand in the way
    assert path.read_bytes() == NEW


def test_the_disk_has_all_of_it_before_its_name_changes(tmp_path, monkeypatch):
    steps, fsync, replace = [], os.fsync, os.replace

    def recorded_fsync(file):
        fsync(file)
        steps.append(("fsync", os.fstat(file).st_ino, os.fstat(file).st_size))

    def recorded_replace(source, target):
        steps.append(("replace", os.stat(source).st_ino, os.stat(source).st_size))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded_fsync)
    monkeypatch.setattr(os, "replace", recorded_replace)
    write_whole(tmp_path / "net.bin", NEW)
    written = os.stat(tmp_path / "net.bin").st_ino, len(NEW)
    assert steps == [("fsync", *written), ("replace", *written)]


@pytest.mark.parametrize("umask, mode", [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_new_files(path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(path, NEW)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        with whole(path) as temporary:  # a writer with a file of its own, for its owner alone, as safetensors has
            (path.parent / "own").touch(0o600)
            os.replace(path.parent / "own", temporary)
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b""
    finally:
        os.umask(before)


def test_a_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "net.bin").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/net.bin")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "net.bin").read_bytes() == NEW
    assert sorted(os.listdir(tmp_path)) == ["far", "link"] and os.listdir(tmp_path / "far") == ["net.bin"]


def test_a_pipe_stays_one(tmp_path):
    """So would /dev/null, where a rename by root would leave a file in its place."""
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    with pytest.raises(ValueError, match=r"/pipe cannot be written: it is a device or a pipe"), whole(pipe):
        raise AssertionError("the block was run")
    reader = threading.Thread(target=lambda: read.append(pipe.read_bytes()), daemon=True)
    reader.start()
    write_whole(pipe, NEW)
    reader.join(30)
    assert read == [NEW] and stat.S_ISFIFO(pipe.stat().st_mode) and os.listdir(tmp_path) == ["pipe"]


@pytest.mark.parametrize(
    "name, reason",
    [
        ("absent/net.bin", "No such file or directory"),
        ("file/net.bin", "Not a directory"),
        ("folder", "Is a directory"),
        ("n" * 300, "File name too long"),
    ],
)
def test_what_cannot_be_written_is_named(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match=rf"{name} cannot be written: {reason}$"):
        write_whole(tmp_path / name, NEW)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and os.listdir(tmp_path / "folder") == []
