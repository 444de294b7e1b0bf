"""The machines that the tests of this folder drive: vmmdrive, and what is done with it again and again."""
import os
import subprocess
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
TOP = HERE.parents[2]
BUILD = Path(os.environ.get("FCM_BUILD") or TOP / "build")
ASSETS = Path(os.environ.get("FCM_ASSETS") or BUILD / "assets")
DRIVE = BUILD / "tests/contract/vmmdrive"
SHIM = BUILD / "daemon/shim/fcm-shim"
ASKED = os.environ.get("FCM_VMM_DRIVERS", "qemu-tcg fake-qemu fake-firecracker").split()
UID = 64077
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


class Refused(Exception):
    """A call of the driver's failed: str() is "<code> <message>"."""


class Vm:
    """A VM's folder and the program that drives it."""

    def __init__(self, kind, folder, assets, ident, uid, tap=True):
        self.kind, self.folder, self.id, self.uid = kind, folder, ident, uid
        self.driver, accel, program = KINDS[kind]
        self.run_dir = folder / "jail/run"
        self.run_dir.mkdir(parents=True)
        folder.chmod(0o711)
        (folder / "jail").chmod(0o755)
        os.chown(self.run_dir, uid, uid)
        self.disk = folder / "rootfs.img"
        self.disk.touch()
        subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", self.disk, "64M"], check=True)
        os.chown(self.disk, uid, uid)
        if tap:
            subprocess.run(["ip", "tuntap", "add", f"tap_{ident}", "mode", "tap", "user", str(uid)], check=True)
        argv = [DRIVE, self.driver, accel, program, SHIM, folder, ident, uid, assets, self.disk]
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


def talk(vm):
    """A guest that boots beside others may take longer than one call waits."""
    for last in (False, True):
        try:
            vm("channel")
            return vm.words("hello")["boot_id"]
        except Refused as e:
            if last or not str(e).startswith("timeout"):
                raise
    return None


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
