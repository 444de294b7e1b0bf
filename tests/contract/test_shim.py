"""fcm-shim with any program: what the jail keeps in, what the shim keeps track of, how all of it ends.

Needs root. The tests run in a network and a mount namespace of their own.
"""
import ctypes
import os
import re
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("FCM_BUILD", TOP / "build"))
SHIM = BUILD / "daemon/shim/fcm-shim"
DRIVE = BUILD / "tests/contract/shimdrive"
UID = 64077
RING_HEADER, RING = 4096, 1 << 20
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    """A network and a mount namespace for this file only."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
              for name, kind in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))]
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        pytest.skip("can't make namespaces here")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    yield
    for fd, kind in before:
        libc.setns(fd, kind)
        os.close(fd)


def wait_for(condition, seconds=5.0, what="condition"):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        value = condition()
        if value:
            return value
        time.sleep(0.005)
    raise AssertionError(f"timeout: {what}")


def status(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)


def cpu_seconds(pid):
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def alive(pid):
    try:
        return status(pid)["State"][0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


class Vm:
    """A VM's directory, and what runs in it."""

    def __init__(self, folder):
        self.folder = folder
        self.run = folder / "jail/run"
        self.shim = self.vmm = 0
        self.run.mkdir(parents=True)
        folder.chmod(0o711)
        (folder / "jail").chmod(0o755)
        os.chown(self.run, UID, UID)
        self.run.chmod(0o700)

    def command(self, *args, pass_fds=(), **more):
        argv = [str(a) for a in (DRIVE, SHIM, self.folder, "contract", UID, *args)]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, pass_fds=pass_fds, check=False,
                              extra_groups=[4, 64078], **more)  # a daemon that has groups: none may get through

    def start(self, *args, **more):
        done = self.command(*args, **more)
        assert done.returncode == 0, done.stdout + done.stderr
        found = dict(word.split("=") for word in done.stdout.split())
        self.shim, self.vmm = int(found["shim"]), int(found["vmm"])
        return self

    def sh(self, script):
        return self.start("/bin/sh", "-c", script)

    def attach(self):
        s = socket.socket(socket.AF_UNIX)
        s.settimeout(10)
        s.connect(str(self.run / "console.sock"))
        return s

    def ring(self):
        data = (self.folder / "console.ring").read_bytes()
        total = struct.unpack_from("<8xQ", data)[0]
        body = data[RING_HEADER:]
        if total <= RING:
            return body[:total]
        return body[total % RING:] + body[:total % RING]

    def ends(self, seconds=10):
        wait_for(lambda: not alive(self.shim) and not alive(self.vmm), seconds, "the end of shim and VMM")

    def adopt(self):
        """After a start that failed half-way: the VMM from its pid file, its parent from /proc."""
        pid = int((self.folder / "firecracker.pid").read_text())
        if alive(pid):
            self.vmm, self.shim = pid, int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])

    def exit(self):
        text = (self.folder / "exit").read_text()
        return dict(entry.split("=") for entry in text.split("\0") if entry)

    def stop(self):
        if not self.vmm and (self.folder / "firecracker.pid").exists():
            self.adopt()
        for pid in (self.vmm, self.shim):
            if pid and alive(pid):
                os.kill(pid, signal.SIGKILL)
        if self.shim:
            self.ends()


@pytest.fixture
def vm(tmp_path):
    tmp_path.chmod(0o711)
    machine = Vm(tmp_path / "contract")
    yield machine
    machine.stop()


def read_until(s, marker, limit=1 << 22):
    data = b""
    while marker not in data:
        chunk = s.recv(65536)
        assert chunk, data[-400:]
        data += chunk
        assert len(data) < limit
    return data


# ---- what the jail keeps in ----

NO_CAPS = "0000000000000000"


def assert_nobody(pid):
    s = status(pid)
    assert s["Uid"].split() == [str(UID)] * 4
    assert s["Gid"].split() == [str(UID)] * 4
    assert s["Groups"].split() == []
    assert s["NoNewPrivs"] == "1"
    for caps in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert s[caps] == NO_CAPS, caps


def test_neither_has_any_privilege(vm):
    vm.sh("read x")
    assert_nobody(vm.vmm)
    assert_nobody(vm.shim)
    limits = Path(f"/proc/{vm.vmm}/limits").read_text()
    assert re.search(r"Max core file size +0 +0 ", limits)
    assert re.search(r"Max open files +1024 +1024 ", limits)


def test_namespaces_are_its_own(vm):
    """The control: user namespace and pids are shared, so the comparison is able to find two the same."""
    vm.sh("read x")
    for name, shared in (("mnt", False), ("ipc", False), ("user", True), ("pid", True)):
        same = os.readlink(f"/proc/{vm.vmm}/ns/{name}") == os.readlink(f"/proc/self/ns/{name}")
        assert same == shared, name
    host = Path("/proc/self/mountinfo").read_text()
    assert str(vm.folder) not in host
    inside = Path(f"/proc/{vm.vmm}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: set(line.split()[5].split(",")) for line in inside}
    assert set(options) == {"/", "/usr", "/run", "/dev/null"}
    assert {"ro", "nosuid", "nodev", "noexec"} <= options["/"]
    assert {"ro", "nosuid", "nodev"} <= options["/usr"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= options["/run"]
    assert {"nosuid", "noexec"} <= options["/dev/null"]


def test_what_it_sees_and_can_do(vm):
    vm.sh("ls /; cat /etc/shadow; ls /proc /sys /home /var; echo x >/usr/planted; echo x >/planted; mkdir /run/ok && echo made;"
          " cp /bin/true /run/t && chmod 755 /run/t; /run/t; echo t=$?; ulimit -c; echo fds; ls -l /dev/fd/ || :; echo END; read x")
    text = read_until(vm.attach(), b"END\n").decode()
    assert text.splitlines()[:6] == ["bin", "dev", "lib", "lib64", "run", "usr"]
    for path in ("/etc/shadow", "/proc", "/sys", "/home", "/var"):
        assert re.search(rf"{path}'?: No such file", text), text
    assert "/usr/planted: Read-only file system" in text
    assert "/planted: Read-only file system" in text
    assert "made\n" in text
    assert "t=126\n" in text  # what it can write it can't execute
    assert not Path("/usr/planted").exists()


def test_gets_only_what_the_plan_hands_on(vm):
    extra = os.open("/etc/hostname", os.O_RDONLY)
    try:
        vm.start("/bin/sh", "-c", "read x", pass_fds=(extra,))
    finally:
        os.close(extra)
    assert sorted(os.listdir(f"/proc/{vm.vmm}/fd")) == ["0", "1", "2"]
    links = [os.readlink(f"/proc/{vm.shim}/fd/{fd}") for fd in os.listdir(f"/proc/{vm.shim}/fd")]
    assert not any("hostname" in link or link == str(vm.folder) for link in links), links
    names = sorted(link.rsplit("/", 1)[-1] for link in links if link.startswith(str(vm.folder)))
    assert names == ["console.ring", "console.times", "exit"]


def test_the_environment_is_what_the_plan_says(vm):
    vm.start("/usr/bin/sleep", "60", env={"VARIABLE": "WORD=two words", "HOME": "/root"})
    assert Path(f"/proc/{vm.vmm}/environ").read_bytes() == b"WORD=two words\0"


def test_memory_in_a_file_has_its_size_and_no_more(vm):
    """The control: what the jail's /run takes, a file system of the host, is refused by that of the memory."""
    vm.start("/bin/sh", "-c", "cd /ram; ls -ln; yes | head -c 8M >memory && echo full; yes | head -c 9M >memory; truncate -s 8M memory; for d in /ram /run; do echo x >$d/other && echo made-$d; done; "
             "mv memory m; rm memory; chmod 777 .; echo END; read x", env={**os.environ, "MEMORY": "8"})
    text = read_until(vm.attach(), b"END\n").decode()
    assert re.search(rf"^-rw------- 1 {UID} {UID} {8 << 20} .* memory$", text, re.M), text
    assert "full\n" in text and "No space left" in text and "made-/run\n" in text, text
    assert "made-/ram" not in text
    assert [p.name for p in Path(f"/proc/{vm.vmm}/root/ram").iterdir()] == ["memory"]
    options = {line.split()[4]: line for line in Path(f"/proc/{vm.vmm}/mountinfo").read_text().splitlines()}["/ram"]
    assert {"rw", "nosuid", "nodev", "noexec"} <= set(options.split()[5].split(",")), options
    assert "/ram" not in Path("/proc/self/mountinfo").read_text()


def test_planted_files_are_not_followed(vm, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("untouched")
    for name in ("exit", "firecracker.pid"):
        (vm.folder / name).symlink_to(victim)
    (vm.run / "console.sock").symlink_to(victim)
    vm.sh("sleep 0.2; exit 3")
    vm.ends()
    assert victim.read_text() == "untouched"
    assert vm.exit() == {"status": "3", "signal": "0"}
    assert not (vm.folder / "exit").is_symlink()


@pytest.mark.parametrize("owner,mode", [(UID, 0o755), (0, 0o775), (0, 0o757)])
def test_refuses_a_jail_that_others_can_write(vm, owner, mode):
    os.chown(vm.folder / "jail", owner, owner)
    (vm.folder / "jail").chmod(mode)
    done = vm.command("/bin/true")
    assert done.returncode == 1 and "not a directory that only root can write" in done.stdout


def test_refuses_a_planted_mount_point(vm, tmp_path):
    victim = tmp_path / "victim"
    victim.mkdir()
    (vm.folder / "jail/dev").symlink_to(victim)
    done = vm.command("/bin/true")
    assert done.returncode == 1 and "make /dev/null in the jail" in done.stdout
    assert not list(victim.iterdir())


def test_reasons_reach_the_caller(vm):
    done = vm.command("/usr/bin/nonexistent")
    assert done.stdout == "error: shim: exec /usr/bin/nonexistent: No such file or directory\n"
    done = vm.command("/bin/sh", "-c", "echo the reason; exit 1")
    assert done.returncode == 0 or done.stdout == "error: shim: /bin/sh ended at once: the reason\n"


def test_joins_its_group(vm):
    """Any v1 or v2 group will do: the shim only writes to the cgroup.procs that it is given."""
    mount = next((m for m in ("/sys/fs/cgroup/freezer", "/sys/fs/cgroup") if Path(m, "cgroup.procs").exists()), None)
    if mount is None:
        pytest.skip("no cgroup hierarchy here")
    group = Path(mount, f"fcm-contract-{os.getpid()}")
    group.mkdir()
    try:
        vm.start("/bin/sh", "-c", "read x", env={"CGROUP": str(group / "cgroup.procs")})
        members = set((group / "cgroup.procs").read_text().split())
        assert members == {str(vm.shim), str(vm.vmm)}
        vm.stop()
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text(), 5, "an empty group")
        group.rmdir()
    done = vm.command("/bin/true", env={"CGROUP": str(group / "cgroup.procs")})
    assert done.returncode == 1 and "join cgroup" in done.stdout


# ---- how it ends ----

@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_vmm_killed(vm, number):
    vm.sh("read x")
    assert (vm.folder / "exit").read_bytes() == b""
    assert int((vm.folder / "firecracker.pid").read_text()) == vm.vmm
    os.kill(vm.vmm, number)
    vm.ends()
    assert vm.exit() == {"status": "0", "signal": str(int(number))}
    assert not list(vm.folder.rglob("core*"))


def test_vmm_exits(vm):
    vm.sh("sleep 0.2; exit 42")
    vm.ends()
    assert vm.exit() == {"status": "42", "signal": "0"}


def test_shim_killed_takes_its_vmm_along(vm):
    vm.sh("trap '' TERM HUP INT; while :; do read x; done </dev/null; sleep 1000")
    vm2 = vm.vmm
    t = time.monotonic()
    os.kill(vm.shim, signal.SIGKILL)
    wait_for(lambda: not alive(vm2), 2, "the end of the VMM")
    print(f"shim killed -> VMM gone: {(time.monotonic() - t) * 1e3:.1f} ms")
    assert (vm.folder / "exit").read_bytes() == b""


def test_shim_ignores_what_a_shutdown_sends(vm):
    vm.sh("read x; exit 5")
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT, signal.SIGPIPE):
        os.kill(vm.shim, number)
    time.sleep(0.1)
    assert alive(vm.shim) and alive(vm.vmm)
    vm.attach().sendall(b"go\n")
    vm.ends()
    assert vm.exit()["status"] == "5"


# ---- the console ----

def test_console_both_ways_and_several_readers(vm):
    vm.sh("echo first; while read x; do echo got $x; done")
    a = vm.attach()
    read_until(a, b"first\n")
    b = vm.attach()
    read_until(b, b"first\n")  # what came before is replayed
    b.sendall(b"hello\n")
    for s in (a, b):
        read_until(s, b"got hello\n")
    b.shutdown(socket.SHUT_WR)  # sends no more, still reads
    a.sendall(b"again\n")
    read_until(b, b"got again\n")
    a.close()
    vm.attach().sendall(b"third\n")
    read_until(b, b"got third\n")
    os.kill(vm.vmm, signal.SIGKILL)
    while b.recv(100):
        pass
    assert vm.ring() == b"first\ngot hello\ngot again\ngot third\n"


def test_console_of_the_last_run_is_kept_and_not_replayed(vm):
    vm.sh("echo one; sleep 0.2")
    vm.ends()
    vm.sh("echo two; read x")
    assert read_until(vm.attach(), b"two\n") == b"two\n"
    assert vm.ring() == b"one\ntwo\n"


def test_a_new_reader_gets_the_last_screens_from_a_line_on(vm):
    vm.sh("i=0; while [ $i -lt 5000 ]; do i=$((i + 1)); echo line $i of many; done; echo END; read x")
    wait_for(lambda: vm.ring().endswith(b"END\n"), 10, "the lines")
    lines = read_until(vm.attach(), b"END\n").splitlines()
    count = len(lines) - 1
    assert 24 * 80 < sum(map(len, lines)) <= 32768
    assert lines == [b"line %d of many" % n for n in range(5001 - count, 5001)] + [b"END"]


def test_flood_is_bounded_and_a_slow_reader_harms_nobody(vm):
    """Bursts of half a ring, which an honest reader keeps up with, then 200 MB at once."""
    vm.sh("read x; for i in 1 2 3 4 5 6 7 8; do yes yyy | head -c 500000; sleep 0.1; done; echo END;"
          " read x; yes yyy | head -c 200000000; echo LAST; read x")
    slow, quick = vm.attach(), vm.attach()
    quick.sendall(b"go\n")
    got, tail = 0, b""
    while not tail.endswith(b"END\n"):
        chunk = quick.recv(65536)
        assert chunk, got
        got, tail = got + len(chunk), (tail + chunk)[-100:]
    assert got == 4000004
    got = 0
    while chunk := slow.recv(1 << 20):  # dropped: what its socket held, then the end
        got += len(chunk)
    assert got < 2 << 20
    quick.sendall(b"go\n")
    before = cpu_seconds(vm.shim)
    wait_for(lambda: vm.ring().endswith(b"LAST\n"), 60, "the end of the flood")
    assert len(vm.ring()) == RING
    used = cpu_seconds(vm.shim) - before
    print(f"shim CPU for 200 MB: {used:.2f} s")
    assert used < 5
    rss = int(status(vm.shim)["VmRSS"].split()[0])
    print(f"shim RSS after the flood: {rss} kB")
    assert rss <= 1024
    assert (vm.folder / "console.ring").stat().st_blocks * 512 <= RING + 2 * RING_HEADER


@pytest.mark.parametrize("nonblock", [False, True])
def test_stdin_blocks_unless_the_plan_says_no(vm, nonblock):
    env = {**os.environ, **({"NONBLOCK": "1"} if nonblock else {})}
    vm.start("/bin/sh", "-c", "sleep 1000", env=env)
    flags = int(re.search(r"flags:\s+(\d+)", Path(f"/proc/{vm.vmm}/fdinfo/0").read_text())[1], 8)
    assert bool(flags & os.O_NONBLOCK) == nonblock


def test_input_that_nobody_reads_is_bounded(vm):
    vm.sh("echo up; sleep 1000")
    s = vm.attach()
    read_until(s, b"up\n")
    s.setblocking(False)
    sent = 0
    for _ in range(50):
        try:
            while True:
                sent += s.send(bytes(65536))
        except BlockingIOError:
            time.sleep(0.01)
    assert sent < 4 << 20
    s.setblocking(True)
    read_until(vm.attach(), b"up\n")  # others are served
    assert int(status(vm.shim)["VmRSS"].split()[0]) <= 1024


def test_last_words(vm):
    """All that was in the pipe when the VMM died is kept: the shim is stopped until then."""
    vm.sh("sleep 0.3; yes zzz | head -c 60000; echo LAST; kill -9 $$")
    os.kill(vm.shim, signal.SIGSTOP)
    wait_for(lambda: not alive(vm.vmm), 5, "the end of the VMM")
    os.kill(vm.shim, signal.SIGCONT)
    vm.ends()
    assert vm.ring().endswith(b"zzz\nLAST\n") and len(vm.ring()) == 60005
    assert vm.exit()["signal"] == "9"


HALTED = "echo '[    8.274077] reboot: System halted'; "


def test_a_guest_that_halted_is_ended(vm):
    vm.sh(f"echo up; {HALTED} sleep 100")
    vm.ends(8)
    assert vm.exit()["signal"] == "9" and vm.ring().endswith(b"System halted\n")


def test_one_that_works_or_writes_on_is_not(vm):
    """Whatever it says."""
    vm.sh(f"(sleep 4; echo end) & {HALTED} while :; do :; done")
    read_until(vm.attach(), b"end\n")
    assert alive(vm.vmm)


def test_too_many_readers(vm):
    vm.sh("echo up; read x")
    held = [vm.attach() for _ in range(8)]
    for s in held:
        read_until(s, b"up\n")
    assert vm.attach().recv(100) == b""
    held.pop().close()
    wait_for(lambda: vm.attach().recv(100) == b"up\n", 2, "a free place")
