"""Volumes with real guests: what is written stays, whoever has it next, and however the one before ended."""
import signal
import time

import pytest


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.destroy_all()
    for volume in host.api.get("/v1/volumes").ok()["volumes"]:
        host.api.delete(f"/v1/volumes/{volume['name']}").ok()


def sh(host, vm, command, check=True):
    done = host.fcm("exec", vm, "sh", "-c", command, check=check)
    return done.stdout.strip() if check else done


def create(host, name, *volumes, **spec):
    return host.create(name, memory=96, volumes=list(volumes), **spec)


def is_clean(path):
    """Does the file system say that it was unmounted? (The host doesn't mount it: it reads two words of the superblock.)"""
    with open(path, "rb") as file:
        file.seek(1024)
        block = file.read(1024)
    return block[56:58] == b"\x53\xef" and block[58] & 1 and not block[96] & 4  # s_magic, valid, no "needs recovery"


def test_data_outlives_its_machine(host):
    create(host, "one", "data:/srv/data")
    sh(host, "one", "echo kept >/srv/data/f; ln -s f /srv/data/l; mkdir /srv/data/d; chown 1000:1000 /srv/data/d")
    assert sh(host, "one", "ls -A /srv/data") == "d\nf\nl", "no lost+found"
    host.fcm("destroy", "one")
    assert is_clean(host.state_dir / "volumes/data/volume.ext4")
    create(host, "two", "data:/mnt")
    assert sh(host, "two", "cat /mnt/l; stat -c %u:%g /mnt/d") == "kept\n1000:1000"


def test_over_a_restart(host):
    create(host, "one", "data:/data", "/cache")
    sh(host, "one", "echo 1 >/data/f; echo 2 >/cache/f")
    host.fcm("restart", "one")
    assert sh(host, "one", "cat /data/f /cache/f") == "1\n2"
    host.fcm("stop", "one")
    host.fcm("start", "one")
    assert sh(host, "one", "cat /data/f /cache/f; grep -c ' /data ' /proc/mounts") == "1\n2\n1"


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_over_the_daemon(host, sig):
    create(host, "one", "data:/data")
    sh(host, "one", "echo 1 >/data/f")
    host.restart_daemon(sig)
    host.wait_state("one", "running")
    assert sh(host, "one", "cat /data/f; echo 2 >>/data/f; grep -c ' /data ' /proc/mounts") == "1\n1"


def test_after_a_crash(host):
    """The journal is replayed by the next who writes; who only reads is told so."""
    create(host, "one", "data:/data", restart="no")
    sh(host, "one", "echo kept >/data/f; sync /data/f; echo more >/data/g")
    host.run("kill", "-9", str(host.vm("one")["vmm_pid"]))
    host.wait_state("one", "failed")
    assert not is_clean(host.state_dir / "volumes/data/volume.ext4")
    answer = host.api.post("/v1/vms", {"name": "reader", "image": "tiny", "memory": 96, "volumes": ["data:/data:ro"]})
    assert answer.status == 500 and "let a VM that writes it run once" in answer.error["message"], answer
    host.api.delete("/v1/vms/reader?force=1").ok()
    host.fcm("start", "one")
    assert sh(host, "one", "cat /data/f") == "kept"
    host.fcm("stop", "one")
    assert is_clean(host.state_dir / "volumes/data/volume.ext4")


def test_reading_only(host):
    create(host, "writer", "data:/data")
    sh(host, "writer", "echo 1 >/data/f")
    host.fcm("stop", "writer")
    for name in ("r1", "r2"):
        create(host, name, "data:/data:ro")
    for name in ("r1", "r2"):
        assert sh(host, name, "cat /data/f") == "1"
        assert "Read-only" in sh(host, name, "echo 2 >/data/f", check=False).stderr
        assert "Read-only" in sh(host, name, "mount -o remount,rw /data; echo 2 >/data/f", check=False).stderr
        assert sh(host, name, "dd if=/dev/zero of=/dev/vdc bs=4096 count=1 conv=fsync 2>/dev/null && echo wrote", check=False).stdout == ""


def test_a_new_one_gets_what_the_image_has(host):
    """As docker does; what is there already stays."""
    create(host, "one", "etc:/etc/copy", "init:/etc")
    assert sh(host, "one", "ls /etc/passwd") == "/etc/passwd"
    before = sh(host, "one", "md5sum </etc/passwd; echo mine >/etc/mine")
    host.fcm("destroy", "one")
    create(host, "two", "init:/etc")
    assert sh(host, "two", "md5sum </etc/passwd; cat /etc/mine").splitlines() == [before, "mine"]


def test_one_in_another(host):
    create(host, "one", "inner:/srv/a/b", "outer:/srv")
    sh(host, "one", "echo o >/srv/f; echo i >/srv/a/b/f")
    host.fcm("destroy", "one")
    create(host, "two", "outer:/o", "inner:/i")
    assert sh(host, "two", "cat /o/f /i/f; ls /o/a/b") == "o\ni"


def test_a_link_in_the_way(host):
    """What another VM left at the place of `data` is never followed out of the volume."""
    create(host, "one", "data:/data")
    disk = sh(host, "one", "mkdir -p /m; mount /dev/vdc /m; mv /m/data /m/was; ln -s /etc /m/data; umount /m; echo ok")
    assert disk == "ok"
    host.fcm("destroy", "one")
    answer = host.api.post("/v1/vms", {"name": "two", "image": "tiny", "memory": 96, "volumes": ["data:/data"]})
    assert answer.status == 500 and answer.error["step"] == "guest", answer


def test_as_many_as_there_may_be(host):
    create(host, "one", *(f"v{i}:/v{i}" for i in range(8)))
    for i in range(8):
        sh(host, "one", f"echo {i} >/v{i}/f")
    host.fcm("destroy", "one")
    create(host, "two", *(f"v{i}:/w{7 - i}" for i in range(8)))
    assert sh(host, "two", "cat /w*/f").split() == [str(7 - i) for i in range(8)]


def test_full(host):
    """A volume has its size; its VM runs on."""
    host.fcm("volume", "create", "--size", "64m", "small")
    create(host, "one", "small:/small")
    assert "No space" in sh(host, "one", "dd if=/dev/zero of=/small/f bs=1M count=70", check=False).stderr
    assert sh(host, "one", "rm /small/f; echo x >/small/f; cat /small/f") == "x"


def test_map(host):
    """A copy of a directory of the caller's, in a volume that goes with the VM."""
    host.run("mkdir", "-p", "/root/site/d")
    host.run("sh", "-c", "echo here >/root/site/f; ln -s f /root/site/l; chmod 600 /root/site/f")
    host.fcm("create", "--name", "one", "--image", "tiny", "--mem", "96", "--map", "/root/site:/srv/www")
    assert sh(host, "one", "cat /srv/www/l; stat -c %a /srv/www/f; ls -A /srv/www") == "here\n600\nd\nf\nl"
    sh(host, "one", "echo there >/srv/www/f")
    host.fcm("restart", "one")
    assert sh(host, "one", "cat /srv/www/f") == "there" and host.run("cat", "/root/site/f").stdout == "here\n"
    for argv, word in (("/root/none:/x", "/root/none"), ("/root/site/f:/x", "no directory"), ("/root/site", "DIR:/PATH"), ("/root/site:x", "DIR:/PATH")):
        done = host.fcm("create", "--name", "two", "--map", argv, check=False)
        assert done.returncode in (2, 3) and word in done.stderr and len(host.api.get("/v1/vms").ok()["vms"]) == 1
    host.fcm("destroy", "one")
    assert host.api.get("/v1/volumes").ok()["volumes"] == []


def test_the_counter(host):
    """Written each tenth of a second until the stop: not a line is lost or half."""
    create(host, "one", "data:/data")
    host.fcm("exec", "-d", "one", "sh", "-c", "i=0; while :; do echo line $i; i=$((i + 1)); sleep 0.1; done >/data/log")
    time.sleep(2)
    host.fcm("stop", "one")
    create(host, "two", "data:/data:ro")
    lines = sh(host, "two", "cat /data/log").splitlines()
    assert lines == [f"line {i}" for i in range(len(lines))] and len(lines) >= 10
