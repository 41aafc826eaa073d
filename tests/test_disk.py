"""A file is either complete or unchanged, however writing ends, and has the permissions of a new file."""

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


@pytest.fixture(params=[True, False], ids=["existing", "absent"])
def path(request, tmp_path):
    path = tmp_path / "net.bin"
    if request.param:
        path.write_bytes(b"old")
    return path


@pytest.fixture
def unchanged(path):
    """Return a function that tells whether the folder is unchanged."""
    before = {file.name: file.read_bytes() for file in path.parent.iterdir()}
    return lambda: {file.name: file.read_bytes() for file in path.parent.iterdir()} == before


def test_the_file_does_not_change_before_writing_ends(path):
    with whole(path) as temporary:
        assert temporary.parent == path.parent and TEMPORARY.fullmatch(temporary.name)
        assert temporary.read_bytes() == b""
        temporary.write_bytes(NEW)
        assert not path.exists() or path.read_bytes() == b"old"
    assert path.read_bytes() == NEW and os.listdir(path.parent) == ["net.bin"]
    write_whole(str(path), b"newer")
    assert path.read_bytes() == b"newer" and os.listdir(path.parent) == ["net.bin"]


@pytest.mark.parametrize("error", [ZeroDivisionError, ValueError, KeyboardInterrupt, GeneratorExit])
def test_an_error_in_the_block_propagates_and_leaves_the_folder_unchanged(path, unchanged, error):
    with pytest.raises(error, match="in the middle"), whole(path) as temporary:
        temporary.write_bytes(NEW)
        raise error("in the middle")
    assert unchanged()


def test_a_writer_can_remove_its_unfinished_file(path, unchanged):
    """pyarrow does so after an error."""
    with pytest.raises(ZeroDivisionError), whole(path) as temporary:
        temporary.unlink()
        raise ZeroDivisionError
    assert unchanged()


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_step_raises_an_error_and_leaves_the_folder_unchanged(path, unchanged, monkeypatch, step):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, step, fail)
    with pytest.raises(ValueError, match=r"/net\.bin cannot be written: No space left on device$"):
        write_whole(path, NEW)
    assert unchanged()


def python(code, *arguments, **options):
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], text=True, **options)


def test_a_write_that_the_system_ends_leaves_the_folder_unchanged(path, unchanged):
    """A limit on the size of files ends the write in the middle, as a full disk does."""
    code = """
import resource, sys
from labkit.disk import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write_whole(sys.argv[1], bytes(150_000))
except ValueError as error:
    print(error)
"""
    output, _ = python(code, path, stdout=subprocess.PIPE).communicate(timeout=30)
    assert output == f"{path} cannot be written: File too large\n" and unchanged()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_process_leaves_the_old_file_and_a_recognizable_temporary_file(path, signal_number):
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
    process.send_signal(signal_number)
    process.communicate(timeout=30)
    assert process.returncode == -signal_number
    (leftover,) = [file for file in path.parent.iterdir() if file != path]
    assert TEMPORARY.fullmatch(leftover.name) and leftover.read_bytes() == b"half"
    assert path.exists() == before and (not before or path.read_bytes() == b"old")
    write_whole(path, NEW)  # the leftover file does not prevent another write
    assert path.read_bytes() == NEW


def test_the_complete_file_is_on_disk_before_it_is_renamed(tmp_path, monkeypatch):
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
def test_a_file_has_the_permissions_of_a_new_file(path, umask, mode):
    before = os.umask(umask)
    try:
        write_whole(path, NEW)
        assert stat.S_IMODE(path.stat().st_mode) == mode
        with whole(path) as temporary:  # some writers, such as safetensors, rename a private file
            (path.parent / "own").touch(0o600)
            os.replace(path.parent / "own", temporary)
        assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b""
    finally:
        os.umask(before)


def test_a_symbolic_link_is_followed(tmp_path):
    (tmp_path / "far").mkdir()
    (tmp_path / "far" / "net.bin").write_bytes(b"old")
    (tmp_path / "link").symlink_to("far/net.bin")
    write_whole(tmp_path / "link", NEW)
    assert (tmp_path / "link").is_symlink() and (tmp_path / "far" / "net.bin").read_bytes() == NEW
    assert sorted(os.listdir(tmp_path)) == ["far", "link"] and os.listdir(tmp_path / "far") == ["net.bin"]


def test_a_pipe_stays_a_pipe(tmp_path):
    """This also protects /dev/null, which a rename by root would replace with a file."""
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
def test_the_error_names_the_file_that_cannot_be_written(tmp_path, name, reason):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_bytes(b"old")
    with pytest.raises(ValueError, match=rf"{name} cannot be written: {reason}$"):
        write_whole(tmp_path / name, NEW)
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and os.listdir(tmp_path / "folder") == []
