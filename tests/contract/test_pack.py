"""fcm-oci's job `pack`: the upper directory of an overlay that the kernel wrote becomes a layer, which on top of the lower one gives what
the overlay showed. And disks that lie.

Needs root, as the program does.
"""
import io
import os
import random
import struct
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import oci  # noqa: E402
from ext4 import Ext4, comparable, on_disk  # noqa: E402
from oci import sha  # noqa: E402

UID = 64127
CAPABILITY = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)  # cap_net_bind_service=ep

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

# What there is before, and what a script makes of it.
LOWER = r"""
umask 022
mkdir -p etc usr/bin opt/gone/deep opt/again opt/mode opt/moved many srv
for i in 1 2 3; do echo $i >opt/gone/$i; echo $i >opt/again/$i; echo $i >opt/moved/$i; done
echo hosts >etc/hosts; echo conf >etc/conf; echo link >etc/one; ln etc/one etc/two
echo file >opt/f2d; mkdir opt/d2f; echo x >opt/d2f/x; ln -s /etc opt/s2f
head -c 100000 /dev/urandom >srv/large; printf program >usr/bin/program; chmod 755 usr/bin/program
for i in $(seq 300); do echo $i >many/$i; done
"""
UPPER = r"""
umask 022
rm etc/conf opt/gone/1 many/7; rm -r opt/gone/deep
rm -r opt/again; mkdir opt/again; echo new >opt/again/new
chmod 700 opt/mode; chown 5:3000000000 opt/mode
mv opt/moved opt/elsewhere
rm opt/f2d; mkdir opt/f2d; echo x >opt/f2d/x
rm -r opt/d2f; echo now >opt/d2f; rm opt/s2f; echo file >opt/s2f
printf changed >>srv/large; ln srv/large srv/again; ln srv/large "srv/$(printf '%0200d' 1)"
mkdir -p "srv/$(printf '%0200d' 2)/$(printf '%0200d' 3)/$(printf '%0200d' 4)"; echo deep >"srv/$(printf '%0200d' 2)/$(printf '%0200d' 3)/$(printf '%0200d' 4)/$(printf '%0255d' 5)"
printf 'a\nb' >"srv/$(printf 'nl\nname')"; echo é >srv/é; : >srv/empty
ln -s program usr/bin/short; ln -s "$(printf '/%0300d' 6)" usr/bin/long; ln -s "$(printf '%059d' 7)" srv/l59; ln -s "$(printf '%060d' 8)" srv/l60
mknod srv/null c 1 3; mknod srv/block b 7 300; mkfifo srv/fifo
truncate -s 40M srv/sparse; printf middle | dd of=srv/sparse bs=1 seek=20000123 conv=notrunc status=none
truncate -s 3M srv/hole; fallocate -l 1M srv/reserved; printf begin | dd of=srv/reserved conv=notrunc status=none
head -c 700001 /dev/urandom >srv/odd; chmod 4755 usr/bin/program; mkdir srv/sticky; chmod 1777 srv/sticky; echo id >srv/id; chown 3000000000:7 srv/id
touch -d 2001-02-03T04:05:06 srv/empty
mkdir -p etc/ssh run/fcm home; echo secret >etc/ssh/ssh_host_rsa_key; echo kept >etc/ssh/config; echo mine >etc/hosts; echo x >run/fcm/x; echo kept >home/hosts
"""
EXCLUDE = ["etc/hosts", "etc/ssh/ssh_host_*", "run/fcm"]


# setfattr NAME VALUE FILE
SETFATTR = f"""setfattr() {{ {sys.executable} -c 'import os, sys; os.setxattr(sys.argv[3], sys.argv[1], sys.argv[2].encode())' "$@"; }}
"""


class Pack(oci.Job):
    """One run."""

    def __init__(self, path, disk, exclude=(), here=()):
        self.folder, layers = path / "dir", path / "layers"
        self.folder.mkdir(exist_ok=True)
        layers.mkdir(exist_ok=True)
        for name in here:
            (layers / name).write_bytes(b"")
        os.chown(self.folder, UID, UID)
        super().__init__([("job", "pack"), ("uid", UID), *(("exclude", x) for x in exclude)],
                         {oci.DIR: os.open(self.folder, os.O_RDONLY), oci.LAYERS: os.open(layers, os.O_RDONLY), oci.IN: os.open(disk, os.O_RDONLY)})

    def files(self):
        return sorted(x.name for x in self.folder.iterdir())


def pack(path, disk, **more):
    """A good run: the layer's bytes."""
    job = Pack(path, disk, **more)
    answer = job.answer()
    assert "ok" in answer, answer
    data, = [(job.folder / x).read_bytes() for x in job.files()]
    assert answer["layer"] == sha(data) and job.files() == [sha(data) + ".tar"] and int(answer["bytes"]) == len(data)
    return data


def refused(path, disk, code, text, **more):
    answer = Pack(path, disk, **more).answer()
    assert answer.get("code") == code and text in answer["error"] and answer["error"].isprintable(), answer


def disk_of(folder, path, size="128M", *options):
    """What a VM's disk is: an ext4 with `upper` and `work`."""
    subprocess.run(["mke2fs", "-q", "-t", "ext4", *options, "-d", folder, path, size], check=True, capture_output=True)
    return path


def upper(path, script, size="32M", options=()):
    """A disk whose upper directory `script` filled; no overlay was there."""
    folder = path / "disk"
    (folder / "upper").mkdir(parents=True)
    subprocess.run(["sh", "-e"], cwd=folder / "upper", input=SETFATTR + script, text=True, check=True)
    return disk_of(folder, path / "disk.ext4", size, *options)


def members(data):
    return {m.name: m for m in tarfile.open(fileobj=io.BytesIO(data))}


@pytest.fixture(scope="module")
def overlay(tmp_path_factory):
    """The lower layer, the disk, and a copy of what the kernel's overlay showed at the end."""
    path = tmp_path_factory.mktemp("overlay")
    for name in ("lower", "disk/upper", "disk/work", "merged", "copy"):
        (path / name).mkdir(parents=True)
    subprocess.run(["sh", "-e"], cwd=path / "lower", input=LOWER, text=True, check=True)
    script = f"""{SETFATTR} set -e; mount -t overlay overlay -o lowerdir=lower,upperdir=disk/upper,workdir=disk/work merged
        cd merged; {UPPER}
        setfattr user.comment words srv/odd
        {sys.executable} -c 'import os; os.setxattr("usr/bin/program", "security.capability", bytes.fromhex("{CAPABILITY.hex()}"))'
        {sys.executable} -c 'import socket; socket.socket(socket.AF_UNIX).bind("srv/socket")'
        cp -a . ../copy"""
    (path / "script").write_text(script)
    subprocess.run(["unshare", "-m", "sh", "script"], cwd=path, check=True)
    lower = subprocess.run(["tar", "c", "--format=posix", "-C", path / "lower", "."], check=True, capture_output=True).stdout
    return lower, disk_of(path / "disk", path / "disk.ext4"), path / "copy"


def merge(path, layers):
    folder = path / "merge"
    folder.mkdir()
    for data in layers:
        (folder / f"{sha(data)}.tar").write_bytes(data)
    out = path / "merged.ext4"
    answer = oci.Job([("job", "merge"), ("uid", UID), *(("layer", sha(x)) for x in layers)],
                     {oci.LAYERS: os.open(folder, os.O_RDONLY), oci.OUT: os.open(out, os.O_RDWR | os.O_CREAT)}).answer()
    assert "ok" in answer, answer
    return Ext4(out).tree()


def seconds(tree):
    return {name: dict(facts, ns=0) if "ns" in facts else facts for name, facts in tree.items()}


def test_equals_the_kernel(overlay, tmp_path):
    """A layer on the lower one gives what the overlay gave."""
    lower, disk, copy = overlay
    theirs = on_disk(os.fsencode(copy))
    del theirs[b"/srv/socket"]
    data = pack(tmp_path, disk)
    assert data == pack_again(tmp_path, disk)
    theirs, ours = seconds(comparable(theirs)), seconds(comparable(merge(tmp_path, [lower, data])))
    ours.pop(b"/lost+found", None)
    assert set(ours) == set(theirs)
    assert {n: (ours[n], theirs[n]) for n in ours if ours[n] != theirs[n]} == {}
    assert len(ours) > 350 and ours[b"/usr/bin/program"]["xattrs"] == {"security.capability": CAPABILITY}
    assert ours[b"/srv/sparse"]["size"] == 40 << 20 and len(data) < 4 << 20


def pack_again(path, disk):
    (path / "again").mkdir()
    return pack(path / "again", disk)


def test_as_others_read_it(overlay, tmp_path):
    """Marks as the specification has them, and no more than what changed."""
    names = members(pack(tmp_path, overlay[1]))
    assert {"etc/.wh.conf", "opt/gone/.wh.1", "opt/gone/.wh.deep", "many/.wh.7", "opt/again/.wh..wh..opq", "opt/.wh.moved"} <= set(names)
    assert "opt/gone/2" not in names and "etc/one" not in names and "many/8" not in names and "srv/socket" not in names
    assert names["opt/mode"].isdir() and names["opt/mode"].mode == 0o700
    assert names["srv/empty"].mtime == 981173106 and names["."].isdir()
    listed = subprocess.run(["tar", "t"], input=pack_again(tmp_path, overlay[1]), check=True, capture_output=True).stdout
    assert listed.count(b"\n") == len(names)


def test_excluded(overlay, tmp_path):
    """With what is below them, and nothing that only looks alike."""
    names = members(pack(tmp_path, overlay[1], exclude=EXCLUDE))
    assert "etc/hosts" not in names and "etc/ssh/ssh_host_rsa_key" not in names and not [n for n in names if n.startswith("run/fcm")]
    assert {"etc/ssh/config", "home/hosts", "run"} <= set(names)


def test_a_whiteout_is_excluded(tmp_path):
    assert set(members(pack(tmp_path, upper(tmp_path, "mkdir etc; mknod etc/hosts c 0 0; mknod etc/x c 0 0"), exclude=EXCLUDE))) == {
        ".", "etc", "etc/.wh.x"}


def test_nothing_changed(tmp_path):
    assert list(members(pack(tmp_path, upper(tmp_path, "")))) == ["."]


def test_one_that_is_here(tmp_path):
    """A layer that is kept already isn't left a second time."""
    disk = upper(tmp_path, "echo x >x")
    name = sha(pack(tmp_path, disk)) + ".tar"
    (tmp_path / "dir" / name).unlink()
    job = Pack(tmp_path, disk, here=[name])
    assert job.answer()["layer"] + ".tar" == name and job.files() == []


def test_other_ways_of_mke2fs(tmp_path):
    """Small blocks, no journal, no checksums."""
    data = random.Random(1).randbytes(300_001)
    (tmp_path / "data").write_bytes(data)
    disk = upper(tmp_path, f"cp {tmp_path}/data file; ln file again; truncate -s 1M hole", options=("-b", "1024", "-O", "^has_journal,^metadata_csum"))
    with tarfile.open(fileobj=io.BytesIO(pack(tmp_path, disk))) as tar:
        assert tar.extractfile("again").read() == data and tar.getmember("file").linkname == "again"
        assert tar.extractfile("hole").read() == bytes(1 << 20)


# ---- what isn't packed ----

@pytest.mark.parametrize("script, code, text", [
    ("echo x >.wh.x", "invalid", "/.wh.x"),
    ("mkdir d; echo x >d/.wh..wh..opq", "invalid", "/d/.wh..wh..opq"),
    ("mkdir d; setfattr trusted.overlay.redirect /x d", "invalid", "/d: what it is stands in a lower layer only"),
    ("echo x >f; setfattr trusted.overlay.metacopy '' f", "invalid", "lower layer only"),
    ("echo x >f; setfattr user.a=b x f", "invalid", "/f: there is a '='"),
    ("truncate -s 65G f", "too_large", "/f: it is larger than 64 GiB"),
], ids=lambda x: x[:24])
def test_refused(tmp_path, script, code, text):
    refused(tmp_path, upper(tmp_path, script), code, text)


def debugfs(disk, *requests):
    for request in requests:
        subprocess.run(["debugfs", "-w", "-R", request, disk], check=True, capture_output=True)


@pytest.mark.parametrize("request_, code, text", [
    ("feature needs_recovery", "guest", "wasn't unmounted"),
    ("link upper upper/l", "invalid", "more than 1024 directories deep"),
    ("link upper upper/loop", "invalid", "longer than 4095 bytes"),
    ("set_inode_field upper/file size 0x7fffffffffffffff", "too_large", "/file: it is larger"),
    ("set_inode_field upper/file flags 0", "invalid", "/file: its blocks"),
    ("set_inode_field upper/file flags 0x10080000", "invalid", "in its inode"),
    ("set_inode_field upper/file mode 0", "guest", "no known kind"),
    ("set_inode_field upper/link size 0", "guest", "/link"),
    ("set_inode_field upper/link size 5000", "guest", "/link"),
    ("set_inode_field upper mode 0100644", "guest", ""),
    ("unlink upper", "guest", "was the VM ever started"),
], ids=str)
def test_damaged(tmp_path, request_, code, text):
    disk = upper(tmp_path, "echo content >file; ln -s there link")
    debugfs(disk, request_)
    refused(tmp_path, disk, code, text)


def test_no_file_system(tmp_path):
    disk = tmp_path / "disk.ext4"
    for data in (b"", b"x" * 5000, bytes(1 << 20), random.Random(2).randbytes(1 << 20)):
        disk.write_bytes(data)
        refused(tmp_path, disk, "guest", "")
        (tmp_path / "dir/new").unlink()


def test_cut_off(tmp_path):
    disk = upper(tmp_path, "head -c 9000000 /dev/urandom >file")
    whole = disk.stat().st_size
    for size in (whole // 8, 1 << 20, 5000):
        os.truncate(disk, size)
        refused(tmp_path, disk, "guest", "")
        (tmp_path / "dir/new").unlink()


def test_any_damage(tmp_path):
    """Bytes of its tables changed at random, with no checksum that would tell: an answer each time, and nothing beside the layer."""
    good = upper(tmp_path, "mkdir -p a/b; for i in $(seq 40); do echo $i >a/b/$i; ln -s $i a/l$i; done; truncate -s 1M a/hole; echo x >>a/hole; "
                           "ln a/hole a/b/hole; setfattr user.x y a/b/1; mknod a/gone c 0 0", "2M", ("-O", "^metadata_csum,^has_journal", "-b", "1024"))
    data, chance = good.read_bytes(), random.Random(3)
    used = [at for at in range(0, len(data), 1024) if any(data[at:at + 1024])]
    results = set()
    for turn in range(300):
        bad = bytearray(data)
        for _ in range(chance.choice((1, 2, 8, 40))):
            at = chance.choice(used) + chance.randrange(1024)
            bad[at] = chance.choice((0, 1, 255, chance.randrange(256), bad[at] ^ 1 << chance.randrange(8)))
        disk = tmp_path / "bad.ext4"
        disk.write_bytes(bad)
        folder = tmp_path / "runs"
        folder.mkdir(exist_ok=True)
        job = Pack(folder, disk)
        answer = job.answer()
        assert "ok" in answer or answer.get("code") in ("guest", "invalid", "too_large"), (turn, answer)
        results.add("ok" in answer)
        left = job.files()
        assert left == ([answer["layer"] + ".tar"] if "ok" in answer else ["new"]), (turn, answer, left)
        for name in left:
            (folder / "dir" / name).unlink()
    assert results == {True, False}
