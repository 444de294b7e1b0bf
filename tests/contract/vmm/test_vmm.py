"""The contract of daemon/vmm/vmm.h, the same for each driver and accelerator: through the real shim and jail, as the engine does.

FCM_VMM_DRIVERS names what is driven: qemu-tcg, qemu-kvm, firecracker, fake-qemu, fake-firecracker. Here the first and the
scripted ones; the others where KVM works, by tests/host/test_vmm.py. The last test prints what was covered and fails where
one of those asked for took no part. Needs root; the tests run in a network namespace of their own.
"""
import ctypes
import json
import os
import re
import shutil
import socket
import subprocess
import tarfile
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
BUILD = Path(os.environ.get("FCM_BUILD") or TOP / "build")
ASSETS = Path(os.environ.get("FCM_ASSETS") or BUILD / "assets")
DRIVE = BUILD / "tests/contract/vmmdrive"
SHIM = BUILD / "daemon/shim/fcm-shim"
ASKED = os.environ.get("FCM_VMM_DRIVERS", "qemu-tcg fake-qemu fake-firecracker").split()
UID = 64077
CLONE_NEWNET = 0x40000000
COVERED = set()

# name -> (driver, accelerator, program)
KINDS = {
    "qemu-tcg": ("qemu", "tcg", "/usr/bin/qemu-system-x86_64"),
    "qemu-kvm": ("qemu", "kvm", "/usr/bin/qemu-system-x86_64"),
    "firecracker": ("firecracker", "kvm", "/usr/local/bin/firecracker"),
    "fake-qemu": ("qemu", "tcg", BUILD / "tests/fake/fake-vmm"),
    "fake-firecracker": ("firecracker", "tcg", BUILD / "tests/fake/fake-firecracker"),
}
REAL = [k for k in ASKED if not k.startswith("fake-")]
FIRECRACKERS = [k for k in ASKED if KINDS[k][0] == "firecracker"]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


class Refused(Exception):
    """A call of the driver's failed: str() is "<code> <message>"."""


@pytest.fixture(scope="module", autouse=True)
def network():
    """A network namespace for this file only."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    assert libc.unshare(CLONE_NEWNET) == 0
    yield
    libc.setns(before, CLONE_NEWNET)
    os.close(before)


@pytest.fixture(scope="module")
def assets(tmp_path_factory):
    """vmlinux, initrd and image.ext4; for the scripted VMMs, which read none of it, empty ones do."""
    folder = tmp_path_factory.mktemp("assets")
    for name, members in (("kernel", ("vmlinux", "initrd")), ("tiny", ("image.ext4",))):
        if REAL:
            with tarfile.open(ASSETS / f"{name}.tar") as tar:
                for member in members:
                    with open(folder / member, "wb") as out:
                        shutil.copyfileobj(tar.extractfile(member), out)
        else:
            for member in members:
                (folder / member).touch()
    for path in (folder, *folder.parents):
        if path != Path("/tmp") and path.owner() == "root" and path != Path("/"):
            path.chmod(path.stat().st_mode | 0o111)
    for path in folder.iterdir():
        path.chmod(0o444)
    return folder


class Vm:
    """A VM's folder and the program that drives it."""

    def __init__(self, kind, folder, assets, ident="contract", tap=True):
        self.kind, self.folder, self.id = kind, folder, ident
        self.driver, accel, program = KINDS[kind]
        self.run_dir = folder / "jail/run"
        self.run_dir.mkdir(parents=True)
        folder.chmod(0o711)
        (folder / "jail").chmod(0o755)
        os.chown(self.run_dir, UID, UID)
        disk = folder / "rootfs.img"
        disk.touch()
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", disk, "64M"], check=True)
        os.chown(disk, UID, UID)
        if tap:
            subprocess.run(["ip", "tuntap", "add", f"tap_{ident}", "mode", "tap", "user", str(UID)], check=True)
        argv = [DRIVE, self.driver, accel, program, SHIM, folder, ident, UID, assets, disk]
        # The scripted ones take their fault from the VM's name, in the guest's command line, or from its id.
        self.process = subprocess.Popen([str(a) for a in argv], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env={**os.environ, "NAME": f"fault-{ident}"})
        self.pids = {}

    def __call__(self, command):
        """Give a command; what follows "ok" in its answer."""
        self.process.stdin.write(command + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().rstrip("\n")
        word, _, rest = answer.partition(" ")
        if word != "ok":
            raise Refused(rest or "the driving program ended")
        if command == "start":
            self.pids = {k: int(v) for k, v in (w.split("=") for w in rest.split())}
        return rest

    def lines(self, command):
        return [self.process.stdout.readline().rstrip("\n") for _ in range(int(self(command)))]

    def up(self, *commands):
        for command in commands or ("start", "attach", "configure", "boot"):
            self(command)
        return self

    def words(self, command):
        return dict(w.split("=", 1) for w in self(command).split(" ") if "=" in w)

    def console(self):
        data = (self.folder / "console.ring").read_bytes()[4096:]
        return data.rstrip(b"\0").decode("utf-8", "replace")

    def close(self):
        self.process.stdin.close()
        for pid in self.pids.values():
            try:
                os.kill(pid, 9)
            except ProcessLookupError:
                pass
        self.pids = {}
        self.process.wait(20)
        self.process.stdout.close()
        subprocess.run(["ip", "link", "del", f"tap_{self.id}"], check=False, stderr=subprocess.DEVNULL)


@pytest.fixture
def make(tmp_path, assets):
    machines = []
    tmp_path.chmod(0o711)

    def start(kind, ident="contract", **more):
        machines.append(Vm(kind, tmp_path / f"{ident}-{len(machines)}", assets, ident, **more))
        return machines[-1]
    yield start
    for machine in machines:
        machine.close()


@pytest.fixture(params=ASKED)
def vm(request, make):
    machine = make(request.param)
    COVERED.add(request.param)
    return machine


def talk(vm):
    vm("channel")
    return vm.words("hello")["boot_id"]


# ---- the contract ----

def test_plan_needs_nothing_and_shows_no_secret_of_the_host(vm):
    argv = vm.lines("plan")
    assert argv[0].startswith("/") and not any(str(vm.folder) in a for a in argv), "paths in the jail are constant"
    assert vm.lines("plan") == argv, "pure"
    assert all(str(vm.run_dir) in line for line in vm.lines("describe"))


def test_a_life(vm):
    """Up, the agent answers, its word comes before the end, and the end is recorded."""
    vm.up()
    boot_id = talk(vm)
    assert re.fullmatch(r"[0-9a-f-]{36}", boot_id)
    answer = vm.words("call ping echo=there")
    assert answer["echo"] == "there" and answer["boot_id"] == boot_id
    assert vm.words("call power intent=reboot grace_ms=500")["ok"] == "1"
    assert vm.words("event") == {"event": "power", "intent": "reboot"}
    begun = time.monotonic()
    assert vm("ended 15000") == "status=0 signal=0"
    print(f"{vm.kind}: ended {time.monotonic() - begun:.2f} s after its last word")


def test_disks_are_where_the_agent_looks(vm):
    vm.up()
    talk(vm)
    assert vm.words("call mount image=/dev/vda disk=/dev/vdb").get("sshd") in ("dropbear", "none")


def test_nothing_runs_before_boot(vm):
    vm.up("start", "attach", "configure", "limit 700")
    with pytest.raises(Refused):
        vm("channel")
        vm("hello")
    assert vm.console().strip() == ""
    vm.up("limit 20000", "boot")
    talk(vm)


def test_pause_and_resume(vm):
    vm.up()
    boot_id = talk(vm)
    vm.up("pause", "limit 500")
    with pytest.raises(Refused, match="^timeout "):
        vm("call ping echo=paused")
    vm.up("limit 15000", "resume")
    assert talk(vm) == boot_id


def test_soft_off_reaches_the_guest(vm):
    vm.up()
    talk(vm)
    vm("soft_off")
    assert vm("ended 15000") == "status=0 signal=0"


def test_a_second_daemon_attaches(vm):
    """free() leaves the VMM alone, attach() serves one that runs, and the channel can be opened again and again."""
    vm.up()
    boot_id = talk(vm)
    for _ in range(3):
        vm.up("free", "attach")
        assert talk(vm) == boot_id
    vm("pause")
    vm("resume")


def test_a_killed_vmm_is_told_at_once(vm):
    vm.up()
    talk(vm)
    os.kill(vm.pids["vmm"], 9)
    assert vm("ended 5000") == "status=0 signal=9"
    begun = time.monotonic()
    for command in ("pause", "channel", "free", "attach"):
        if command == "free":
            vm(command)
            continue
        with pytest.raises(Refused, match="^vmm_|^vmm "):
            vm(command)
    assert time.monotonic() - begun < 3


def status_of(pid):
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: value.split() for key, _, value in (line.partition(":") for line in lines)}


def test_the_jail(vm):
    """Neither the VMM nor its shim may do anything, and the one dies with the other."""
    vm.up()
    for pid in vm.pids.values():
        status = status_of(pid)
        assert status["Uid"] == status["Gid"] == [str(UID)] * 4
        assert status["CapEff"] == status["CapBnd"] == ["0000000000000000"]
        assert status["NoNewPrivs"] == ["1"]
    if vm.kind in REAL:
        for task in Path(f"/proc/{vm.pids['vmm']}/task").iterdir():
            assert status_of(task.name)["Seccomp"] == ["2"], "each thread"
        own = os.readlink(f"/proc/{vm.pids['vmm']}/ns/net") == os.readlink("/proc/self/ns/net")
        assert own == (vm.driver == "firecracker"), "it opens its TAP by name, QEMU gets a descriptor"
    os.kill(vm.pids["shim"], 9)
    wait_for("the end of its VMM", lambda: not Path(f"/proc/{vm.pids['vmm']}/exe").exists(), 5)


def test_a_missing_file_is_named(vm):
    (vm.folder / "rootfs.img").unlink()
    with pytest.raises(Refused, match="shim: bind .*/rootfs.img: No such file or directory"):
        vm("start")


def test_no_tap_is_an_error(make):
    for kind in FIRECRACKERS:
        machine = make(kind, "notap", tap=False).up("start", "attach")
        with pytest.raises(Refused, match="there is no device tap_notap"):
            machine("configure")


def run_in_guest(machine, folder, *script):
    """Boot it and let it run a script, which says something on the console: see said()."""
    path = folder / "rc"
    path.write_text("\n".join(["#!/bin/sh", *script]) + "\n")
    machine.up()
    talk(machine)
    for command in ("call mount image=/dev/vda disk=/dev/vdb", f"rc {path}", "call start"):
        machine(command)


def wait_for(what, condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, what
        time.sleep(0.1)


def said(machine, word):
    wait_for(f"the guest to say {word}", lambda: word in machine.console())


def seconds_in_guest(machine, folder, bs, count, tries=1):
    """Seconds that the guest needs, at best, to read so many blocks of its disk, past its cache."""
    read = [f"dd if=/dev/vdb of=/dev/null iflag=direct bs={bs} count={count} 2>/dev/null", "echo took $(($(now) - $begun))."]
    script = ["now() { sed 's/ .*//; s/[.]//; s/^0*//' /proc/uptime; }",  # 0.95: 095 would be octal
              *["begun=$(now)", *read] * tries, "echo all-done"]
    run_in_guest(machine, folder, *script)
    said(machine, "all-done")
    machine.close()
    return min(int(hundredths) / 100 for hundredths in re.findall(r"took (\d+)\.", machine.console()))


BYTES, OPERATIONS = ("64k", 320), ("4k", 100)


@pytest.mark.parametrize("kind", REAL)
def test_the_disk_has_a_limit(make, kind, tmp_path):
    """20 MiB at 4 MiB a second and 100 operations at 20 a second take three seconds more than the two whose share may come at
    once. On a busy host they may take long without a limit, but not each time."""
    free = [seconds_in_guest(make(kind), tmp_path, *what, tries=3) for what in (BYTES, OPERATIONS)]
    limited = [seconds_in_guest(make(kind).up("disk 4 0"), tmp_path, *BYTES),
               seconds_in_guest(make(kind).up("disk 0 20"), tmp_path, *OPERATIONS)]
    print(f"{kind}: without limits {free} s, with them {limited} s")
    assert max(free) < 2.5 <= min(limited)


@pytest.mark.parametrize("kind", REAL)
def test_freed_memory_goes_back(make, kind, tmp_path):
    """Free page reporting: what the guest has used and freed doesn't stay with its VMM. (Linux reports nothing while less
    than some 70 MiB of a zone are free: mm/page_reporting.c.)"""
    machine = make(kind).up("memory 512")
    if machine.driver == "firecracker" and not any("/balloon" in line for line in machine.lines("describe")):
        pytest.skip("Firecracker before 1.14 keeps it")
    run_in_guest(machine, tmp_path, "dd if=/dev/zero of=/tmp/x bs=1M count=150", "echo is-used", "sleep 3", "rm /tmp/x",
                 "echo is-freed")

    def rss():
        status = Path(f"/proc/{machine.pids['vmm']}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+)", status)[1]) // 1024
    said(machine, "is-used")
    used = rss()
    said(machine, "is-freed")
    wait_for("its memory to come back", lambda: rss() < used - 100, 20)
    print(f"{kind}: {used} MiB used, then {rss()} MiB")


# ---- Firecracker's refusals ----

@pytest.mark.parametrize("kind", FIRECRACKERS)
def test_its_words_reach_the_user(make, kind):
    machine = make(kind).up("start", "attach")
    with pytest.raises(Refused, match="Start microvm error: Cannot start microvm without kernel configuration"):
        machine("boot")
    machine.up("configure", "boot")
    with pytest.raises(Refused, match="PUT /machine-config .*not supported after starting the microVM"):
        machine("configure")
    talk(machine)


def ask(path, method, url, body):
    """One call by hand, and the first answer: (status, its body as JSON, or as text where it isn't)."""
    text = "" if body is None else body if isinstance(body, str) else json.dumps(body)
    head = f"{method} {url} HTTP/1.1\r\nHost: localhost\r\n"
    if text or method in ("PUT", "PATCH"):
        head += f"Content-Type: application/json\r\nContent-Length: {len(text)}\r\n"
    with socket.socket(socket.AF_UNIX) as s:
        s.settimeout(10)
        s.connect(str(path))
        s.sendall((head + "\r\n" + text).encode())
        data = b""
        while b"\r\n\r\n" not in data or len(data.split(b"\r\n\r\n", 1)[1]) < length(data):
            chunk = s.recv(65536)
            assert chunk, data
            data += chunk
    head, answer = data.split(b"\r\n\r\n", 1)
    answer = answer[:length(data)].decode()
    try:
        return int(head.split()[1]), json.loads(answer) if answer else None
    except ValueError:
        return int(head.split()[1]), answer


def length(data):
    found = re.search(rb"(?i)content-length: *(\d+)", data.split(b"\r\n\r\n", 1)[0])
    return int(found[1]) if found else 0


@pytest.mark.parametrize("kind", FIRECRACKERS)
def test_recorded_answers(make, kind):
    """What was recorded of a real 1.12.1 is what this one says: the scripted one is honest, and so are our notes of the real."""
    machine = make(kind)
    states = {"new": ("start", "attach"), "running": ("configure", "boot"), "paused": ("pause",)}
    recorded = [json.loads(line) for line in (HERE / "calls.jsonl").read_text().splitlines()]
    for state, commands in states.items():
        machine.up(*commands)
        for call in (c for c in recorded if c["state"] == state):
            body = call["body"]
            if isinstance(body, dict):
                body = {k: "/vmlinux" if v == "/opt/fc/vmlinux" else "/rootfs.img" if str(v).endswith("ext4") else v
                        for k, v in body.items()}
            got = ask(machine.run_dir / "vmm.sock", call["method"], call["path"], body)
            assert got == (call["status"], call["response"]), call


# ---- faults of the scripted VMMs ----

FAULTS = {
    "fake-firecracker": {
        "exit": "the VMM has ended|ended at once|did not come up",
        "nosocket": "^timeout .*did not come up in time",
        "hung": "^timeout .*the VMM does not answer",
        "slow": "^timeout .*the VMM does not answer",
        "garbage": "what is no answer",
        "half": "^timeout |closed its control socket",
        "close": "closed its control socket",
        "flood": "what is no answer",
        "refuse": "the VMM refused PUT /machine-config .400.: not in this .{1,3}5mstate nor in any",
        "order": "makes no sense|isn't Firecracker",
    },
    "fake-qemu": {
        "exit": "could not allocate guest memory|the VMM has ended",
        "nosocket": "^timeout .*did not come up in time",
        "hung": "^timeout .*the VMM does not answer",
        "slow": "^timeout .*the VMM does not answer",
        "garbage": "what is no JSON object",
        "half": "^timeout .*the VMM does not answer",
        "close": "closed its control socket",
        "flood": "floods its control socket",
        "refuse": "the VMM refused cont: not in this .{1,3}5mstate",
    },
}


@pytest.mark.parametrize("kind,fault", [(kind, fault) for kind in FAULTS if kind in ASKED for fault in FAULTS[kind]])
def test_fault(make, kind, fault):
    """Each ends in an error that says what is wrong, by the deadline, and the driver's next call does, too."""
    machine = make(kind, fault)
    begun = time.monotonic()
    with pytest.raises(Refused, match=FAULTS[kind][fault]):
        machine.up("limit 800", "start", "attach", "configure", "boot")
    assert time.monotonic() - begun < 4


@pytest.fixture
def faulty(make):
    if "fake-firecracker" not in ASKED:
        pytest.skip("the scripted VMM isn't asked for")
    return lambda fault: make("fake-firecracker", fault)


@pytest.mark.parametrize("call", range(1, 10))
def test_it_dies_at_a_call(faulty, call):
    machine = faulty(f"die{call}").up("start")
    begun = time.monotonic()
    with pytest.raises(Refused, match="^vmm.*(closed its control socket|has ended)"):
        machine.up("attach", "configure", "boot")
    assert machine("ended 3000") == "status=1 signal=0"
    assert time.monotonic() - begun < 3


def test_one_call_more_and_it_lives(faulty):
    """The control of the test above: a life makes nine calls."""
    talk(faulty("die10").up())


def test_answers_that_come_twice(faulty):
    machine = faulty("twice").up()
    talk(machine)
    machine.up("pause", "resume")


def test_connections_that_lead_nowhere(faulty):
    """As after a snapshot's load: the first is closed at once, the next isn't answered."""
    machine = faulty("lost").up()
    begun = time.monotonic()
    talk(machine)
    assert time.monotonic() - begun < 2


def test_rubbish_from_the_vsock(faulty):
    machine = faulty("noise").up()
    with pytest.raises(Refused, match="refused a channel to the agent"):
        machine("channel")


def test_planted_sockets(faulty, tmp_path):
    """What stands in the place of a socket, and isn't one, is not connected to."""
    machine = faulty("planted")
    victim = tmp_path / "victim"
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(str(victim))
        s.listen()
        s.settimeout(0.2)
        (machine.run_dir / "vmm.sock").symlink_to(victim)
        (machine.run_dir / "agent.sock").symlink_to(victim)
        for command in ("attach", "channel"):
            with pytest.raises(Refused):
                machine.up("limit 300", command)
        with pytest.raises(TimeoutError):
            s.accept()


# ---- which driver ----

def choose(*config, path="/usr/bin:/bin"):
    done = subprocess.run([DRIVE, "--choose", *config], capture_output=True, text=True, check=True, timeout=30, env={"PATH": path})
    found = re.fullmatch(r"driver=(\S*) version=(\S*) accel=(\S*) binary=(\S*) ms=(\d+) reason=(.*) kvm=(.*)\n", done.stdout)
    return dict(zip(("driver", "version", "accel", "binary", "ms", "reason", "kvm"), found.groups()))


@pytest.fixture
def no_kvm():
    """Commands that run with a /dev/kvm that is none."""
    def run(*config):
        script = 'mount --make-rprivate / && { [ ! -e /dev/kvm ] || mount --bind /dev/null /dev/kvm; } && exec "$@"'
        done = subprocess.run(["unshare", "-m", "sh", "-c", script, "sh", DRIVE, "--choose", *config], capture_output=True,
                              text=True, check=True, timeout=30)
        return done.stdout
    return run


def test_auto_without_kvm(no_kvm):
    program = KINDS["fake-firecracker"][2]
    if not Path(program).exists():
        pytest.skip("no scripted Firecracker here")
    out = no_kvm(f"firecracker={program}")
    assert out.startswith("driver=qemu ") and "accel=tcg" in out and "no usable KVM" in out
    assert no_kvm(f"firecracker={program}", "vmm=firecracker").startswith("driver=none ")
    assert "no usable KVM" in no_kvm(f"firecracker={program}", "accel=kvm")
    assert no_kvm(f"firecracker={program}", "accel=kvm").startswith("driver=none ")


def test_auto_says_why():
    got = choose(f"firecracker={KINDS['fake-qemu'][2]}" if "fake-qemu" in ASKED else "firecracker=/bin/true", "vmm=firecracker")
    assert got["driver"] == "none" and "doesn't say" in got["reason"]
    got = choose("firecracker=nonesuch", "vmm=firecracker")
    assert got["driver"] == "none" and got["reason"] == "nonesuch is not installed"


def test_kvm_is_looked_at_for_a_program_that_may_use_it():
    firecracker = KINDS["fake-firecracker"][2]
    if not firecracker.exists() or "firecracker" in ASKED:
        pytest.skip("no scripted Firecracker here, or a KVM that works at once")
    got = choose(f"firecracker={firecracker}")
    assert (got["driver"], got["accel"], got["reason"]) == ("qemu", "tcg", got["kvm"])
    assert got["kvm"].startswith("no usable KVM: ")
    assert choose("firecracker=nonesuch", "vmm=firecracker")["kvm"] == ""
    asked = choose(f"firecracker={firecracker}", "accel=tcg")
    assert (asked["driver"], asked["accel"], asked["reason"]) == ("qemu", "tcg", "no KVM: accel = tcg in the config")


def test_auto_with_kvm():
    """Where KVM works the best driver is Firecracker, then QEMU with KVM, which says why it isn't Firecracker."""
    if "firecracker" not in ASKED:
        pytest.skip("KVM doesn't work here")
    best = choose()
    assert (best["driver"], best["accel"]) == ("firecracker", "kvm")
    assert best["reason"] == "" and best["kvm"].startswith("KVM works")
    assert best["binary"] == "/usr/local/bin/firecracker"
    second = choose("firecracker=nonesuch")
    assert (second["driver"], second["accel"]) == ("qemu", "kvm") and second["reason"] == "nonesuch is not installed"


# ---- the sum ----

def test_every_driver_took_part(request):
    """Last in the file. A driver that somebody adds, and nobody drives, is found here as well."""
    if request.session.testscollected < 20:
        pytest.skip("only some tests were chosen")
    print("\nvmm contract: covered " + " ".join(sorted(COVERED)))
    assert COVERED == set(ASKED)
    built = set(subprocess.run([DRIVE, "--drivers"], capture_output=True, text=True, check=True).stdout.split())
    assert built == {driver for driver, _, _ in KINDS.values()}
