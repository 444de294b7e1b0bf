"""fcm-oci's job `unpack`: what fcm snapshot export and tar(1) write, and what strangers may send instead.

Needs root, as the program does.
"""
import os
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import oci  # noqa: E402
from oci import tar  # noqa: E402

UID = 64125
DISK = b"\0" * 70000 + b"data" + b"\0" * 9000
FILES = {"snapshot.json": b"{}", "disk": DISK, "memory": b"m" * 5000, "state": b"devices"}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def zstd(data):
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


ALLOWED = ("snapshot.json", "disk", "memory", "state", "volume0")


def whole(*members, files=FILES):
    return tar([*files.items(), *members])


class Unpack(oci.Job):
    def __init__(self, path, data, **plan):
        self.folder = path / "dir"
        self.folder.mkdir()
        os.chown(self.folder, UID, UID)
        read, write = os.pipe()
        rows = {"job": "unpack", "of": "snapshot", "uid": UID, "max": 1 << 30, **plan}
        super().__init__([*rows.items(), *(("file", name) for name in ALLOWED)], {oci.DIR: os.open(self.folder, os.O_RDONLY), oci.IN: read})
        threading.Thread(target=oci.send, args=(write, data), daemon=True).start()


def refused(path, data, *words, code="INVALID", **plan):
    answer = Unpack(path, data, **plan).answer()
    assert answer.get("code", "").upper() == code, answer
    for word in words:
        assert word in answer["error"] and answer["error"].isprintable(), answer


@pytest.mark.parametrize("pack", [bytes, zstd])
def test_whole(tmp_path, pack):
    job = Unpack(tmp_path, pack(whole()))
    answer = job.answer()
    assert "ok" in answer, answer
    assert {x.name: x.read_bytes() for x in job.folder.iterdir()} == FILES
    assert (job.folder / "disk").stat().st_blocks * 512 < 30000  # its holes are holes


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.99])
def test_cut(tmp_path, kept):
    data = zstd(whole())
    refused(tmp_path, data[:int(len(data) * kept)], "not a good archive")


@pytest.mark.parametrize("name", ["../passwd", "/etc/passwd", "././disk", "./../passwd", "./", "disk/x", "..", "volume1", "a\x1b[2Jb", "x" * 300])
def test_other_names(tmp_path, name):
    refused(tmp_path, zstd(whole((name, b"x"))), "is no file of a snapshot")
    assert not (tmp_path / "passwd").exists()


@pytest.mark.parametrize("name", ["disk", "./disk"])
def test_twice(tmp_path, name):
    refused(tmp_path, whole((name, DISK)), f"'{name}' comes twice")


@pytest.mark.parametrize("options", ["--format=gnu -S", "--format=pax -S", "--format=ustar", "--format=gnu -S -z", "--format=pax --zstd",
                                     "--format=gnu -b 512"])
def test_as_tar_writes_it(tmp_path, options):
    """Sparse files of two formats, compressed, padded."""
    disk = b"\0" * 60_000_000 + b"the end" + b"\0" * 5000
    (tmp_path / "in").mkdir()
    for name, data in {**FILES, "disk": disk}.items():
        (tmp_path / "in" / name).write_bytes(data)
    subprocess.run(["fallocate", "--dig-holes", tmp_path / "in/disk"], check=True)
    data = subprocess.run(["tar", "-C", tmp_path / "in", *options.split(), "-cf", "-", "."], capture_output=True, check=True).stdout
    refused(tmp_path, data, "is no file of a snapshot")  # a directory
    names = [f"./{name}" for name in FILES]
    data = subprocess.run(["tar", "-C", tmp_path / "in", *options.split(), "-cf", "-", *names], capture_output=True, check=True).stdout
    again = tmp_path / "again"
    again.mkdir()
    job = Unpack(again, data)
    answer = job.answer()
    assert "ok" in answer, answer
    assert (job.folder / "disk").read_bytes() == disk and (job.folder / "disk").stat().st_blocks * 512 < 100_000


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE])
def test_no_file(tmp_path, kind):
    bad = ("volume0", b"", {"type": kind, "linkname": "/etc/passwd"})
    refused(tmp_path, whole(bad), "'volume0' is no regular file")


def test_a_link_to_another_member(tmp_path):
    refused(tmp_path, whole(("volume0", b"", {"type": tarfile.LNKTYPE, "linkname": "disk"})), "'volume0' is no regular file")


def test_directory(tmp_path):
    refused(tmp_path, tar([("disk", b"", {"type": tarfile.DIRTYPE})]), "'disk/' is no file of a snapshot")


def test_too_large(tmp_path):
    """All files together, with their holes."""
    size = sum(map(len, FILES.values()))
    refused(tmp_path, zstd(whole()), "'state' makes it larger", code="TOO_LARGE", max=size - 1)


def test_not_too_large(tmp_path):
    assert "ok" in Unpack(tmp_path, whole(), max=sum(map(len, FILES.values()))).answer()


@pytest.mark.parametrize("data", [b"", b"x" * 100000, zstd(b"no tar at all" * 1000)])
def test_no_archive(tmp_path, data):
    refused(tmp_path, data, "not a good archive")


def test_more_behind(tmp_path):
    refused(tmp_path, whole() + b"x" * 3_000_000, "more behind the end of the snapshot")
