#!/usr/bin/python3
"""The test host: a machine in which /dev/kvm works, Debian with systemd, restored from a snapshot for every test file.

It is a QEMU/TCG microvm with AMD's SVM, one vCPU (two crash now and then under TCG) and no network: all goes through one
virtio-serial port. docs/TESTING.md tells how it works.

    host.py [--release bookworm|trixie] build            make disk and snapshot, unless the cache has them
    host.py [--release ...] shell                        restore one, install the build, be root in it
    host.py [--release ...] exec COMMAND                 restore one, run a shell command
    host.py [--release ...] run FILE [PYTEST OPTION...]  run one test file
"""
import argparse
import contextlib
import ctypes
import fcntl
import hashlib
import io
import json
import mmap
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import termios
import time
import tty
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from channel import Channel, Failed, Gone, Qmp  # noqa: E402  pylint: disable=wrong-import-position

TOP = Path(__file__).resolve().parents[2]
HERE = TOP / "tests/host"
BUILD = Path(os.environ.get("FCM_BUILD") or TOP / "build")
WORK = Path(os.environ.get("FCM_TEST_WORK") or BUILD / "test-work")
CACHE = Path(os.environ["XDG_CACHE_HOME"]) / "fcm" if os.environ.get("XDG_CACHE_HOME") else TOP / ".cache"
RELEASES = ("bookworm", "trixie")
RELEASE = os.environ.get("FCM_HOST_RELEASE") or RELEASES[0]
FIRST = RELEASE == RELEASES[0]  # the one on which more tests run
WHOLE = os.environ.get("FCM_ACCEPTANCE") == "whole"  # all of them, on both
# No more than 3 GiB: above, a microvm's memory is in two pieces.
MEMORY_MIB = 3072
TSC_TOLERANCE = 0.001
# What apt and the build say where no packages can be had.
OUT_OF_REACH = re.compile(r"Could not (resolve|connect)|Unable to connect|Temporary failure|Failed to fetch|needs the program|"
                          r"no Debian sources|apt-get update .* failed")
SKIPPED = 77  # the status of `build` then
IGNORE_SHARED = [{"capability": "x-ignore-shared", "state": True}]

# What tests often run: read into the page cache once, before the snapshot; and the modules that the product's first rules load.
WARM_UP = """
modprobe -a nft_chain_nat nft_ct nft_fib_inet nft_limit nft_masq nft_reject_inet
for program in curl nft ip tar sshd caddy qemu-system-x86_64 strace socat; do
    $program --version || $program -V || true
done
python3 -c 'import json, socket, subprocess, pytest, http.client, ssl'
systemctl daemon-reload
systemctl status
perl -MFile::Find -MFile::Temp -MGetopt::Long -e 1
journalctl -n 1
""".strip()

panics = 0  # machines whose kernel panicked, of this process


class Unavailable(Failed):
    """The packages that a test host is made of can't be had here."""


# ---- the clock of this CPU ----

def tsc_khz():
    """The rate of the time stamp counter, which TCG gives to its guests as it is. Without being told, their kernels
    calibrate it against a timer that a busy host delays, and hang (7 of 8 boots)."""
    # rdtsc; shl rdx, 32; or rax, rdx; ret
    code = mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(bytes.fromhex("0f3148c1e2204809d0c3"))
    rdtsc = ctypes.CFUNCTYPE(ctypes.c_uint64)(ctypes.addressof(ctypes.c_char.from_buffer(code)))

    def instant():
        """Both clocks, read as close together as eight tries give."""
        tries = []
        for _ in range(8):
            before, ticks, after = time.monotonic_ns(), rdtsc(), time.monotonic_ns()
            tries.append((after - before, before, ticks))
        return min(tries)[1:]

    ns0, ticks0 = instant()
    time.sleep(0.05)
    ns1, ticks1 = instant()
    return round((ticks1 - ticks0) * 1e6 / (ns1 - ns0))


# ---- QEMU ----

def qemu_version():
    return subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout.split("\n")[0]


def kernel_arguments(khz):
    return ("root=/dev/vda rw console=ttyS0 quiet reboot=t panic=-1 pci=off cryptomgr.notests random.trust_cpu=on mitigations=off "
            f"tsc_early_khz={khz} tsc=reliable no_timer_check noreplace-smp 8250.nr_uarts=1")


def qemu_argv(image, memory, disk, khz, restore):
    """The same machine for the first boot, whose memory goes to the file, and for those restored from it."""
    share = "off" if restore else "on"
    return [
        "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot",
        # qboot by name: the microvm's default firmware is SeaBIOS in Debian 13, which boots nothing here.
        "-bios", "qboot.rom",
        "-M", "microvm,x-option-roms=off,pit=off,pic=off,rtc=on,isa-serial=on,auto-kernel-cmdline=off,acpi=on,memory-backend=mem",
        # Of a family whose kernels, ours and those of its guests, needn't replace each return by a jump: a quarter of a guest's boot.
        "-accel", "tcg,thread=multi,tb-size=256", "-cpu", "EPYC,+svm,family=26", "-smp", "1", "-m", str(MEMORY_MIB),
        "-object", f"memory-backend-file,id=mem,size={MEMORY_MIB}M,mem-path={memory},share={share}",
        "-kernel", image / "vmlinux", "-initrd", image / "initrd", "-append", kernel_arguments(khz),
        "-serial", "file:console",
        "-drive", f"id=disk,file={disk},format=qcow2,if=none,cache=unsafe", "-device", "virtio-blk-device,drive=disk",
        "-device", "virtio-serial-device",
        "-chardev", "socket,id=agent,path=agent,server=on,wait=off", "-device", "virtserialport,chardev=agent,name=fcm.host,nr=1",
        "-qmp", "unix:qmp,server=on,wait=off",
        *(["-incoming", "defer"] if restore else []),
    ]


def make_overlay(path, backing, fmt):
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", fmt, "-b", backing, path], check=True)


class Machine:
    """A running QEMU in a folder of its own, which keeps its console and what QEMU says."""

    def __init__(self, folder, argv):
        self.folder = folder
        (folder / "console").write_bytes(b"")
        with open(folder / "qemu.log", "wb") as log:
            # A driver that is killed takes its machine along.
            argv = ["setpriv", "--pdeathsig", "KILL", *map(str, argv)]
            self.process = subprocess.Popen(argv, cwd=folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            self.qmp = Qmp(folder)
        except Failed as error:
            self.end()
            raise Failed(f"{error}: {(folder / 'qemu.log').read_text(errors='replace')[-1000:]}") from error

    def console(self, lines=60):
        text = (self.folder / "console").read_bytes().decode("utf-8", "replace")
        return "\n".join("".join(c for c in line if c.isprintable()) for line in text.splitlines()[-lines:])

    def end(self):
        """However it stands. A QEMU that waits for a state file that never comes doesn't listen to SIGTERM."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        if getattr(self, "qmp", None):
            self.qmp.close()


# ---- what is made once ----

@contextlib.contextmanager
def locked(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def say(text):
    print(text, file=sys.stderr, flush=True)


class Image:
    """Disk, kernel and initrd of a release, and the snapshot of a booted machine: both in the cache."""

    def __init__(self, release):
        if release not in RELEASES:
            raise Failed(f"no release '{release}': {' '.join(RELEASES)}")
        self.release = release
        self.folder = CACHE / f"host-{release}-{self._key()}"
        self.snapshot = self.folder / "snapshot"
        self.khz = tsc_khz()
        with locked(CACHE / f"host-{release}.lock"):
            if not self.folder.exists():
                self._remove_old()
                self._build()
            if not self._usable():
                self._boot()
        self.khz = json.loads((self.snapshot / "about.json").read_text())["khz"]

    def _key(self):
        """The hash of all that the disk is made of."""
        sources = [HERE / "build", HERE / "init", HERE / "agent.c", TOP / "images/lib.sh", TOP / "images/kernel/extract.sh",
                   *(p for p in (HERE / "files").rglob("*") if p.is_file())]
        digest = hashlib.sha256(self.release.encode())
        for path in sorted(sources):
            digest.update(f"{path.relative_to(TOP)} {hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
        return digest.hexdigest()[:16]

    def _remove_old(self):
        for old in CACHE.glob(f"host-{self.release}-*"):
            shutil.rmtree(old, ignore_errors=True)

    def _build(self):
        begun = time.monotonic()
        say(f"making the test host of {self.release}")
        new = self.folder.with_suffix(".new")
        agent = BUILD / "tests/host/host-agent"
        done = subprocess.run([HERE / "build", self.release, new], env={**os.environ, "FCM_HOST_AGENT": str(agent)},
                              stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", check=False)
        if done.returncode != 0:
            shutil.rmtree(new, ignore_errors=True)
            said = (done.stdout + done.stderr)[-3000:].strip()
            for line in filter(OUT_OF_REACH.search, said.splitlines()):
                raise Unavailable(f"no test host of {self.release} can be made here: {line}")
            raise Failed(f"tests/host/build {self.release}: {said}")
        new.rename(self.folder)
        say(f"made it in {time.monotonic() - begun:.0f} s")

    def _usable(self):
        """A snapshot is for the QEMU that made it, this command line, and a CPU whose clock runs as fast."""
        try:
            about = json.loads((self.snapshot / "about.json").read_text())
        except (OSError, ValueError):
            return False
        return about["machine"] == self._machine() and abs(about["khz"] / self.khz - 1) < TSC_TOLERANCE

    def _machine(self):
        argv = qemu_argv(Path("/"), "", "", 0, True)
        return hashlib.sha256(f"{qemu_version()} {argv} {WARM_UP}".encode()).hexdigest()

    def _boot(self):
        begun = time.monotonic()
        new = self.folder / "snapshot.new"
        shutil.rmtree(new, ignore_errors=True)
        new.mkdir()
        # By a relative name, so that the cache may be moved.
        make_overlay(new / "disk.qcow2", "../disk.ext4", "raw")
        machine = Machine(new, qemu_argv(self.folder, "memory", "disk.qcow2", self.khz, False))
        try:
            self._settle(machine)
            machine.qmp("migrate-set-capabilities", capabilities=IGNORE_SHARED)
            machine.qmp("migrate-set-parameters", max_bandwidth=10**11)
            machine.qmp("stop")
            machine.qmp("migrate", uri="exec:cat >state")
            if machine.qmp.wait("query-migrate", ("completed", "failed"), 60) == "failed":
                raise Failed("the snapshot failed")
        finally:
            machine.end()
        (new / "about.json").write_text(json.dumps({"machine": self._machine(), "khz": self.khz}))
        shutil.rmtree(self.snapshot, ignore_errors=True)
        new.rename(self.snapshot)
        say(f"booted it and took the snapshot in {time.monotonic() - begun:.0f} s")

    @staticmethod
    def _settle(machine):
        """Until systemd has nothing more to do."""
        try:
            channel = Channel(machine.folder, 120)
            host = Host.__new__(Host)
            host.machine, host.channel = machine, channel
            host.run("systemctl is-system-running --wait", timeout=120, check=False)
            host.run(WARM_UP, timeout=120, check=False)
            host.run("sync")
            channel.close()
        except Failed as error:
            raise Failed(f"the test host doesn't boot: {error}\n{machine.console()}") from error


# ---- one host ----

class Done:
    """A command that has ended."""

    def __init__(self, command, status, out, err):
        self.command, self.status, self.out, self.err = command, status, out, err

    @property
    def text(self):
        return self.out.decode("utf-8", "replace")

    @property
    def both(self):
        return (self.out + self.err).decode("utf-8", "replace")


class Host:
    """A fresh machine, restored from the snapshot of a release."""

    def __init__(self, release="bookworm", folder=None):
        begun = time.monotonic()
        image = Image(release)
        self.image = image
        self.restore_began = time.monotonic()
        self.temporary = folder is None
        self.folder = Path(folder or tempfile.mkdtemp(prefix=f"host-{release}-", dir=_work()))
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder.mkdir(parents=True)
        disk = self.folder / "disk.qcow2"
        make_overlay(disk, image.snapshot / "disk.qcow2", "qcow2")
        self.machine = Machine(self.folder, qemu_argv(image.folder, image.snapshot / "memory", disk, image.khz, True))
        try:
            self._load()
            self.channel = Channel(self.folder, 20)
        except Failed:
            self.machine.end()
            raise
        self.restored_in = time.monotonic() - self.restore_began
        self.made_in = self.restore_began - begun

    def _load(self):
        qmp = self.machine.qmp
        qmp("migrate-set-capabilities", capabilities=IGNORE_SHARED)
        qmp("migrate-incoming", uri=f"exec:cat {shlex.quote(str(self.image.snapshot / 'state'))}")
        # With a state file that isn't there, QEMU stays "inmigrate" for ever.
        qmp.wait("query-status", ("paused", "running"), 20)
        qmp("cont")

    def close(self):
        if hasattr(self, "channel"):
            self.channel.close()
        self.machine.end()
        (self.folder / "disk.qcow2").unlink(missing_ok=True)
        if self.temporary:
            shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    # ---- commands ----

    def run(self, command, stdin=b"", timeout=60, check=True):
        """A shell command as root, to its end; `command` may be a list, too. Returns a Done; with `check` a status that
        isn't 0 is Failed. What the command leaves running must not need its stdout or stderr any more."""
        if not isinstance(command, str):
            command = shlex.join(map(str, command))
        out, err, at = bytearray(), bytearray(), 0
        deadline, status = time.monotonic() + timeout, None
        self.channel.start(command)
        ended = False
        while status is None:
            while self.channel.credit and not ended:
                chunk = stdin[at:at + self.channel.credit]
                self.channel.feed(chunk)
                at += len(chunk)
                if at >= len(stdin):
                    self.channel.end()
                    ended = True
            left = deadline - time.monotonic()
            if left <= 0:
                self.channel.hello(20)
                raise Failed(f"not within {timeout:g} s: {command}\n{_tail(out + err)}")
            status, _ = self._turn(min(left, 5), out.extend, err.extend)
        if check and status != 0:
            raise Failed(f"{command}: status {status}: {_tail(out + err)}")
        return Done(command, status, bytes(out), bytes(err))

    def _turn(self, timeout, out, err, more=()):
        global panics  # pylint: disable=global-statement
        try:
            return self.channel.turn(timeout, out, err, more)
        except Gone as error:
            panicked = re.search(r"Kernel panic|Oops: ", self.machine.console(100_000)) is not None
            panics += panicked
            what = "its kernel panicked" if panicked else "it was switched off"
            raise Gone(f"the test host has ended: {what}\n{self.console(30)}") from error

    def terminal(self, command):
        """Run a command with this process's stdin and stdout, raw if they are a terminal; returns its status."""
        stdin, stdout = sys.stdin.fileno(), sys.stdout.fileno()
        old = termios.tcgetattr(stdin) if os.isatty(stdin) else None
        if old:
            size = os.get_terminal_size(stdin)
            command = f"stty rows {size.lines} cols {size.columns}; {command}"
            command = f"TERM={shlex.quote(os.environ.get('TERM', 'dumb'))} script -qec {shlex.quote(command)} /dev/null"
            tty.setraw(stdin)
        try:
            return self._terminal_loop(command, stdin, stdout)
        finally:
            if old:
                termios.tcsetattr(stdin, termios.TCSADRAIN, old)

    def _terminal_loop(self, command, stdin, stdout):
        self.channel.start(command)
        sources, status = [stdin], None
        while status is None:
            more = sources if self.channel.credit else []
            status, ready = self._turn(5, lambda b: os.write(stdout, b), lambda b: os.write(2, b), more)
            if ready:
                data = os.read(stdin, self.channel.credit)
                self.channel.feed(data)
                if not data:
                    self.channel.end()
                    sources = []
        return status

    # ---- files ----

    def put(self, path, data, mode=0o644):
        """A file of these bytes (or text); its folder is made."""
        data = data.encode() if isinstance(data, str) else data
        quoted = shlex.quote(str(path))
        self.run(f"mkdir -p \"$(dirname {quoted})\" && cat >{quoted} && chmod {mode:o} {quoted}", data, 120)

    def get(self, path):
        return self.run(["cat", path], timeout=120).out

    def put_tree(self, local, remote):
        """A folder's contents into a folder, or one file to a path, with modes; owned by root."""
        local, tar_bytes = Path(local), io.BytesIO()
        with tarfile.open(fileobj=tar_bytes, mode="w") as tar:
            for path in sorted(local.rglob("*")) if local.is_dir() else [local]:
                # Ordinary folders are made on the way. Named in the archive, those that are there would be 0700 while
                # tar works, and stay so if it is ended: "/" among them.
                if path.is_symlink() or not path.is_dir() or path.stat().st_mode & 0o777 != 0o755:
                    name = path.relative_to(local) if local.is_dir() else Path(remote).name
                    tar.add(path, arcname=name, recursive=False, filter=_owned_by_root)
        folder = shlex.quote(str(remote if local.is_dir() else Path(remote).parent))
        self.run(f"mkdir -p {folder} && tar -xf - --no-overwrite-dir -C {folder}", tar_bytes.getvalue(), 300)

    def get_tree(self, remote, local):
        """A folder's contents into a folder."""
        data = self.run(f"tar -cf - -C {shlex.quote(str(remote))} .", timeout=300).out
        Path(local).mkdir(parents=True, exist_ok=True)
        subprocess.run(["tar", "--extract", "--file=-", "--no-same-owner", "-C", local], input=data, check=True)

    def install(self, build=BUILD):
        """The product as `./bootstrap install` puts it, below /usr/local."""
        with tempfile.TemporaryDirectory(dir=_work()) as stage:
            done = subprocess.run(["cmake", "--install", build, "--prefix", f"{stage}/usr/local"], capture_output=True,
                                  text=True, check=False)
            if done.returncode != 0:
                raise Failed(f"cmake --install {build}: {done.stderr.strip()}")
            self.put_tree(stage, "/")

    # ---- the machine ----

    @property
    def boot_id(self):
        return self.channel.boot_id

    def reboot(self, timeout=120):
        """`systemctl reboot`, until the agent answers from a new boot. Returns the seconds it took."""
        return self._again(lambda: self.run("systemctl reboot", check=False), timeout)

    def power_cut(self, timeout=120):
        """The machine stops at this instruction and boots again. What the guest's kernel hadn't written is lost."""
        return self._again(lambda: self.machine.qmp("system_reset"), timeout)

    def _again(self, end, timeout):
        begun, before = time.monotonic(), self.boot_id
        # Otherwise a reset ends QEMU (-no-reboot), which is how a panic is seen.
        self.machine.qmp("set-action", reboot="reset")
        end()
        while self.channel.hello(timeout - (time.monotonic() - begun)) == before:
            time.sleep(0.1)
        self.machine.qmp("set-action", reboot="shutdown")
        self.run("systemctl is-system-running --wait", check=False, timeout=timeout)
        return time.monotonic() - begun

    def refresh(self):
        """Clock and random numbers, which stand where the snapshot was taken; a restore does it by itself."""
        self.channel.refresh()

    # ---- what to show of a failed test ----

    def console(self, lines=60):
        return self.machine.console(lines)

    def journal(self, lines=200):
        try:
            self.channel.hello(10)
            return self.run(f"journalctl --no-pager -o short-monotonic -n {lines}", check=False, timeout=30).both
        except (Failed, OSError) as error:
            return f"(no journal: {error})"

    def keep_evidence(self):
        """Leaves console and journal in the folder; returns them as sections of a report."""
        journal = self.journal(400)
        (self.folder / "journal").write_text(journal)
        where = f"in {self.folder}"
        end = "\n".join(line[:200] for line in journal.splitlines()[-25:])
        return [(f"console of the test host, {where}", self.console(15)), (f"its journal, {where}", end)]


def _work():
    WORK.mkdir(parents=True, exist_ok=True)
    return WORK


def _tail(data):
    return bytes(data[-2000:]).decode("utf-8", "replace").strip()


def _owned_by_root(entry):
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry


# ---- commands ----

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--release", default=RELEASE, choices=RELEASES)
    parser.add_argument("command", choices=("build", "shell", "exec", "run"))
    parser.add_argument("words", nargs=argparse.REMAINDER)
    options = parser.parse_args()
    if options.command == "build":
        Image(options.release)
        return 0
    if options.command == "run":
        if not options.words:
            parser.error("run needs a test file")
        env = {**os.environ, "FCM_HOST_RELEASE": options.release, "PYTHONDONTWRITEBYTECODE": "1"}
        return subprocess.run([sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-v", "-rs", *options.words],
                              env=env, check=False).returncode
    with Host(options.release) as host:
        host.install()
        if options.command == "exec":
            return host.terminal(" ".join(options.words))
        say(f"Debian {options.release} with the build of {BUILD}, restored in {host.restored_in * 1000:.0f} ms; "
            f"its console: {host.folder}/console")
        return host.terminal("cd; exec bash -l")


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Unavailable as reason:
        print(f"SKIPPED {reason}")
        sys.exit(SKIPPED)
    except Failed as failure:
        sys.exit(f"host: {failure}")
