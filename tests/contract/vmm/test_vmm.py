"""The contract of daemon/vmm/vmm.h, the same for each driver and accelerator: through the real shim and jail, as the engine does.

FCM_VMM_DRIVERS names what is driven: qemu-tcg, qemu-kvm, firecracker, fake-qemu, fake-firecracker. Here the first and the
scripted ones; the others where KVM works, by tests/host/test_vmm.py. The last test prints what was covered and fails where
one of those asked for took no part. Needs root; the tests run in a network namespace of their own.
"""
import json
import os
import re
import socket
import subprocess
import time
from pathlib import Path

import pytest

from machines import ASKED, COVERED, DRIVE, FIRECRACKERS, HERE, KINDS, REAL, Refused, run_in_guest, said, talk, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


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
        assert status["Uid"] == status["Gid"] == [str(vm.uid)] * 4
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


@pytest.mark.skipif("fake-qemu" not in ASKED, reason="the scripted VMM isn't asked for")
def test_events_before_each_answer(make):
    """As many as come in months in which nobody asks."""
    machine = make("fake-qemu", "flood").up()
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
    if COVERED != set(ASKED) and request.session.testscollected < 20:
        pytest.skip("only some tests were chosen")
    print("\nvmm contract: covered " + " ".join(sorted(COVERED)))
    assert COVERED == set(ASKED)
    built = set(subprocess.run([DRIVE, "--drivers"], capture_output=True, text=True, check=True).stdout.split())
    assert built == {driver for driver, _, _ in KINDS.values()}
