"""Files to, from and between real guests: what the agent makes of them."""
import io
import os
import signal
import subprocess
import tarfile
import time

import pytest
from host import wait_for

HOST = {"assets": ("kernel", "tiny")}

MIB = 1 << 20
LARGE = 200 if os.environ.get("FCM_LONG") else 40  # MiB that go through three machines


@pytest.fixture(scope="module", autouse=True)
def web(host):
    vm = host.create("web", memory=256)
    host.create("db", memory=256)
    return vm


@pytest.fixture
def here(host):
    """A clean directory of the client's."""
    folder = host.work / "here"
    subprocess.run(["rm", "-rf", folder], check=True)
    folder.mkdir()
    return folder


def sh(host, script, vm="web", check=True):
    return host.fcm("exec", vm, "sh", "-c", script, check=check).stdout


def cp(host, *argv, check=True, timeout=60):
    return host.fcm("cp", *map(str, argv), check=check, timeout=timeout)


def quiet(done):
    return (done.stdout, done.stderr) == ("", "")


def no_leftovers(host, folder):
    return ".fcm-" not in sh(host, f"ls -A {folder}") and "copy" not in sh(host, "ps | grep '[/]proc/self/exe' || true")


def test_a_file(host, here):
    (here / "file").write_text("hello\n")
    (here / "file").chmod(0o640)
    os.utime(here / "file", (0, 1234567890))
    assert quiet(cp(host, here / "file", "web:/srv-file"))
    assert sh(host, "cat /srv-file; stat -c '%a %u %g %Y' /srv-file") == "hello\n640 0 0 1234567890\n"
    assert quiet(cp(host, "web:srv-file", here / "back"))
    status = (here / "back").stat()
    assert (here / "back").read_text() == "hello\n" and status.st_mode & 0o7777 == 0o640 and status.st_mtime == 1234567890


def test_where_it_goes(host, here):
    """As docker has it; all the cases are in the unit test."""
    (here / "d").mkdir()
    (here / "d/f").write_text("f")
    sh(host, "rm -rf /t; mkdir -p /t/there")
    for target in ("web:/t/there", "web:/t/new", "web:/t/there/"):
        cp(host, here / "d", target)
    cp(host, f"{here}/d/.", "web:/t")
    assert sh(host, "cd /t; find . -type f | sort") == "./f\n./new/f\n./there/d/f\n"
    cp(host, "web:/t/.", here / "all")
    assert (here / "all/there/d/f").read_text() == "f"
    cp(host, "web:/t", here / "all")
    assert (here / "all/t/new/f").read_text() == "f"


def test_a_thousand_files(host, here):
    tree = here / "tree"
    for i in range(1000):
        file = tree / f"d{i % 37}" / f"file {i}"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(os.urandom(i))
    begun = time.monotonic()
    cp(host, tree, "web:/tree")
    print(f"in: {time.monotonic() - begun:.1f} s")
    begun = time.monotonic()
    cp(host, "web:/tree", here / "back")
    print(f"out: {time.monotonic() - begun:.1f} s")
    assert subprocess.run(["diff", "-r", tree, here / "back"], check=False).returncode == 0
    sh(host, "rm -rf /tree")


def test_a_large_one_between_three(host, here):
    """Here to one VM, from it to another, and back: not a byte is lost."""
    block = os.urandom(MIB)
    with open(here / "large", "wb") as file:
        for _ in range(LARGE):
            file.write(block)
    for source, target in ((here / "large", "web:/large"), ("web:/large", "db:/large"), ("db:/large", here / "back")):
        begun = time.monotonic()
        cp(host, source, target, timeout=280)
        print(f"{source} -> {target}: {LARGE / (time.monotonic() - begun):.1f} MiB/s")
    assert subprocess.run(["cmp", here / "large", here / "back"], check=False).returncode == 0
    sh(host, "rm /large")
    sh(host, "rm /large", "db")


def test_holes(host, here):
    with open(here / "sparse", "wb") as file:
        file.truncate(4096 * MIB)
        file.seek(3000 * MIB)
        file.write(b"data")
    cp(host, here / "sparse", "web:/sparse")
    assert sh(host, "stat -c %s /sparse; du -k /sparse | cut -f1").split() == [str(4096 * MIB), "4"]
    assert sh(host, "dd if=/sparse bs=1M skip=3000 count=1 2>/dev/null | head -c 4") == "data"
    cp(host, "web:/sparse", here / "back")
    status = (here / "back").stat()
    assert status.st_size == 4096 * MIB and status.st_blocks < 100
    sh(host, "rm /sparse")


def test_links_and_owners(host, here):
    sh(host, "rm -rf /l; mkdir /l; echo x >/l/file; ln -s file /l/link; ln -s /nowhere /l/dangling; chown 12:34 /l/file; chmod 4755 /l/file")
    cp(host, "web:/l", here / "l")
    assert os.readlink(here / "l/link") == "file" and os.readlink(here / "l/dangling") == "/nowhere"
    assert ((here / "l/file").stat().st_uid, (here / "l/file").stat().st_mode & 0o7777) == (0, 0o755)
    cp(host, "-a", "web:/l", here / "kept")
    status = (here / "kept/file").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (12, 34, 0o4755)
    cp(host, here / "kept", "web:/as-root")
    cp(host, "-a", here / "kept", "web:/as-it-was")
    assert sh(host, "stat -c '%u %g' /as-root/file /as-it-was/file; readlink /as-root/link") == "0 0\n12 34\nfile\n"
    cp(host, "web:/l", "db:/l")
    assert sh(host, "stat -c '%u %g %a' /l/file", "db") == "12 34 4755\n"


def test_tar(host, here):
    (here / "f").write_text("f")
    sh(host, "rm -rf /t; mkdir -p /t")
    host.run("bash", "-c", f"tar c -C {here} f | fcm cp - web:/t")
    assert host.run("bash", "-c", "fcm cp web:/t - | tar t").stdout == "t/\nt/f\n"
    done = host.run("bash", "-c", "echo nonsense | fcm cp - web:/t", check=False)
    assert done.returncode == 2 and "archive" in done.stderr


def test_curl(host, api, here):
    socket = ["curl", "-sS", "--fail-with-body", "--unix-socket", "/run/fcm/fcmd.sock"]
    url = "http://localhost/v1/vms/web/files"
    (here / "c").write_text("from curl")
    sh(host, "rm -rf /t; mkdir -p /t")
    done = host.run("bash", "-c", f"tar c -C {here} c | {' '.join(socket)} -T - '{url}?path=/t'")
    assert done.stdout == '{"entries":1,"bytes":9}\n'
    assert host.run("bash", "-c", f"{' '.join(socket)} '{url}?path=/t/c' | tar xO").stdout == "from curl"
    answer = api.get("/v1/vms/web/files?path=/nowhere")
    assert (answer.status, answer.code) == (404, "not_found")
    answer = api.put("/v1/vms/web/files?path=/nowhere", b"\0" * 10240)
    assert (answer.status, answer.code) == (404, "not_found")


@pytest.mark.parametrize("source, target, status, word", [
    ("web:/nowhere", "x", 3, "/nowhere"),
    ("web:/etc/hostname", "nowhere/x", 3, "nowhere"),
    ("nowhere", "web:/", 3, "nowhere"),
    ("web:/etc", "file", 2, "file"),
    ("file", "web:/nowhere/", 3, "/nowhere"),
    ("file", "web:/no/where", 3, "/no"),
    (".", "web:/etc/hostname", 2, "/etc/hostname"),
    ("file", "web:/dev/null", 2, "/dev/null"),
    ("nobody:/etc", ".", 3, "nobody"),
    ("file", "nobody:/etc", 3, "nobody"),
    ("file", "other", 2, "VM"),
    ("web:/etc", "web:/etc/x", 2, "inside"),
])
def test_what_fails(host, here, source, target, status, word):
    (here / "file").write_text("kept")
    done = host.run("bash", "-c", f"cd {here} && fcm cp {source} {target}", check=False)
    assert done.returncode == status and word in done.stderr and done.stderr.startswith("fcm: "), done
    assert os.listdir(here) == ["file"] and (here / "file").read_text() == "kept"


def test_a_full_disk(host, here):
    """What was there stays, nothing half stays, and the machine goes on."""
    with open(here / "large", "wb") as file:
        for _ in range(40):
            file.write(os.urandom(MIB))
    sh(host, "mkdir -p /small; mount -t tmpfs -o size=8m none /small; echo old >/small/large")
    done = cp(host, here / "large", "web:/small/", check=False)
    assert done.returncode == 7 and "No space" in done.stderr and "in the VM" in done.stderr, done
    assert sh(host, "cat /small/large; ls -A /small") == "old\nlarge\n"
    sh(host, "dd if=/dev/zero of=/16m bs=1M count=16 2>/dev/null")
    host.run("bash", "-c", "mkdir -p /root/small; mount -t tmpfs -o size=8m none /root/small")
    done = cp(host, "web:/16m", "/root/small", check=False)
    assert done.returncode == 7 and "No space" in done.stderr and "make room there" in done.stderr, done
    assert host.run("ls", "-A", "/root/small").stdout == ""
    host.run("umount", "/root/small")
    sh(host, "umount /small")


def start_large(host, here, *argv):
    with open(here / "large", "wb") as file:
        for _ in range(200):
            file.write(os.urandom(MIB))
    sh(host, "rm -rf /k; mkdir /k")
    child = host.spawn(["fcm", "cp", *argv], stderr=subprocess.PIPE)
    return child


@pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
def test_the_client_is_killed(host, here, sig):
    child = start_large(host, here, here / "large", "web:/k/large")
    wait_for("it copies", lambda: ".fcm-" in sh(host, "ls -A /k"), 20, 0.1)
    child.send_signal(sig)
    child.wait(10)
    wait_for("nothing is left", lambda: sh(host, "ls -A /k") == "", 10, 0.2)
    assert no_leftovers(host, "/k")


def test_the_client_is_killed_on_its_way_back(host, here):
    sh(host, "rm -rf /k; mkdir /k; dd if=/dev/urandom of=/k/large bs=1M count=100 2>/dev/null")
    child = host.spawn(["fcm", "cp", "web:/k/large", here / "large"])
    wait_for("it copies", lambda: any(name.startswith(".fcm-") for name in os.listdir(here)), 20, 0.02)
    child.send_signal(signal.SIGKILL)
    child.wait(10)
    wait_for("nothing is left", lambda: os.listdir(here) == [], 10, 0.1)
    wait_for("nor in the VM", lambda: no_leftovers(host, "/k"), 10, 0.2)


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
def test_the_daemon_ends_meanwhile(host, here, sig):
    boot_id = host.vm("web")["boot_id"]
    child = start_large(host, here, here / "large", "web:/k/large")
    wait_for("it copies", lambda: ".fcm-" in sh(host, "ls -A /k"), 20, 0.1)
    host.stop_daemon(sig)
    assert child.wait(20) not in (0, None)
    said = child.stderr.read()
    assert said.startswith(b"fcm: ") and b"closed" in said or b"daemon" in said, said
    host.start_daemon()
    wait_for("the session again", lambda: host.fcm("exec", "web", "true", check=False).returncode == 0, 30)
    wait_for("nothing is left", lambda: sh(host, "ls -A /k") == "", 10, 0.2)
    assert host.vm("web")["boot_id"] == boot_id


def test_the_vm_ends_meanwhile(host, here):
    host.create("short", memory=256)
    with open(here / "large", "wb") as file:
        for _ in range(100):
            file.write(os.urandom(MIB))
    child = host.spawn(["fcm", "cp", here / "large", "short:/large"], stderr=subprocess.PIPE)
    time.sleep(0.5)
    host.api.post("/v1/vms/short/kill")
    assert child.wait(20) not in (0, None)
    assert b"short" in child.stderr.read()


def test_a_hostile_guest(host, here):
    """A link of the guest's is never followed here, and its names stay below the target."""
    (here / "victim").write_text("good")
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        link = tarfile.TarInfo("t/l")
        link.type, link.linkname = tarfile.SYMTYPE, ".."
        tar.addfile(link)
    answer = host.api.put("/v1/vms/web/files?path=/", out.getvalue(), headers={"Content-Type": "application/x-tar"})
    assert answer.ok() == {"entries": 1, "bytes": 0}
    (here / "t").symlink_to(here)
    done = cp(host, "web:/t", here, check=False)
    assert done.returncode == 2 and "no directory" in done.stderr
    assert (here / "victim").read_text() == "good" and sorted(os.listdir(here)) == ["t", "victim"]
