"""The wheel is complete and works outside the checkout, and `labkit lessons` serves lesson 00."""

import json
import os
import shutil
import socket
import subprocess
import sys
import sysconfig
import time
import urllib.error
import urllib.request
import venv
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[1]

CHECK = """
import labkit as lk, pathlib, sys
assert pathlib.Path(lk.__file__).is_relative_to(sys.prefix), lk.__file__
assert len(lk.datasets.photos("train")) >= 48 and len(lk.datasets.photos("test")) >= 12
from labkit.research import study
assert all(study.Study(name, "work", "out").declaration["claim"] for name in study.CLAIMS)
net = lk.networks.pretrained()
report = lk.evaluate(net, lk.datasets.photos("test")[:1], progress=False)
print(report.mean["bpp"])
"""


@pytest.mark.slow
def test_the_wheel_works_outside_the_checkout(tmp_path):
    """Build the wheel, install it into a new environment that shares the dependencies, and run it in another folder."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "__pycache__", ".*_cache")
    shutil.copytree(ROOT, source, ignore=ignore)
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "-w", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    shutil.rmtree(source)
    environment = tmp_path / "env"
    venv.create(environment, with_pip=False, symlinks=True)
    site = Path(sysconfig.get_path("purelib", "venv", {"base": str(environment)}))
    subprocess.run([*pip, "--python", environment / "bin/python", "install", "--no-deps", wheel], check=True)
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")

    run = {
        "cwd": tmp_path,
        "check": True,
        "env": {**os.environ, "PYTHONPATH": ""},
        "capture_output": True,
        "text": True,
    }
    process = subprocess.run([environment / "bin/python", "-W", "ignore", "-c", CHECK], **run)
    assert float(process.stdout) > 0.01
    subprocess.run([environment / "bin/labkit", "lessons", "--to", "course"], **run)
    assert (tmp_path / "course" / "00_start_here.ipynb").is_file()


@pytest.mark.slow
def test_labkit_lessons_serves_lesson_00_until_it_is_stopped(tmp_path):
    """In a checkout, the server of `labkit lessons` opens lesson 00, and stopping the command stops the server."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    variables = {f"JUPYTER_{name}_DIR": str(tmp_path / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    token = "a-token-of-the-test"
    server = subprocess.Popen(
        [sys.executable, "-m", "labkit.cli", "lessons", "--no-browser", "--port", str(port)],
        cwd=tmp_path,
        env={**os.environ, **variables, "JUPYTER_TOKEN": token},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        address = f"http://127.0.0.1:{port}"
        request = urllib.request.Request(
            f"{address}/api/contents/00_start_here.ipynb", headers={"Authorization": f"token {token}"}
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                with urllib.request.urlopen(request, timeout=5) as response:
                    lesson = json.load(response)
                break
            except (urllib.error.URLError, ConnectionError, TimeoutError):
                assert server.poll() is None, "the server ended"
                assert time.monotonic() < deadline, "no answer within 60 s"
                time.sleep(0.2)
        assert lesson["type"] == "notebook" and lesson["content"]["cells"]
        with urllib.request.urlopen(f"{address}/lab/tree/00_start_here.ipynb?token={token}", timeout=20) as page:
            assert page.status == 200 and b"jupyter-config-data" in page.read()
    finally:
        processes = [psutil.Process(server.pid), *psutil.Process(server.pid).children(recursive=True)]
        server.terminate()
        server.wait(20)
    assert psutil.wait_procs(processes, timeout=10)[1] == [], "processes are left after labkit lessons was stopped"
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(address, timeout=5)
