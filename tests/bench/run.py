#!/usr/bin/python3
"""The bench: what fcm adds to what it is made of. `./bootstrap bench` builds and calls this.

Every figure is a ratio against the bare thing measured in the same run, both by turns, medians: the machine's speed
cancels out. A missed goal is printed as missed. VMs beyond a few use the scripted VMM of tests/fake.
"""
import argparse
import contextlib
import fcntl
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TOP = Path(__file__).resolve().parents[2]
# tests/host is last: its host.py is another one.
sys.path[:0] = [str(TOP / "tests"), str(TOP / "tests/integration")]
sys.path.append(str(TOP / "tests/host"))
import host as hosts  # noqa: E402
from by_hand import Agent  # noqa: E402
from clones import bench_clones  # noqa: E402
from ports import bench_ports  # noqa: E402
from images import CONFIG, bench_images, bench_run  # noqa: E402
from conftest import add_fake_assets  # noqa: E402
from table import add_options, by_turns, part, row, table, timed, timed_ms, wanted  # noqa: E402

TUNSETIFF, IFF_TAP, IFF_NO_PI, IFF_VNET_HDR = 0x400454CA, 2, 0x1000, 0x4000
AT_ONCE = 20  # creates whose rate is measured
COPY_MIB = 64
EXECS = 100  # commands in one guest at a time
LOOP = 'b=$EPOCHREALTIME; for _ in 1 2 3; do "$@" </dev/null || exit; done; echo "$b $EPOCHREALTIME"'


# ---- real guests ----

class Bare:
    """The very command line that --dry-run prints, without shim, jail, cgroup and daemon. Its TAP is there already."""

    def __init__(self, host, name="bare", **spec):
        self.host, self.name = host, name
        plan = host.api.post("/v1/vms", {"name": "plan", "image": "tiny", "dry_run": True, **spec}).ok()["plan"]
        lines = [line.split(None, 1)[1] for line in plan if " " in line]
        self.argv = shlex.split(next(line for line in lines if line.startswith("exec "))[5:])
        self.binds = [line.split()[1].split(":") for line in lines if line.startswith("bind ")]
        self.run_dir = host.work / name
        self.run_dir.mkdir()
        self.disk = host.work / f"{name}.img"
        self.template = next((host.state_dir / "templates").glob("*.ext4"))
        host.run("ip", "tuntap", "add", name, "mode", "tap", "vnet_hdr")
        host.run("ip", "link", "set", name, "up")

    def translate(self, argument):
        """Paths in the jail become the host's. (Of a directory QEMU takes a new file for the memory.)"""
        argument = argument.replace("mem-path=/ram/memory", "mem-path=/dev/shm")
        for source, target, _ in self.binds:
            if target == "/run":
                argument = re.sub(r"path=/run/", f"path={self.run_dir}/", argument)
            elif target == "/rootfs.img":
                argument = argument.replace("file=/rootfs.img", f"file={self.disk}")
            elif target not in ("/usr", "/dev/null", "/dev/urandom"):
                inside = source.replace("/var/lib/firecracker", str(self.host.state_dir))
                argument = re.sub(rf"(^|file=){re.escape(target)}(?=$|,)", rf"\g<1>{inside}", argument)
        return argument

    def start(self):
        """Spawn it and wait for the QMP greeting; seconds."""
        subprocess.run(["cp", "--sparse=always", self.template, self.disk], check=True)
        for name in ("vmm.sock", "agent.sock"):
            (self.run_dir / name).unlink(missing_ok=True)
        tap = self.host.ns.inside(self.open_tap)
        argv = [self.translate(a).replace("tap,id=net,fd=6", f"tap,id=net,fd={tap}") for a in self.argv]
        begun = time.monotonic()
        self.child = subprocess.Popen(argv, pass_fds=[tap], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        os.close(tap)
        self.qmp = self.connect("vmm.sock")
        self.qmp.recv(4096)
        self.qmp.sendall(b'{"execute":"qmp_capabilities"}\n')
        self.qmp.recv(4096)
        return time.monotonic() - begun

    def open_tap(self):
        tap = os.open("/dev/net/tun", os.O_RDWR)
        fcntl.ioctl(tap, TUNSETIFF, struct.pack("16sH22x", self.name.encode(), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR))
        return tap

    def connect(self, name):
        def attempt():
            sock = socket.socket(socket.AF_UNIX)
            try:
                sock.connect(str(self.run_dir / name))
            except OSError:
                sock.close()
                raise
            return sock
        return hosts.wait_for(name, attempt, 10, 0.002)

    def boot(self):
        """Let it run, and set the guest up as the daemon does; seconds."""
        begun = time.monotonic()
        self.qmp.sendall(b'{"execute":"cont"}\n')
        Agent(begun + 60, self.run_dir / "agent.sock", port=None).set_up("172.16.0.250")
        return time.monotonic() - begun

    def end(self):
        begun = time.monotonic()
        self.child.kill()
        self.child.wait()
        taken = time.monotonic() - begun
        self.qmp.close()
        return taken


def create_with_times(host, name):
    """Create a VM and return the seconds from the request to the end of each step."""
    connection = http.client.HTTPConnection("localhost", timeout=120)
    connection.sock = host.api.connect(False, 120)
    begun, times = time.monotonic(), {}
    connection.request("POST", "/v1/vms", json.dumps({"name": name, "image": "tiny"}),
                       {"Authorization": f"Bearer {host.api.token}", "Content-Type": "application/json",
                        "Accept": "application/x-ndjson"})
    response = connection.getresponse()
    for line in response:
        event = json.loads(line)
        if event.get("status") == "done":
            times[event["step"]] = time.monotonic() - begun
        elif "error" in event:
            raise hosts.Failed(f"create: {event}")
    connection.close()
    return times


def bench_guests(host, rounds):
    host.create("warm")
    host.api.delete("/v1/vms/warm?force=1").ok()
    bare, figures = Bare(host), {"ready": [], "marker": [], "gone": []}

    def ours(number):
        times = create_with_times(host, f"g{number}")
        marker = times["guest"]
        begun = time.monotonic()
        host.api.delete(f"/v1/vms/g{number}?force=1").ok()
        figures["ready"].append(times["attach"])
        figures["marker"].append(marker)
        figures["gone"].append(time.monotonic() - begun)
        return 0

    base = {"ready": [], "marker": [], "gone": []}

    def theirs(_):
        ready = bare.start()
        base["ready"].append(ready)
        base["marker"].append(ready + bare.boot())
        base["gone"].append(bare.end())
        return 0

    by_turns(rounds, ours, theirs)
    for key, what, goal in (("ready", "create to VMM ready / bare launch of its argv", 1.15),
                            ("marker", "create to the guest set up by its agent / the same by hand", 1.03),
                            ("gone", "destroy / SIGKILL and reap", None)):
        row(what, statistics.median(figures[key][1:]) * 1e3, statistics.median(base[key][1:]) * 1e3, goal)


def ssh_options(host):
    """Plain ssh into a guest that has the key; what it costs to look the host key up is the same for all."""
    return ["-qF", "/dev/null", "-i", host.work / "key", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=no", "-o",
            "UserKnownHostsFile=/dev/null"]


def ssh_command(host, ip, *options):
    return ["ssh", *ssh_options(host), *options, f"root@{ip}", "true"]


def create_with_key(host, name, **spec):
    """Its address."""
    key = host.work / "key"
    if not key.exists():
        subprocess.run(["ssh-keygen", "-qN", "", "-t", "ed25519", "-f", key], check=True)
    return host.create(name, ssh_keys=[key.with_suffix(".pub").read_text().strip()], **spec)["ip"]


def bench_exec(host, rounds):
    ip = create_with_key(host, "exec")
    folder = tempfile.mkdtemp(prefix="bench-", dir="/tmp")  # a socket's path holds 108 bytes
    shared = ("-o", f"ControlPath={folder}/ssh", "-o", "ControlMaster=auto", "-o", "ControlPersist=60")

    def mean_of(argv):
        """Timed inside the host: entering it would cost both sides the same, and bring them nearer to each other."""
        begun, ended = map(float, host.run("bash", "-c", LOOP, "loop", *argv).stdout.split())
        return (ended - begun) / 3 * 1e3

    def execs(clients):
        with ThreadPoolExecutor(clients) as pool:
            return timed_ms(lambda: list(pool.map(one_exec, range(EXECS))))

    def one_exec(_):
        host.api.post("/v1/vms/exec/exec", {"cmd": ["true"]}).ok()

    try:
        ours, fast, slow = by_turns(rounds, lambda _: mean_of(["fcm", "exec", "exec", "true"]),
                                    lambda _: mean_of(ssh_command(host, ip, *shared)), lambda _: mean_of(ssh_command(host, ip)))
        host.run(*ssh_command(host, ip, *shared, "-O", "exit")[:-1])
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    row("fcm exec / ssh on a connection that is there", ours, fast, 1.0)
    row("fcm exec / ssh that connects", ours, slow, 0.2)
    row(f"{EXECS} execs at once / one after the other", *by_turns(max(rounds // 2, 1), lambda _: execs(EXECS), lambda _: execs(1)), None)
    host.api.delete("/v1/vms/exec?force=1").ok()


def bench_cp(host, rounds):
    """A file into a guest, whose /tmp is memory, and back."""
    ip = create_with_key(host, "copy", image="base")
    here, back = host.work / "file", host.work / "back"
    here.write_bytes(os.urandom(COPY_MIB << 20))

    def rate_of(*argv):
        return COPY_MIB / timed(lambda: host.run(*argv))

    for what, ours, theirs in (("into", (here, "copy:/tmp/file"), (here, f"root@{ip}:/tmp/file")),
                               ("out of", ("copy:/tmp/file", back), (f"root@{ip}:/tmp/file", back))):
        row(f"fcm cp / scp of {COPY_MIB} MiB {what} a guest",
            *by_turns(rounds, lambda _, a=ours: rate_of("fcm", "cp", *a), lambda _, a=theirs: rate_of("scp", *ssh_options(host), *a)),
            1.0, "MiB/s", lower=False)
    host.api.delete("/v1/vms/copy?force=1").ok()


# ---- the daemon alone: scripted VMMs, whose guests cost nothing ----

def bench_rate(host, rounds):
    """Creates by two clients at a time, each until its (scripted) guest is ready: the API has no paused create."""
    host.create("warm", memory=64)
    host.api.delete("/v1/vms/warm?force=1").ok()
    lanes = [Bare(host, f"bare{n}", memory=64) for n in range(AT_ONCE)]

    def rate_of(call, items):
        with ThreadPoolExecutor(2) as clients:
            return AT_ONCE / timed(lambda: list(clients.map(call, items)))

    def ours(_):
        made = rate_of(lambda lane: host.create(lane.name, memory=64), lanes)
        for lane in lanes:
            host.api.delete(f"/v1/vms/{lane.name}?force=1").ok()
        return made

    def theirs(_):
        made = rate_of(Bare.start, lanes)
        for lane in lanes:
            lane.end()
        return made

    row(f"{AT_ONCE} creates, 2 at a time / bare launches with a disk copied; scripted VMM", *by_turns(rounds, ours, theirs), 0.8,
        "/s", lower=False)


def rate(host, build, port, path):
    done = host.run(build / "tests/bench/bench-load", port, path, host.api.token, 4, 700)
    return float(done.stdout)


def bench_http(host, build, path, what, goal, rounds):
    body = host.work / "body"
    body.write_bytes(host.api.get(path).body)
    hello = host.spawn([build / "tests/bench/bench-hello", 7790, body])
    hosts.wait_for("bench-hello", lambda: host.ns.connect(("127.0.0.1", 7790), 1).close() is None, 5)
    ours, theirs = by_turns(rounds, lambda _: rate(host, build, 7777, path), lambda _: rate(host, build, 7790, path))
    hello.kill()
    hello.wait()
    row(what, ours / 1e3, theirs / 1e3, goal, "k/s", lower=False)


def rss(host):
    text = Path(f"/proc/{host.daemon.pid}/status").read_text()
    return int(re.search(r"VmRSS:\s+(\d+)", text)[1]) / 1024


def fill(host, upto):
    """Create scripted VMs until there are so many."""
    have = len(host.api.get("/v1/vms").ok()["vms"])
    for number in range(have, upto):
        host.create(f"fill-{number}", memory=64)


def life(host, name):
    begun = time.monotonic()
    host.create(name, memory=64)
    taken = time.monotonic() - begun
    host.api.delete(f"/v1/vms/{name}?force=1").ok()
    return taken


def bench_daemon(host, build, rounds, many):
    row("RSS idle", rss(host), None, 10, "MiB")
    fill(host, 1)
    alone = statistics.median([life(host, f"a{n}") for n in range(rounds * 2 + 1)][1:])
    bench_http(host, build, "/v1/vms/fill-0", "GET /v1/vms/{vm} / libmicrohttpd hello", 0.85, rounds)
    fill(host, 100)
    row("RSS with 100 VMs", rss(host), None, 15, "MiB")
    bench_http(host, build, "/v1/vms", "list of 100 / the same body, cached", 0.7, rounds)
    fill(host, many)
    crowded = statistics.median([life(host, f"c{n}") for n in range(rounds * 2 + 1)][1:])
    row(f"create at {many} VMs / at 1", crowded * 1e3, alone * 1e3, 1.1)
    begun, times = 0, []
    for _ in range(rounds + 1):
        begun = time.monotonic()
        host.fcm("ls")
        times.append(time.monotonic() - begun)
    base = [timed(lambda: host.run("true")) for _ in range(rounds + 1)]
    row(f"fcm ls of {many}, start to exit (less nsenter)", (statistics.median(times) - statistics.median(base)) * 1e3, None, None)


@contextlib.contextmanager
def machine(build, config):
    work = Path(tempfile.mkdtemp(prefix="bench-", dir=build))
    host = hosts.Host(work / "host", build, config)
    try:
        host.start_daemon()
        yield host
    except hosts.Failed:
        print(host.log_tail(), file=sys.stderr)
        raise
    finally:
        host.close()
        shutil.rmtree(work, ignore_errors=True)


def bench_user(host, rounds):
    """What a user sees of it; no ratio."""
    return json.loads(host.fcm("bench", "-n", str(rounds), "--json", "tiny").stdout)


def guests(options, rounds):
    few = max(rounds // 2, 1)
    measures = {
        "vm": lambda host: bench_guests(host, rounds), "exec": lambda host: bench_exec(host, rounds), "cp": lambda host: bench_cp(host, few),
        "clone": lambda host: bench_clones(host, rounds), "net": lambda host: bench_ports(host, few), "run": lambda host: bench_run(host, Bare(host, "alone"), rounds),
        "images": lambda host: bench_images(host, few), "user": lambda host: bench_user(host, rounds),
    }
    names = wanted(options, *measures)
    if names:
        with machine(options.build, CONFIG) as host:
            host.add_assets("kernel", "tiny", *(["base"] if {"cp", "clone"} & set(names) else []))
            for name in names:
                part(options.build, name, lambda name=name: measures[name](host))


def daemon_alone(options, rounds):
    measures = {"daemon": lambda host: bench_daemon(host, options.build, rounds, options.many), "rate": lambda host: bench_rate(host, rounds)}
    config = (f"qemu = {options.build.resolve()}/tests/fake/fake-vmm\npool = 172.16.0.0/22\nlast_address = 1000\nmem_overcommit_percent = 10000\n"
              "max_vms = 1000\n")
    names = wanted(options, *measures)
    if names:
        with machine(options.build, config) as host:
            add_fake_assets(host)
            for name in names:
                part(options.build, name, lambda name=name: measures[name](host))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--build", type=Path, required=True)
    parser.add_argument("--assets", type=Path, required=True)
    options = add_options(parser).parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.environ["FCM_ASSETS"] = str(options.assets.resolve())
    subprocess.run(["cmake", "--build", options.build, "--target", "bench"], check=True, stdout=subprocess.DEVNULL)
    guests(options, options.rounds or 7)
    daemon_alone(options, options.rounds or 7)
    table()
    return 0


if __name__ == "__main__":
    sys.exit(main())
