"""`fcm image build`: what its script lacks is named, and whatever ends it leaves nothing."""
import os
import signal
import subprocess
import time

import pytest


@pytest.fixture
def place(fcm, tmp_path):
    """A directory of programs that go before the real ones, and one for what is built."""
    for name in ("bin", "scratch"):
        (tmp_path / name).mkdir()
    fcm.env |= {"PATH": f"{tmp_path / 'bin'}:{fcm.env['PATH']}", "TMPDIR": str(tmp_path / "scratch")}

    def add(name, text):
        (tmp_path / "bin" / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / "bin" / name).chmod(0o755)
    return add, tmp_path / "scratch"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_ended(fcm, place, sig):
    add, scratch = place
    add("apt-cache", f"echo $$ >{scratch}/pid; exec sleep 60")
    child = subprocess.Popen([fcm.binary, "image", "build", "tiny"], env=fcm.env, stdin=subprocess.DEVNULL,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    deadline = time.monotonic() + 20
    while not (scratch / "pid").exists() or not (scratch / "pid").read_text():
        assert time.monotonic() < deadline and child.poll() is None
        time.sleep(0.02)
    child.send_signal(sig)
    assert child.wait(20) == 1 and f"was ended by signal {sig.value}" in child.communicate()[1].decode()
    pid = int((scratch / "pid").read_text())
    while time.monotonic() < deadline and os.path.exists(f"/proc/{pid}"):
        time.sleep(0.02)
    assert not os.path.exists(f"/proc/{pid}")
    (scratch / "pid").unlink()
    assert not list(scratch.iterdir())


def test_failed(fcm, place):
    add, scratch = place
    add("apt-cache", "exit 1")
    add("apt-get", "exit 100")
    done = fcm("image", "build", "tiny")
    assert done.status == 1 and "does 'apt-get update' work here?" in done.err and not list(scratch.iterdir())
