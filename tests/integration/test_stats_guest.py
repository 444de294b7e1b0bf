"""What real guests use: the numbers grow with what the guest does."""
import json
import os
import signal
import time

import pytest
from host import wait_for

HOST = {"assets": ("kernel", "tiny")}

MB = 1_000_000


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web", memory=256)


def sh(host, script):
    return host.fcm("exec", "web", "sh", "-c", script).stdout


def stats(api):
    return api.get("/v1/vms/web/stats").ok()


def test_what_the_guest_says(host, api):
    s, free = stats(api), {}
    for line in sh(host, "cat /proc/meminfo").splitlines():
        key, value = line.split(":")
        free[key] = int(value.split()[0]) * 1024
    guest = s["guest"]
    assert guest["memory"] == free["MemTotal"] and abs(guest["available"] - free["MemAvailable"]) < 10 * MB
    assert float(guest["load"]) >= 0 and 0 < guest["disk_used"] < guest["disk"]
    assert 0 < s["pss"] <= s["rss"] < 1000 * MB and s["threads"] >= 2 and s["up_ms"] > 0


def percent(host):
    return float(json.loads(host.fcm("stats", "--json", "web").stdout)[0]["cpu_percent"])


def test_cpu(host):
    wait_for("it is idle", lambda: percent(host) < 40, 30, 0.5)
    pid = int(host.fcm("exec", "-d", "web", "sh", "-c", "while :; do :; done").stdout)
    busy = max(percent(host) for _ in range(4))
    sh(host, f"kill {pid}")
    assert busy > 45
    wait_for("it is idle again", lambda: percent(host) < 40, 20, 0.5)


def test_memory(host, api):
    before = stats(api)
    sh(host, "dd if=/dev/urandom of=/dev/shm/x bs=1M count=60 2>/dev/null")
    after = stats(api)
    sh(host, "rm /dev/shm/x")
    assert after["guest"]["available"] < before["guest"]["available"] - 50 * MB
    assert after["rss"] > before["rss"] + 20 * MB and after["pss"] > before["pss"] + 20 * MB
    assert stats(api)["guest"]["available"] > after["guest"]["available"] + 50 * MB


def test_disk(host, api):
    before = stats(api)
    sh(host, "dd if=/dev/urandom of=/root/x bs=1M count=20 conv=fsync 2>/dev/null")
    after = stats(api)
    sh(host, "rm /root/x")
    assert 20 * MB <= after["guest"]["disk_used"] - before["guest"]["disk_used"] < 40 * MB
    if on_a_disk(host):
        assert 20 * MB <= after["disk_written"] - before["disk_written"] < 60 * MB


def on_a_disk(host):
    """Does the kernel count what is written there? Not on tmpfs."""
    return host.run("stat", "-f", "-c", "%T", "/var/lib/firecracker").stdout.strip() != "tmpfs"


def test_network(host, api, web):
    before = stats(api)
    host.run("ping", "-q", "-c", "20", "-i", "0.2", "-s", "1400", web["ip"])
    after = stats(api)
    for key in ("net_received", "net_sent"):
        assert 20 * 1400 <= after[key] - before[key] < 20 * 1400 * 2


def test_network_has_two_directions(host, api, web):
    before = stats(api)
    host.run("bash", "-c", f"for i in {{1..40}}; do head -c 1400 /dev/zero >/dev/udp/{web['ip']}/9; done")
    after = stats(api)
    assert after["net_received"] - before["net_received"] >= 40 * 1400 > 2 * (after["net_sent"] - before["net_sent"])


def test_a_stopped_machine(host, api):
    pid = host.vm("web")["vmm_pid"]
    os.kill(pid, signal.SIGSTOP)
    try:
        begun = time.monotonic()
        s = stats(api)
        assert time.monotonic() - begun < 3 and s["rss"] > 0 and set(s["guest"].values()) == {None}
    finally:
        os.kill(pid, signal.SIGCONT)
    wait_for("it answers again", lambda: stats(api)["guest"]["memory"], 10)


def test_table(host):
    heads, row = host.fcm("stats").stdout.splitlines()
    assert heads.split()[0] == "NAME" and row.split()[0] == "web" and " MB/" in row and "-" not in row.split()
