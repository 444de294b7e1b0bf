"""What ends a command leaves nothing behind: no half file, no raw terminal; and who said nohup(1) meant it."""
import fcntl
import os
import pty
import select
import signal
import subprocess
import termios
import time

import pytest

ENDINGS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT]


@pytest.fixture
def spawn(fcm):
    """spawn(*argv, ...) on a terminal of its own: (child, master, is the terminal as it was?)."""
    opened, children = [], []

    def run(*argv, ignore=None, **more):
        master, slave = pty.openpty()
        opened.extend((master, slave))
        before = termios.tcgetattr(slave)

        def prepare():
            fcntl.ioctl(0, termios.TIOCSCTTY, 0)
            if ignore:
                signal.signal(ignore, signal.SIG_IGN)
        child = subprocess.Popen([fcm.binary, *argv], env=fcm.env | more.pop("env", {}), start_new_session=True, preexec_fn=prepare,
                                 **{"stdin": slave, "stdout": slave, "stderr": slave} | more)
        children.append(child)
        return child, master, lambda: termios.tcgetattr(slave) == before
    yield run
    for child in children:
        child.kill()
        child.wait()
    for fd in opened:
        os.close(fd)


def read_until(master, word):
    shown = b""
    while word not in shown:
        assert select.select([master], [], [], 20)[0], shown
        shown += os.read(master, 65536)
    return shown


def wait_for(what):
    for _ in range(1000):
        if what():
            return
        time.sleep(0.01)
    pytest.fail("it didn't come")


@pytest.fixture
def exporting(spawn, daemon, tmp_path):
    """exporting(...): one that has half of its file and shows its progress: (child, master, its directory)."""
    folder = tmp_path / "out"
    folder.mkdir()
    daemon.goes_on.clear()

    def begin(**more):
        child, master, _ = spawn("snapshot", "export", "-o", str(folder / "x"), "warm", **more)
        read_until(master, b"export warm")
        wait_for(lambda: [file.stat().st_size for file in folder.iterdir()] == [3500])
        return child, master, folder
    yield begin
    daemon.goes_on.set()


@pytest.mark.parametrize("number", ENDINGS)
def test_export_takes_its_part_away(exporting, number):
    child, master, folder = exporting()
    if number == signal.SIGINT:
        os.write(master, b"\x03")
    else:
        child.send_signal(number)
    assert child.wait(10) == -number
    assert not list(folder.iterdir())
    assert read_until(master, b"\r\x1b[K").endswith(b"\r\x1b[K")


@pytest.mark.parametrize("number", ENDINGS)
def test_what_is_ignored_ends_nothing(exporting, daemon, number):
    child, _, folder = exporting(ignore=number)
    child.send_signal(number)
    daemon.goes_on.set()
    assert child.wait(10) == 0 and (folder / "x").stat().st_size == 7000


def test_console_whose_reader_went_away(spawn):
    """fcm console web | head"""
    reader, writer = os.pipe()
    child, master, is_restored = spawn("console", "web", stdout=writer)
    os.close(writer)
    assert os.read(reader, 6) == b"hello\n"
    os.close(reader)
    os.write(master, b"x")
    assert child.wait(10) == 1
    assert is_restored()


SKOPEO = """#!/bin/sh
echo here >&2
exec sleep 60
"""


@pytest.fixture
def importing(spawn, tmp_path):
    """importing(...): one whose skopeo runs."""
    (tmp_path / "skopeo").write_text(SKOPEO)
    (tmp_path / "skopeo").chmod(0o755)
    (tmp_path / "tmp").mkdir()

    def begin(**more):
        env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "TMPDIR": str(tmp_path / "tmp")}
        child, master, _ = spawn("image", "import", "docker-daemon:nginx", env=env, **more)
        read_until(master, b"here")
        return child, master
    yield begin
    assert not list((tmp_path / "tmp").iterdir())


@pytest.mark.parametrize("number", ENDINGS)
def test_a_child_ends_with_us(importing, number):
    child, _ = importing()
    child.send_signal(number)
    assert child.wait(10) == 1


def test_a_child_goes_on_when_we_do(importing):
    child, master = importing(ignore=signal.SIGHUP)
    child.send_signal(signal.SIGHUP)
    os.write(master, b"\x03")
    assert child.wait(10) == 1
    read_until(master, b"was ended by signal 2")
