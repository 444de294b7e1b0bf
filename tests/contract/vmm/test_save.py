"""Machines that are saved and loaded (daemon/vmm/vmm.h, save and load): the same for each driver, as in test_vmm.py.

A guest that counts aloud, and writes on its disk and syncs what it counts, shows that it goes on where it was, in a jail of
another id, uid and TAP.
"""
import hashlib
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import pytest

from machines import ASKED, FIRECRACKERS, KINDS, REAL, Refused, run_in_guest, said, talk, wait_for

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")

MEMORY = 128 << 20
COUNT = ["i=0", "while :; do", "i=$((i+1))", "echo mark-$i-", "echo mark-$i- >>/marks", "sync", "sleep 0.1", "done"]


class Saved:
    """A machine's files, with its disk of that moment."""

    def __init__(self, folder, machine):
        self.folder, self.id, self.kind = folder, machine.id, machine.kind
        self.state, self.memory, self.disk = folder / "state", folder / "memory", folder / "disk"
        folder.mkdir(mode=0o700)
        begun = time.monotonic()
        machine("pause")
        machine(f"save {folder}")
        self.seconds = time.monotonic() - begun
        shutil.copyfile(machine.disk, self.disk)
        begun = time.monotonic()
        machine("resume")
        self.seconds += time.monotonic() - begun

    def copy(self, folder):
        """A copy of it, to spoil."""
        shutil.copytree(self.folder, folder)
        other = object.__new__(Saved)
        other.__dict__ = {**self.__dict__, "folder": folder, "state": folder / "state", "memory": folder / "memory"}
        for path in folder.iterdir():
            path.chmod(0o644)
        return other


def prepare(make, saved, ident, *words, **more):
    """A machine that will begin with what is saved, up to where it can be loaded."""
    machine = make(saved.kind, ident, **more)
    shutil.copyfile(saved.disk, machine.disk)
    return machine.up(*words, f"saved {saved.folder} {saved.id}", f"mac {random.randrange(256)}", "start", "attach")


def load(make, saved, ident, *words):
    machine = prepare(make, saved, ident, *words)
    begun = time.monotonic()
    machine.up("load", "resume")
    machine.seconds = time.monotonic() - begun
    return machine


def marks(machine):
    return [int(n) for n in re.findall(r"^mark-(\d+)-", machine.console(), re.M)]


def counts_on(machine, at_least):
    wait_for(f"{machine.id} to count beyond {at_least}", lambda: max(marks(machine), default=0) > at_least, 60)


def on_disk(machine, mark):
    wait_for(f"mark {mark} on the disk of {machine.id}", lambda: f"mark-{mark}-\n".encode() in machine.disk.read_bytes(), 60)


def answers_on_its_tap(machine):
    """A port on which nobody listens: the refusal is the guest's."""
    tap = f"tap_{machine.id}"
    subprocess.run(f"ip link set {tap} up; ip addr add 172.16.0.1/24 dev {tap}", shell=True, check=True)
    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("172.16.0.50", 9), timeout=10)
    finally:
        subprocess.run(["ip", "link", "set", tap, "down"], check=True)
        subprocess.run(["ip", "addr", "flush", "dev", tap], check=True)


def in_run_dir(machine):
    return {path.name for path in machine.run_dir.iterdir()}


# ---- that it lives on ----

def test_saved_and_loaded(vm, make, tmp_path):
    vm.up()
    boot_id, before = talk(vm), in_run_dir(vm)
    saved = Saved(tmp_path / "saved", vm)
    assert in_run_dir(vm) == before
    assert talk(vm) == boot_id
    files = {path.name: path.stat() for path in saved.folder.iterdir() if path.name != "disk"}
    assert set(files) == {"state", "memory"} and files["memory"].st_size == MEMORY
    for name, st in files.items():
        assert (st.st_uid, st.st_gid) == (0, 0) and stat.S_ISREG(st.st_mode) and not st.st_mode & 0o333, name
    vm.close()

    other = load(make, saved, "other")
    assert talk(other) == boot_id
    for path in (saved.state, saved.memory):
        path.unlink(missing_ok=True)
    other.up("free", "attach", "pause", "resume")
    assert talk(other) == boot_id
    assert other.words("call ping echo=there")["echo"] == "there"
    other("soft_off")
    assert other("ended 15000") == "status=0 signal=0"


@pytest.mark.parametrize("kind", REAL)
def test_it_goes_on_where_it_was(make, kind, tmp_path, note):
    source = make(kind, "source")
    run_in_guest(source, tmp_path, *COUNT)
    source.words("call net address=172.16.0.50 prefix=24 hostname=source")
    answers_on_its_tap(source)
    said(source, "mark-10-")
    boot_id, first = source.words("call ping echo=x")["boot_id"], Saved(tmp_path / "first", source)
    at = int(re.findall(rb"mark-(\d+)-\n", first.disk.read_bytes())[-1])
    counts_on(source, at + 5)
    on_disk(source, at + 5)
    answers_on_its_tap(source)

    before = first.memory.read_bytes()
    clones = [load(make, first, name) for name in ("clone1", "clone2")]
    for clone in clones:
        counts_on(clone, at + 5)
        assert at - 5 <= marks(clone)[0] <= at + 3, "it goes on, and doesn't begin"
        on_disk(clone, at + 5)
        assert talk(clone) == boot_id
        answers_on_its_tap(clone)
    note(f"{kind}: {shared_memory(clones, first)}")
    counts_on(source, max(marks(source)) + 2)

    at = max(marks(clones[0]))
    second = Saved(tmp_path / "second", clones[0])
    assert second.memory.stat().st_size == MEMORY
    counts_on(clones[0], at + 3)
    again = load(make, second, "again")
    counts_on(again, at + 3)
    assert at - 5 <= marks(again)[0] <= at + 3
    on_disk(again, at + 3)
    assert talk(again) == boot_id
    for path in (second.state, second.memory):  # as those of a machine that was suspended go
        path.unlink()
    assert Saved(tmp_path / "third", again).memory.stat().st_size == MEMORY
    assert first.memory.read_bytes() == before, "whatever clones did"
    loads = ", ".join(f"{m.seconds * 1000:.0f}" for m in (*clones, again))
    note(f"{kind}: stop to cont {first.seconds * 1000:.0f} and {second.seconds * 1000:.0f} ms, load and resume {loads} ms, "
         f"{allocated(first)} MiB of files for {MEMORY >> 20} MiB of memory")


def allocated(saved):
    return sum(path.stat().st_blocks for path in (saved.state, saved.memory) if path.exists()) * 512 >> 20


def shared_memory(clones, saved):
    """What two of them have of one memory: what neither has written to is there once."""
    usage = []
    for clone in clones:
        maps = Path(f"/proc/{clone.pids['vmm']}/smaps").read_text()
        ours = re.findall(rf"^\S+ rw-p \S+ \S+ {saved.memory.stat().st_ino} .*\n((?:\w+:.*\n)+)", maps, re.M)
        assert ours, "memory is mapped privately from the file"
        usage.append({key: sum(int(n) for text in ours for n in re.findall(rf"^{key}:\s+(\d+) kB", text, re.M)) // 1024
                      for key in ("Rss", "Pss", "Shared_Clean", "Shared_Dirty", "Private_Dirty")})
    for each in usage:
        shared = each["Shared_Clean"] + each["Shared_Dirty"]  # dirty: not on the host's disk yet
        assert shared > 0 and each["Pss"] < each["Rss"] - shared // 3, usage
    return "of the memory file in MiB: " + "; ".join(" ".join(f"{k} {v}" for k, v in each.items()) for each in usage)


@pytest.mark.parametrize("kind", REAL)
def test_freed_memory_of_a_loaded_machine_goes_back(make, kind, tmp_path):
    """As that of one that booted (test_vmm.py), and what it was loaded from stays as it was."""
    source = make(kind, "source").up("memory 512")
    if source.driver == "firecracker" and not any("/balloon" in line for line in source.lines("describe")):
        pytest.skip("Firecracker before 1.14 keeps it")
    run_in_guest(source, tmp_path, "echo is-ready", "sleep 3", "dd if=/dev/zero of=/tmp/x bs=1M count=150", "echo is-used",
                 "sleep 3", "rm /tmp/x", "echo is-freed")
    source.words("call net address=172.16.0.50 prefix=24 hostname=source")
    said(source, "is-ready")
    saved = Saved(tmp_path / "saved", source)
    source.close()
    before = hashlib.sha256(saved.memory.read_bytes()).digest()
    machine = load(make, saved, "loaded", "memory 512")

    def own():
        return int(re.search(r"RssAnon:\s+(\d+)", Path(f"/proc/{machine.pids['vmm']}/status").read_text())[1]) // 1024
    said(machine, "is-used")
    used = own()
    said(machine, "is-freed")
    wait_for("its memory to come back", lambda: own() < used - 100, 20)
    print(f"{kind}: {used} MiB of its own used, then {own()} MiB")
    again = load(make, Saved(tmp_path / "again", machine), "again", "memory 512")  # saved with holes
    answers_on_its_tap(again)
    assert hashlib.sha256(saved.memory.read_bytes()).digest() == before
    assert "iscard" not in machine.console() and "fallocate" not in machine.console(), "the VMM has nothing to complain of"


# ---- files that aren't what they were ----

def spoil(path, at, data=None):
    """Other bytes in a file; without any, its end."""
    with open(path, "r+b") as f:
        f.seek(at)
        old = f.read(64)
        f.seek(at)
        if data is None:
            f.truncate()
        else:
            f.write(data or bytes(b ^ 0x55 for b in old))


def end_of(saved):
    """Where the state ends: behind it QEMU's stream describes its devices once more, for people, behind a byte
    QEMU_VM_VMDESCRIPTION and the length (migration/savevm.h, savevm.c)."""
    data = saved.state.read_bytes()
    at = data.rfind(b"\6")
    while at >= 0 and int.from_bytes(data[at + 1:at + 5], "big") != len(data) - at - 5:
        at = data.rfind(b"\6", 0, at)
    return at if at >= 0 else len(data)


def spoilt(saved):
    """(what, what happens to the files): none of them loads."""
    size, end = saved.state.stat().st_size, end_of(saved)
    yield "missing", lambda s: s.state.unlink()
    yield "empty", lambda s: spoil(s.state, 0)
    yield "half", lambda s: spoil(s.state, size // 2)
    yield "cut", lambda s: spoil(s.state, end - 9)
    yield "flipped at its begin", lambda s: spoil(s.state, 0, b"")
    yield "text", lambda s: s.state.write_bytes(b"this is no machine\n" * 1000)
    if KINDS[saved.kind][0] == "firecracker":
        yield "flipped inside", lambda s: spoil(s.state, size // 2, b"")
    if saved.kind != "fake-qemu":
        yield "no memory", lambda s: s.memory.unlink()
        yield "half of the memory", lambda s: spoil(s.memory, MEMORY // 2)
    yield "empty memory", lambda s: spoil(s.memory, 0)


def test_spoilt_files(vm, make, tmp_path):
    vm.up()
    talk(vm)
    saved = Saved(tmp_path / "saved", vm)
    vm.close()
    for n, (what, happens) in enumerate(spoilt(saved)):
        copy = saved.copy(tmp_path / f"copy{n}")
        happens(copy)
        begun = time.monotonic()
        with pytest.raises(Refused):
            prepare(make, copy, f"bad{n}")("load")
        assert time.monotonic() - begun < 8, what
        shutil.rmtree(copy.folder)


@pytest.mark.parametrize("kind", [kind for kind in REAL if kind.startswith("qemu")])
def test_flipped_anywhere(make, kind, tmp_path):
    """A stream has no checksum, and not all of it matters. Whatever it is, it ends in time."""
    source = make(kind, "source").up()
    talk(source)
    saved = Saved(tmp_path / "saved", source)
    source.close()
    size, seen = saved.state.stat().st_size, []
    for n in range(8):
        at = random.Random(n).randrange(size)
        copy = saved.copy(tmp_path / f"copy{n}")
        spoil(copy.state, at if n % 2 else end_of(saved) - 64 - at % 20000, b"")
        begun = time.monotonic()
        machine = prepare(make, copy, f"flip{n}").up("limit 8000")
        try:
            machine("load")
            seen.append("loaded")
        except Refused as e:
            seen.append(str(e))
        assert time.monotonic() - begun < 60
        machine.close()
        shutil.rmtree(copy.folder)
    print(seen)


def test_another_machine(vm, make, tmp_path):
    """With more memory, or none of its driver's files."""
    vm.up()
    talk(vm)
    saved = Saved(tmp_path / "saved", vm)
    vm.close()
    if vm.kind in REAL and vm.driver == "qemu":
        larger = make(vm.kind, "larger")
        with pytest.raises(Refused, match="^vmm "):
            larger.up("memory 192", f"saved {saved.folder} {saved.id}", "start", "attach")
        assert "does not match 'size' option" in larger.console()
    if vm.driver == "firecracker":
        saved.memory.unlink()
        with pytest.raises(Refused, match="memory: No such file"):
            make(vm.kind, "half").up(f"saved {saved.folder} {saved.id}", "start")


@pytest.mark.parametrize("kind", FIRECRACKERS)
def test_no_tap_is_an_error(make, kind, tmp_path):
    machine = make(kind).up()
    saved = Saved(tmp_path / "saved", machine)
    with pytest.raises(Refused, match="there is no device tap_notap"):
        prepare(make, saved, "notap", tap=False)("load")


@pytest.mark.parametrize("kind", FIRECRACKERS)
def test_a_refusal_is_told(make, kind, tmp_path):
    machine = make(kind).up()
    saved = Saved(tmp_path / "saved", machine)
    saved.state.chmod(0o644)
    spoil(saved.state, saved.state.stat().st_size // 2, b"")
    bad = prepare(make, saved, "bad")
    with pytest.raises(Refused, match="^vmm the VMM refused PUT /snapshot/load .400.: Load snapshot error: .*CRC64"):
        bad("load")
    assert bad("ended 5000") == "status=1 signal=0"


# ---- where it can't be written ----

@pytest.fixture
def small(tmp_path):
    """A full disk: a file system that holds little."""
    mounted = []

    def mount(folder, size):
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", folder], check=True)
        mounted.append(folder)
        return folder
    yield mount
    for folder in mounted:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk(vm, tmp_path, small):
    vm.up()
    boot_id, full = talk(vm), small(tmp_path / "full", "8m" if vm.kind in REAL else "8k")
    (full / "filler").write_bytes(bytes(4096))
    vm("pause")
    with pytest.raises(Refused, match="^no_space "):
        vm(f"save {full}")
    assert [path.name for path in full.iterdir()] == ["filler"]
    assert in_run_dir(vm) == {"agent.sock", "console.sock", "vmm.sock"}
    vm("resume")
    assert talk(vm) == boot_id
    saved = Saved(tmp_path / "saved", vm)
    assert talk(vm) == boot_id and saved.state.exists()


@pytest.mark.parametrize("kind", [kind for kind in FIRECRACKERS if kind in REAL])
def test_a_full_state_directory(make, kind, tmp_path, small):
    """Firecracker writes into its run directory first."""
    small(tmp_path / "contract-0", "48m")
    machine = make(kind).up()
    boot_id, folder = talk(machine), tmp_path / "saved"
    folder.mkdir(mode=0o700)
    machine("pause")
    with pytest.raises(Refused, match="^no_space "):
        machine(f"save {folder}")
    assert not list(folder.iterdir()) and in_run_dir(machine) == {"agent.sock", "console.sock", "vmm.sock"}
    machine("resume")
    assert talk(machine) == boot_id


def test_nothing_is_overwritten(vm, tmp_path):
    vm.up()
    folder = tmp_path / "saved"
    folder.mkdir(mode=0o700)
    (folder / "state").write_text("somebody's")
    vm("pause")
    with pytest.raises(Refused, match="File exists"):
        vm(f"save {folder}")
    assert (folder / "state").read_text() == "somebody's"
    (folder / "state").rename(folder / "memory")
    with pytest.raises(Refused, match="File exists"):
        vm(f"save {folder}")
    assert [path.read_text() for path in folder.iterdir()] == ["somebody's"]
    if vm.driver == "firecracker":
        (folder / "memory").unlink()
        folder.chmod(0o755)
        with pytest.raises(Refused, match="not root's alone"):
            vm(f"save {folder}")


# ---- faults of the scripted VMMs ----

NOT_SAVED = {
    "fake-firecracker": {
        "shung": "^timeout .*the VMM does not answer",
        "sslow": "^timeout .*the VMM does not answer",
        "sgarbage": "what is no answer",
        "shalf": "^timeout |closed its control socket",
        "sclose": "closed its control socket",
        "sflood": "what is no answer",
        "srefuse": "the VMM refused PUT /snapshot/create .400.: not in this .{1,3}5mstate nor in any",
        "die11": "closed its control socket",
        "nosave": "^vmm open the file 'state' that the VMM wrote",
        "bigsave": "^vmm the file 'memory' that the VMM wrote",
        "cutsave": "^vmm the file 'memory' that the VMM wrote",
        "badsave": "^vmm open the file 'memory' that the VMM wrote",
    },
    "fake-qemu": {
        "shung": "^timeout .*the VMM does not answer",
        "sslow": "^timeout .*the VMM does not answer",
        "sgarbage": "what is no JSON object",
        "shalf": "^timeout .*the VMM does not answer",
        "sclose": "closed its control socket",
        "srefuse": "the VMM refused migrate: not in this .{1,3}5mstate",
        "die4": "closed its control socket",
        "die5": "closed its control socket",
        "die6": "closed its control socket",
        "die7": "closed its control socket",
        "die8": "closed its control socket",
        "nosave": "^vmm the VMM couldn't save the machine: no .{1,3}5mway out",
        "bigsave": "^vmm the VMM's state has more than 32 MiB",
        "cutsave": "^timeout .*the VMM does not answer",
        "badsave": "^timeout the VMM doesn't end saving the machine",
    },
}
NOT_LOADED = {
    "fake-firecracker": {
        "shung": "^timeout .*the VMM does not answer",
        "sgarbage": "what is no answer",
        "shalf": "^timeout |closed its control socket",
        "sclose": "closed its control socket",
        "sflood": "what is no answer",
        "srefuse": "the VMM refused PUT /snapshot/load .400.: not in this .{1,3}5mstate nor in any",
        "die2": "closed its control socket",
        "die3": "closed its control socket",
        "badload": "closed its control socket|has ended",
    },
    "fake-qemu": {
        "shung": "^timeout .*the VMM does not answer",
        "sgarbage": "what is no JSON object",
        "shalf": "^timeout .*the VMM does not answer",
        "sclose": "closed its control socket",
        "srefuse": "the VMM refused migrate-incoming: not in this .{1,3}5mstate",
        "die2": "closed its control socket",
        "die3": "closed its control socket",
        "die4": "closed its control socket",
        "die5": "closed its control socket",
        "die6": "closed its control socket",
        "badload": "^timeout .*the VMM doesn't end loading the machine",
    },
}


def faults(table):
    return [(kind, fault) for kind in table if kind in ASKED for fault in table[kind]]


def limit(words):
    """For a call that is to end with these: short where that is what ends it."""
    return f"limit {800 if 'timeout' in words else 8000}"


@pytest.mark.parametrize("kind,fault", faults(NOT_SAVED))
def test_not_saved(make, kind, fault, tmp_path):
    """It ends in an error that says what is wrong, by the deadline, and nothing half-made is left."""
    machine = make(kind, fault).up()
    folder, before = tmp_path / "saved", in_run_dir(machine)
    folder.mkdir(mode=0o700)
    machine.up(limit(NOT_SAVED[kind][fault]), "pause")
    begun = time.monotonic()
    with pytest.raises(Refused, match=NOT_SAVED[kind][fault]):
        machine(f"save {folder}")
    assert time.monotonic() - begun < 8
    assert not list(folder.iterdir()) and in_run_dir(machine) == before


@pytest.mark.parametrize("kind,fault", [(kind, fault) for kind, fault in faults(NOT_SAVED) if fault in ("nosave", "bigsave", "cutsave")])
def test_not_saved_and_goes_on(make, kind, fault, tmp_path):
    machine = make(kind, fault).up()
    boot_id = talk(machine)
    for n in range(2):
        folder = tmp_path / f"saved{n}"
        folder.mkdir(mode=0o700)
        machine.up(limit(NOT_SAVED[kind][fault]), "pause")
        with pytest.raises(Refused, match=NOT_SAVED[kind][fault]):
            machine(f"save {folder}")
        machine.up("limit 5000", "resume")
        assert talk(machine) == boot_id


@pytest.mark.parametrize("kind,fault", faults(NOT_LOADED))
def test_not_loaded(make, kind, fault, tmp_path):
    source = make(kind).up()
    saved = Saved(tmp_path / "saved", source)
    machine = prepare(make, saved, fault).up(limit(NOT_LOADED[kind][fault]))
    begun = time.monotonic()
    with pytest.raises(Refused, match=NOT_LOADED[kind][fault]):
        machine.up("load", "resume")
    assert time.monotonic() - begun < 8
