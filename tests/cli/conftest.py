"""Tests of the client's words: stdout, stderr and exit status of the shipped `fcm` against tests/cli/fake_daemon.py.

    python3 -m pytest tests/cli --fcm build/client/fcm        (or FCM_BIN, or FCM_BUILD)
    ... --update                                              writes tests/cli/golden anew: read the diff
"""
import fcntl
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import fake_daemon  # noqa: E402


def pytest_addoption(parser):
    parser.addoption("--fcm", help="the fcm to test")
    parser.addoption("--update", action="store_true", help="write the golden files anew")


@pytest.fixture(scope="session")
def binary(request):
    build = os.environ.get("FCM_BUILD", str(HERE.parent.parent / "build"))
    path = request.config.getoption("--fcm") or os.environ.get("FCM_BIN") or f"{build}/client/fcm"
    if not os.access(path, os.X_OK):
        pytest.skip(f"no fcm at {path}: build it first")
    return str(Path(path).resolve())


class Result:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


class Client:
    """One user with a home of their own and, unless told otherwise, a token for the fake daemon."""

    def __init__(self, binary, home, daemon):
        self.binary, self.home, self.daemon = binary, home, daemon
        self.env = {"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8", "FCM_URL": daemon.url,
                    "TERM": "xterm", "XDG_RUNTIME_DIR": str(home / "run")}
        self.token_file = home / ".fcm-token"
        self.write_token(fake_daemon.TOKEN + "\n")

    def write_token(self, text, mode=0o600):
        self.token_file.write_text(text)
        self.token_file.chmod(mode)

    def __call__(self, *argv, env=None, input=None):
        done = subprocess.run([self.binary, *argv], env=self.env | (env or {}), input=input, capture_output=True,
                              timeout=30)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def shell(self, words):
        """The same by a shell, with its redirections."""
        done = subprocess.run(["sh", "-c", f'"$0" {words}', self.binary], env=self.env, capture_output=True, timeout=30)
        return Result(done.returncode, done.stdout.decode(), done.stderr.decode())

    def on_terminal(self, *argv, width=80, rows=40, env=None, interrupt_after=None):
        """The same with stdout and stderr on a terminal of that width; what it showed is in .out."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", rows, width, 0, 0))
        child = subprocess.Popen([self.binary, *argv], env=self.env | (env or {}), stdin=subprocess.DEVNULL, stdout=slave,
                                 stderr=slave)
        os.close(slave)
        if interrupt_after is not None:
            time.sleep(interrupt_after)
            child.send_signal(signal.SIGINT)
        shown = b""
        try:
            while piece := os.read(master, 65536):
                shown += piece
        except OSError:  # EIO: the other side is closed
            pass
        os.close(master)
        return Result(child.wait(timeout=30), shown.decode().replace("\r\n", "\n"), "")


@pytest.fixture
def daemon():
    server = fake_daemon.start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fcm(binary, tmp_path, daemon):
    return Client(binary, tmp_path, daemon)


@pytest.fixture
def golden(request):
    """golden(name, text): the text is that of tests/cli/golden/<name>; ages and the version are made constant."""
    def check(name, text):
        text = re.sub(r"\b\d{3,5}d\b", lambda m: "9" * (len(m[0]) - 1) + "d", text)
        path = HERE / "golden" / name
        if request.config.getoption("--update"):
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)
        assert text == path.read_text(), f"differs from {path}"
    return check
