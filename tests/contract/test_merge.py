"""fcm-oci's job `merge`: layers made here become an ext4 that is read back, checked by e2fsck and compared with what umoci unpacks.

Needs root, as the program does. What strangers may send is in the table HOSTILE.
"""
import hashlib
import io
import os
import random
import signal
import stat
import struct
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import oci  # noqa: E402
from ext4 import Ext4, comparable, on_disk  # noqa: E402
from oci import layout  # noqa: E402

UID = 64123
DIR, LINK, HARD, CHR, BLK, FIFO = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# ---- layers ----

def f(name, data=b"", **kind):
    info = tarfile.TarInfo(name)
    info.mode, info.mtime = 0o644, 1700000000
    xattrs = kind.pop("xattrs", {})
    for key, value in kind.items():
        setattr(info, key, value)
    info.pax_headers = {**{"SCHILY.xattr." + k: v.decode("latin1") for k, v in xattrs.items()}, **(kind.get("pax_headers") or {})}
    info.size = len(data) if info.type == tarfile.REGTYPE else 0
    return info, data


def d(name, **kind):
    return f(name, **{"type": DIR, "mode": 0o755, **kind})


def layer(*members, form=tarfile.PAX_FORMAT):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form, errors="surrogateescape") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def header(name, size=b"00000000000\0", kind=b"0"):
    """One by hand, since tarfile refuses to lie."""
    h = bytearray(512)
    for at, value in ((0, name), (100, b"0000644\0"), (108, b"0000000\0"), (116, b"0000000\0"), (124, size), (136, b"00000000000\0"),
                      (148, b" " * 8), (156, kind), (257, b"ustar\x0000")):
        h[at:at + len(value)] = value
    h[148:156] = b"%06o\0 " % sum(h)
    return bytes(h)


# ---- the program ----

class Job(oci.Job):
    """One run of fcm-oci. `layers` are bytes, or (digest, bytes) to lie about them."""

    def __init__(self, path, layers, uid=UID, out=None, shell=()):
        self.out = out or path / "out.ext4"
        folder = path / "layers"
        folder.mkdir(exist_ok=True)
        digests = []
        for one in layers:
            digest, data = one if isinstance(one, tuple) else (hashlib.sha256(one).hexdigest(), one)
            (folder / f"{digest}.tar").write_bytes(data)
            digests.append(digest)
        super().__init__([("job", "merge"), ("uid", uid), *(("layer", x) for x in digests)],
                         {oci.LAYERS: os.open(folder, os.O_RDONLY | os.O_DIRECTORY),
                          oci.OUT: os.open(self.out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)}, shell)


def check(path):
    """e2fsck finds nothing."""
    done = subprocess.run(["e2fsck", "-fn", path], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def merge(path, *layers):
    """A good merge: what is in it."""
    job = Job(path, layers)
    answer = job.answer()
    assert answer.get("ok"), answer
    check(job.out)
    assert int(answer["size"]) == job.out.stat().st_size
    return Ext4(job.out).tree()


def refuse(path, *layers):
    answer = Job(path, layers).answer()
    assert "error" in answer, answer
    assert answer["error"].isprintable()
    return answer


# ---- as umoci does it ----

LOWER = layer(
    d("opt"), d("opt/app"), d("usr"), d("usr/bin"), f("bin", type=LINK, linkname="usr/bin"),
    f("opt/app/run.sh", b"#!/bin/sh\n", mode=0o755, uid=1234, gid=2345),
    f("opt/app/a", b"hardlink-data" * 1000, uid=1234, gid=2345), f("opt/app/b", type=HARD, linkname="opt/app/a"),
    d("opt/app/sub", mode=0o750, uid=1234), f("opt/app/sub/c", type=HARD, linkname="opt/app/a"),
    f("opt/app/abs", type=LINK, linkname="/opt/app/a"), f("opt/app/rel", type=LINK, linkname="../app/a"),
    f("opt/app/l59", type=LINK, linkname="x" * 59), f("opt/app/l60", type=LINK, linkname="x" * 60),
    f("opt/app/long", type=LINK, linkname="/" + "x" * 200 + "/" + "y" * 200),
    f("opt/app/suid", b"x", mode=0o4755), f("opt/app/sgid", b"x", mode=0o2755), d("opt/app/sticky", mode=0o1777),
    f("opt/app/capable", b"\x7fELF", mode=0o755, xattrs={"security.capability": CAPABILITY}),
    f("opt/app/attributes", b"x", xattrs={"user.foo": b"bar", "user.big": b"z" * 2500}),
    f("opt/app/null", type=CHR, devmajor=1, devminor=3, mode=0o666), f("opt/app/blk", type=BLK, devmajor=7, devminor=300, mode=0o660),
    f("opt/app/fifo", type=FIFO, mode=0o600), f("opt/app/biguid", b"x", uid=3000000000, gid=3000000001),
    f("opt/app/exact", b"x", pax_headers={"mtime": "1700000000.123456789"}), f("opt/app/empty"),
    *(d("opt/app/" + "/".join(["d" * 100] * n)) for n in range(1, 13)),
    f("opt/app/" + "/".join(["d" * 100] * 12) + "/" + "f" * 255, b"deep"),
    f("opt/app/uni-é-日本", b"u"), f("opt/app/nl\nname", b"newline"),
    f("opt/app/zeros", bytes(300_000)), f("opt/app/holes", bytes(200_000) + b"x" + bytes(200_000) + b"y"),
    f("opt/app/random", random.Random(1).randbytes(3_000_001)),
    d("opt/wh"), *(f("opt/wh/" + n, n.encode()) for n in "abc"),
    d("opt/whdir"), f("opt/whdir/x", b"x"), d("opt/whdir/y"), f("opt/whdir/y/z", b"z"),
    d("opt/opaque"), f("opt/opaque/old", b"1"), d("opt/opaque/kept"), f("opt/opaque/kept/old", b"3"),
    d("opt/d2f"), f("opt/d2f/x", b"x"), f("opt/f2d", b"file"), f("opt/s2d", type=LINK, linkname="/opt/app"),
    f("opt/changed", b"v1", mode=0o600, uid=5, gid=6), f("opt/h1", b"H" * 100), f("opt/h2", type=HARD, linkname="opt/h1"),
    d("opt/many"), *(f(f"opt/many/{i:04}", b"%d" % i) for i in range(1500)))
UPPER = layer(
    d("opt"), d("opt/wh"), f("opt/wh/.wh.a"), f("opt/.wh.whdir"), f("opt/wh/.wh.nonexistent"),
    d("opt/opaque", mode=0o700, uid=7), f("opt/opaque/new", b"n"), d("opt/opaque/kept"), f("opt/opaque/kept/new", b"n3"),
    f("opt/opaque/.wh..wh..opq"),  # late, as some tools write it
    f("opt/d2f", b"now a file"), d("opt/f2d"), f("opt/f2d/x", b"x"), d("opt/s2d"), f("opt/s2d/x", b"here, not in /opt/app"),
    f("opt/changed", b"version2", mode=0o644, uid=8, gid=9), f("opt/h1", b"replaced"),
    f("opt/h3", type=HARD, linkname="opt/h2"), f("bin/through", b"#!/bin/sh\n", mode=0o755), f("opt/no/parent/file", b"implied"))


def test_equals_umoci(tmp_path):
    layout(tmp_path / "layout", [LOWER, UPPER], {})
    subprocess.run(["umoci", "unpack", "--image", f"{tmp_path}/layout:x", tmp_path / "bundle"], check=True, capture_output=True)
    theirs, ours = comparable(on_disk(os.fsencode(tmp_path / "bundle/rootfs"))), comparable(merge(tmp_path, LOWER, UPPER))
    assert set(ours) == set(theirs)
    assert {n: (ours[n], theirs[n]) for n in ours if ours[n] != theirs[n]} == {}
    assert len(ours) > 1550 and ours[b"/opt/app/capable"]["xattrs"] == {"security.capability": CAPABILITY}
    assert ours[b"/usr/bin/through"]["mode"] == stat.S_IFREG | 0o755


def test_reproducible(tmp_path):
    sums = []
    for turn in range(2):
        (tmp_path / str(turn)).mkdir()
        merge(tmp_path / str(turn), LOWER, UPPER)
        sums.append(hashlib.sha256((tmp_path / str(turn) / "out.ext4").read_bytes()).hexdigest())
        time.sleep(1.1)
    assert sums[0] == sums[1]
    (tmp_path / "other").mkdir()
    merge(tmp_path / "other", LOWER)
    uuids = [Ext4(tmp_path / n / "out.ext4").super[104:120] for n in ("0", "other")]
    assert uuids[0] != uuids[1]


def test_zeros_take_no_room(tmp_path):
    merge(tmp_path, layer(f("zeros", bytes(50 << 20)), f("x", b"x")))
    assert (tmp_path / "out.ext4").stat().st_blocks * 512 < 1 << 20


def test_sparse(tmp_path):
    """As GNU tar packs a file with holes; terabytes of them cost nothing."""
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        for at in range(0, 64 << 20, 1 << 20):
            file.seek(at)
            file.write(b"x%d" % at)
        file.truncate(1 << 40)
    made = subprocess.run(["tar", "--sparse", "--format=pax", "-cf-", "-C", tmp_path, "sparse"], check=True, capture_output=True).stdout
    assert "64 GiB" in refuse(tmp_path, made)["error"] or "larger" in refuse(tmp_path, made)["error"]
    os.truncate(sparse, 900 << 20)
    made = subprocess.run(["tar", "--sparse", "--format=pax", "-cf-", "-C", tmp_path, "sparse"], check=True, capture_output=True).stdout
    facts = merge(tmp_path, made)[b"/sparse"]
    assert facts["size"] == 900 << 20 and facts["sha256"] == hashlib.sha256(sparse.read_bytes()).hexdigest()
    assert (tmp_path / "out.ext4").stat().st_blocks * 512 < 20 << 20


def test_large_directory_and_deep_extents(tmp_path):
    """More blocks than an inode's four extents: a directory that grows while others do, a file with a thousand holes."""
    data = b"".join(bytes(65536) + b"y" * 65536 for _ in range(500))
    tree = merge(tmp_path, layer(d("d"), *(f(f"d/{i:06}-" + "n" * 60) for i in range(30000)), f("file", data)))
    assert len(tree) == 30003 and tree[b"/file"]["sha256"] == hashlib.sha256(data).hexdigest()


def test_many_subdirectories(tmp_path):
    tree = merge(tmp_path, layer(*(d(f"d/{i}") for i in range(65100))))
    assert tree[b"/d"]["links"] == 1 and len(tree) == 65102


def test_no_layer(tmp_path):
    assert merge(tmp_path).keys() == {b""}


def test_empty_layers(tmp_path):
    assert merge(tmp_path, layer(), layer(f("x")), layer()).keys() == {b"", b"/x"}


# ---- what strangers send ----

C = "/etc"
UP = "../" * 12
LONG = "/".join(["n" * 200] * 500)
# name: (layers, what the error says, or the names that the tree has then)
HOSTILE = {
    "dotdot": ([layer(f("ok"), f(UP + "etc/pwned"))], "'..' in its name"),
    "absolute name": ([layer(f("/etc/x"))], {b"/etc", b"/etc/x"}),
    "absolute link on the way": ([layer(f("evil", type=LINK, linkname=C), f("evil/x"))], {b"/evil", b"/etc", b"/etc/x"}),
    "link out of the root": ([layer(f("e", type=LINK, linkname=UP + "etc"), f("e/x"))], {b"/e", b"/etc", b"/etc/x"}),
    "hard link out of the root": ([layer(f("h", type=HARD, linkname=UP + "etc/shadow"))], "'..' in its link"),
    "hard link to the host": ([layer(f("h", type=HARD, linkname="/etc/shadow"))], "what isn't there"),
    "hard link through a link": ([layer(f("s", type=LINK, linkname=C), f("h", type=HARD, linkname="s/shadow"))], "what isn't there"),
    "hard link to itself": ([layer(f("h", type=HARD, linkname="h"))], "what isn't there"),
    "hard link to what comes later": ([layer(f("h", type=HARD, linkname="x"), f("x"))], "what isn't there"),
    "hard link to a directory": ([layer(d("d"), f("h", type=HARD, linkname="d"))], "a link to a directory"),
    "hard link to a link": ([layer(f("s", type=LINK, linkname="/x"), f("h", type=HARD, linkname="s"))], {b"/s", b"/h"}),
    "link then file": ([layer(f("f", type=LINK, linkname="/etc/passwd"), f("f", b"x"))], {b"/f"}),
    "directory then link": ([layer(d("d"), f("d/x"), f("d", type=LINK, linkname=C), f("d/y"))], {b"/d", b"/etc", b"/etc/y"}),
    "link of a lower layer": ([layer(f("x", type=LINK, linkname=C)), layer(f("x/y"))], {b"/x", b"/etc", b"/etc/y"}),
    "whiteout through a link": ([layer(d("etc"), f("etc/y"), f("x", type=LINK, linkname=C)), layer(f("x/.wh.y"))], {b"/x", b"/etc"}),
    "opaque through a link": ([layer(d("etc"), f("etc/y"), f("x", type=LINK, linkname=C)), layer(f("x/.wh..wh..opq"))], {b"/x", b"/etc"}),
    "whiteout of .": ([layer(f("a/b")), layer(f("a/.wh.."))], "a whiteout of nothing"),
    "whiteout of ..": ([layer(f("a/b")), layer(f("a/.wh..."))], "a whiteout of nothing"),
    "whiteout without a name": ([layer(f("a/b")), layer(f("a/.wh."))], "a whiteout of nothing"),
    "a link becomes a directory": ([layer(f("c", type=LINK, linkname="/etc/x"), d("c", mode=0o777))], {b"/c"}),
    "device 0:0": ([layer(f("etc/passwd", type=CHR))], {b"/etc", b"/etc/passwd"}),
    "size of exabytes": ([header(b"big", b"\x80" + b"\0" * 3 + struct.pack(">Q", 1 << 62)) + b"x" * 512], ""),
    "negative size": ([header(b"neg", b"\xff" * 12) + b"\0" * 1024], ""),
    "the same name again": ([layer(*(e for i in range(50) for e in (f("a", b"%d" % i), d("a"), f("a/x"), f("a", type=LINK, linkname="/e"))))], {b"/a"}),
    "a path of 100 KiB, pax": ([layer(f(LONG))], "too long"),
    "a path of 100 KiB, GNU": ([layer(f(LONG), form=tarfile.GNU_FORMAT)], "too long"),
    "a name of 300": ([layer(f("n" * 300))], "longer than 255"),
    "2000 deep": ([layer(f("/".join(["a"] * 2000)))], "too deep"),
    "a link of 10000": ([layer(f("s", type=LINK, linkname="z" * 10000))], "empty or too long"),
    "odd bytes": ([layer(f(os.fsdecode(b"a\xff\xfe")), f("nl\n\x1b[31m"))], {b"/a\xff\xfe", b"/nl\n\x1b[31m"}),
    "links in a circle": ([layer(f("a", type=LINK, linkname="b"), f("b", type=LINK, linkname="a"), f("a/x"))], "in a circle"),
    "a file below a file": ([layer(f("f"), f("f/x"))], {b"/f", b"/f/x"}),
    "the root is a link": ([layer(f("./", type=LINK, linkname=C), f("x"))], "the root is a directory"),
    "an unknown kind": ([header(b"z", kind=b"Z") + b"\0" * 1024], {b"/z"}),
    "cut": ([layer(f("a", b"1" * 5000))[:2000]], "not a good archive"),
    "garbage": ([random.Random(2).randbytes(4096)], "not a good archive"),
    "two archives": ([layer(f("a")) + layer(f("b"))], {b"/a"}),
    "owners that are none": ([layer(f("u", uid=-1, gid=2**40), form=tarfile.GNU_FORMAT)], "no uid or gid"),
    "times beyond all": ([layer(f("m", pax_headers={"mtime": "9e18"}), f("m2", pax_headers={"mtime": "-1e12"}))], {b"/m", b"/m2"}),
    "pax that claims 1 GiB": ([header(b"p", b"07777777777\0", b"x") + b"9" * 512], "not a good archive"),
    "attributes without end": ([layer(f("x", xattrs={f"user.{i}": b"v" for i in range(40)}))], "extended attributes"),
    "one attribute too long": ([layer(f("x", xattrs={"user.x": b"v" * 4000}))], "extended attributes"),
    "wrong digest": ([("0" * 64, layer(f("x")))], "the digest"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(tmp_path, name):
    layers, expected = HOSTILE[name]
    if isinstance(expected, str):
        answer = refuse(tmp_path, *layers)
        assert answer["code"] in ("invalid", "too_large") and expected in answer["error"], answer
        assert answer["error"].startswith("layer ")
    else:
        assert set(merge(tmp_path, *layers)) == {b""} | expected


def test_attributes_of_the_kernel(tmp_path):
    """What would rule the guest's overlay stays behind."""
    tree = merge(tmp_path, layer(d("d", xattrs={"trusted.overlay.opaque": b"y", "user.kept": b"1"}), f("d/f")))
    assert tree[b"/d"]["xattrs"] == {"user.kept": b"1"}


def test_all_attributes_fit(tmp_path):
    given = {f"user.{i:02}": b"v" * 80 for i in range(30)}
    assert merge(tmp_path, layer(f("x", b"x", xattrs=given)))[b"/x"]["xattrs"] == given


def test_mutations(tmp_path):
    """Good archives with wrong bytes: an answer each time, and what is made is a sound file system."""
    chance, good = random.Random(7), 0
    seeds = [x for layers, _ in HOSTILE.values() for x in layers if isinstance(x, bytes) and len(x) < 100_000] + [UPPER]
    for turn in range(150):
        data = bytearray(chance.choice(seeds))
        for _ in range(chance.randint(1, 20)):
            data[chance.randrange(len(data))] = chance.choice((0, 255, 47, 46, 48, 55, chance.randrange(256)))
        for at in range(0, len(data) - 511, 512):
            if data[at + 257:at + 262] == b"ustar":
                data[at + 148:at + 156] = b" " * 8
                data[at + 148:at + 156] = b"%06o\0 " % (sum(data[at:at + 512]) & 0o777777)
        job = Job(tmp_path, [LOWER, bytes(data)])
        answer = job.answer(20)
        assert answer, turn
        if "ok" in answer:
            check(job.out)
            good += 1
    assert 10 < good < 140


# ---- the sandbox, and the end ----

def status(pid):
    return dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)


def test_sandbox(tmp_path):
    """Looked at while it works: nobody, without a right, a network or a file."""
    job = Job(tmp_path, [layer(f("big", random.Random(3).randbytes(200 << 20)))])
    pid = job.process.pid
    while job.process.poll() is None and status(pid)["Seccomp"] != "2":
        time.sleep(0.001)
    os.kill(pid, signal.SIGSTOP)
    seen = status(pid)
    assert set(seen["Uid"].split()) == set(seen["Gid"].split()) == {str(UID)} and seen["Groups"].strip() == ""
    assert all(int(seen[x], 16) == 0 for x in ("CapEff", "CapPrm", "CapInh", "CapAmb"))
    assert seen["NoNewPrivs"] == "1" and os.listdir(f"/proc/{pid}/root") == []
    assert [x.split(":")[0].strip() for x in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]] == ["lo"]
    os.kill(pid, signal.SIGCONT)
    assert job.answer()["ok"]


def test_never_root(tmp_path):
    assert "root" in Job(tmp_path, [layer()], uid=0).answer()["error"]


def test_ends_with_the_daemon(tmp_path):
    """Whoever waits for it is gone: so is it, at its next word."""
    job = Job(tmp_path, [layer(f("big", bytes(600 << 20)))])
    job.socket.recv(65536)
    job.socket.close()
    assert job.process.wait(10) == 1


def test_disk_full(tmp_path):
    (tmp_path / "small").mkdir()
    shell = ["unshare", "-m", "sh", "-c", f"mount -t tmpfs -o size=1m none {tmp_path}/small && exec 7<>{tmp_path}/small/out && exec \"$0\""]
    answer = Job(tmp_path, [layer(f("big", random.Random(3).randbytes(4 << 20)))], shell=shell).answer()
    assert answer["code"] == "no_space", answer
