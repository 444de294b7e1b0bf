#!/usr/bin/python3
"""Runs in the test host: the product's creates against the same calls by hand, by turns, then many VMs at a time.

    in_host.py ROUNDS VMS       prints one JSON object: lists of seconds, what VMS guests cost while nothing happens, and as many clones
"""
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import time
from pathlib import Path

from by_hand import Agent, Vmm

SOCKET, STATE = "/run/fcm/fcmd.sock", Path("/var/lib/firecracker")
SPEC = {"image": "tiny", "memory": 96}
IDLE_S = 10


class Product:
    @staticmethod
    def call(method, path, body=None):
        """The lines of the answer, each as it comes."""
        connection = http.client.HTTPConnection("localhost", timeout=300)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.connect(SOCKET)
        head = {"Accept": "application/x-ndjson"} | ({"Content-Type": "application/json"} if body else {})
        connection.request(method, path, json.dumps(body) if body else None, head)
        for line in connection.getresponse():
            answer = json.loads(line)
            if "error" in answer:
                sys.exit(f"{method} {path}: {answer}")
            yield answer
        connection.close()

    def plan(self):
        return list(self.call("POST", "/v1/vms", {"name": "plan", "dry_run": True, **SPEC}))[-1]["plan"]

    def create(self, name):
        """Seconds from the request to the end of each step."""
        begun, times = time.monotonic(), {}
        for event in self.call("POST", "/v1/vms", {"name": name, **SPEC}):
            if event.get("status") == "done":
                times[event["step"]] = time.monotonic() - begun
        return {"spawned": times["vmm"] - times["cgroup"], "started": times["boot"], "marker": times["guest"]}

    def destroy(self, name):
        list(self.call("DELETE", f"/v1/vms/{name}?force=1"))

    def clone(self, name, count=1):
        """Of the snapshot `warm`; the VMs."""
        return list(self.call("POST", "/v1/snapshots/warm/clone", {"name": name, "count": count}))[-1]["vms"]

    def answers(self, name):
        assert list(self.call("POST", f"/v1/vms/{name}/exec", {"cmd": ["true"]}))[-1]["exit"] == 0

    def pss_kib(self, name):
        pid = list(self.call("GET", f"/v1/vms/{name}"))[-1]["vmm_pid"]
        return int(re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])


class ByHand:
    """The calls that --dry-run prints, on files of its own and with a TAP that is there already."""

    def __init__(self, plan):
        calls = [re.search(r"api \S+: PUT (/\S+) (\{.*\})$", line) for line in plan]
        binds = [line.split()[2].split(":")[:2] for line in plan if line.split()[1] == "bind"]
        self.paths = {inside: outside for outside, inside in binds if outside.startswith(f"{STATE}/")}
        self.paths |= {"/rootfs.img": "disk.ext4", "/run/agent.sock": "vsock"}
        self.calls = [(call[1], self.translate(json.loads(call[2]))) for call in calls if call]
        self.template = next((STATE / "templates").glob("*.ext4"))
        subprocess.run(["ip", "tuntap", "add", "by-hand", "mode", "tap", "vnet_hdr"], check=True)
        subprocess.run(["ip", "link", "set", "by-hand", "up"], check=True)

    def translate(self, body):
        body = {key: self.paths.get(value, value) if isinstance(value, str) else value for key, value in body.items()}
        return body | {"host_dev_name": "by-hand"} if "host_dev_name" in body else body

    def run(self):
        subprocess.run(["cp", "--sparse=always", self.template, "disk.ext4"], check=True)
        for name in ("api", "vsock"):
            Path(name).unlink(missing_ok=True)
        vmm = Vmm("by-hand")
        try:
            for path, body in self.calls:
                vmm.put(path, **body)
            times = {"spawned": vmm.spawned_ms / 1e3, "started": vmm.ms() / 1e3}
            Agent(time.monotonic() + 60).set_up("172.16.0.250")
            return times | {"marker": vmm.ms() / 1e3}
        finally:
            vmm.process.kill()
            vmm.process.wait()


def pids_of(name):
    return [p.name for p in Path("/proc").glob("[0-9]*") if (p / "comm").read_text().strip() == name]


def cpu_seconds(pids):
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def rss_kib(pid):
    """Added up page by page: the counter in /proc/pid/status is late by dozens of pages."""
    return int(re.search(r"^Rss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.M)[1])


def compare(product, rounds):
    """The first round warms up, and makes the template."""
    product.create("warm")
    product.destroy("warm")
    by_hand, ours, theirs = ByHand(product.plan()), [], []
    for number in range(rounds):
        os.sync()
        ours.append(product.create(f"vm{number}"))
        product.destroy(f"vm{number}")
        os.sync()
        theirs.append(by_hand.run())
    return {"ours": ours, "by_hand": theirs}


def crowd(product, vms):
    names, begun = [f"vm{n}" for n in range(vms)], time.monotonic()
    for name in names:
        product.create(name)
    up, vmms = time.monotonic() - begun, pids_of("firecracker")
    before = cpu_seconds(vmms)
    time.sleep(IDLE_S)
    idle, shim_kib = (cpu_seconds(vmms) - before) / IDLE_S / vms, max(map(rss_kib, pids_of("fcm-shim")))
    begun = time.monotonic()
    for name in names:
        product.destroy(name)
    return {"up": up, "down": time.monotonic() - begun, "idle": idle, "shim_kib": shim_kib}


def until_it_answers(product, name, make):
    begun = time.monotonic()
    make(name)
    product.answers(name)
    taken = time.monotonic() - begun
    product.destroy(name)
    return taken


def clones(product, rounds, count):
    """Clones against boots until the first exec, by turns; and the memory of many that answer, beside one that booted."""
    product.create("source")
    product.answers("source")
    list(product.call("POST", "/v1/vms/source/snapshots", {"name": "warm"}))
    warm, cold = [], []
    for number in range(rounds + 1):
        os.sync()
        times = until_it_answers(product, "twin", product.clone), until_it_answers(product, "cold", product.create)
        if number:
            warm.append(times[0])
            cold.append(times[1])
    names = [vm["name"] for vm in product.clone("many", count)]
    product.create("cold")
    for name in (*names, "cold"):
        product.answers(name)
    result = {"warm": warm, "cold": cold, "clone_kib": [product.pss_kib(name) for name in names], "cold_kib": product.pss_kib("cold")}
    for name in (*names, "cold", "source"):
        product.destroy(name)
    list(product.call("DELETE", "/v1/snapshots/warm"))
    return result


def main():
    os.chdir(Path(__file__).parent)
    product, rounds, vms = Product(), int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps(compare(product, rounds) | crowd(product, vms) | clones(product, rounds, vms)))


if __name__ == "__main__":
    main()
