"""Fixtures of the drivers' contract.

make  make(kind, id="contract"): a machine of that kind (machines.KINDS), ended after the test
vm    one of each kind that is asked for
note  note("text"): a line for the summary, for figures
"""
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

sys.path[:0] = [str(Path(__file__).resolve().parent), str(Path(__file__).resolve().parents[2])]
import machines  # noqa: E402  pylint: disable=wrong-import-position
from oci import ext4_of  # noqa: E402  pylint: disable=wrong-import-position

CLONE_NEWNET = 0x40000000
LARGE = 1 << 20  # bytes of a file that isn't kept after its test
NOTES = []


@pytest.fixture(scope="module", autouse=True)
def network():
    """A network namespace for this file only."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    yield
    libc.setns(before, CLONE_NEWNET)
    os.close(before)


@pytest.fixture(scope="session")
def assets(tmp_path_factory):
    """vmlinux, initrd and image.ext4; for the scripted VMMs, which read none of it, empty ones do."""
    folder = tmp_path_factory.mktemp("assets")
    if machines.REAL:
        subprocess.run(["tar", "-xf", machines.ASSETS / "kernel.tar", "-C", folder, "vmlinux", "initrd"], check=True)
        ext4_of(machines.ASSETS / "tiny.tar", folder / "image.ext4")
    else:
        for name in ("vmlinux", "initrd", "image.ext4"):
            (folder / name).touch()
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o111)
    for path in folder.iterdir():
        path.chmod(0o444)
    return folder


@pytest.fixture
def make(tmp_path, assets):
    made = []
    tmp_path.chmod(0o711)

    def start(kind, ident="contract", **more):
        folder, uid = tmp_path / f"{ident}-{len(made)}", machines.UID + len(made)
        made.append(machines.Vm(kind, folder, assets, ident, uid, **more))
        return made[-1]
    yield start
    for machine in made:
        machine.close()
    for path in tmp_path.rglob("*"):
        if path.is_file() and path.stat().st_size > LARGE:
            path.unlink()


@pytest.fixture(params=machines.ASKED)
def vm(request, make):
    machine = make(request.param)
    machines.COVERED.add(request.param)
    return machine


@pytest.fixture
def note():
    return NOTES.append


def pytest_terminal_summary(terminalreporter):
    for line in NOTES:
        terminalreporter.write_line(f"note {line}")
