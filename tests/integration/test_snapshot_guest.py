"""Snapshots of real guests: what was taken goes on, again and again, and as other VMs, which have nothing of the source's that
could be mistaken for it. FCM_LONG=1 lets a VM stay suspended for ten minutes."""
import hashlib
import http.client
import json
import os
import re
import time

import pytest
from host import counter, wait_for

# One that counts, and one that reads random bytes again and again.
PROGRAMS = counter("/run/n", 0.2) + """
mkfifo /run/tock
(exec 3<>/run/tock; while :; do read -t 1 x <&3; head -c 16 /dev/urandom | od -An -tx1 >/run/random.new; mv /run/random.new /run/random; done) \
>/dev/null 2>&1 </dev/null &"""
HOOK = """#!/bin/sh
echo "$FCM_OLD_NAME $FCM_OLD_IP -> $FCM_NAME $FCM_IP" >/run/hook"""
CLONES = 4


@pytest.fixture(scope="module", autouse=True)
def user(host):
    host.add_user_token()


def run(host, vm, *cmd):
    return host.api.post(f"/v1/vms/{vm}/exec", {"cmd": cmd}).ok()


def shell(host, vm, line):
    done = run(host, vm, "sh", "-c", line)
    assert done["exit"] == 0, done
    return done["stdout"].strip()


def count(host, vm):
    return int(shell(host, vm, "tail -n 1 /run/n | grep . || echo 0"))


def goes_on(host, vm):
    n = count(host, vm)
    wait_for(f"{vm} counts on", lambda: count(host, vm) > n)
    return n


def take(host, vm, name, **more):
    return host.api.post(f"/v1/vms/{vm}/snapshots", {"name": name, **more}).ok(201)


def clone(host, snapshot, name, **more):
    return host.api.post(f"/v1/snapshots/{snapshot}/clone", {"name": name, **more}).ok(201)["vms"][0]


@pytest.fixture(scope="module")
def source(host):
    host.create("source", labels={"role": "source"}, memory=256)
    shell(host, "source", PROGRAMS)
    shell(host, "source", "echo first >/root/note")
    shell(host, "source", f"mkdir -p /etc/fcm/clone.d; echo '{HOOK}' >/etc/fcm/clone.d/mine; chmod 755 /etc/fcm/clone.d/mine")
    wait_for("the counter", lambda: count(host, "source") > 5)
    yield "source"
    host.destroy_all()
    for shot in host.api.get("/v1/snapshots").ok()["snapshots"]:
        host.api.delete(f"/v1/snapshots/{shot['id']}").ok()


@pytest.fixture(scope="module")
def warm(host, source):
    """A snapshot, taken while the source counts and a command runs in it."""
    before = host.vm(source)
    taken = take(host, source, "warm", note="counts")
    longest = 30000 if os.environ.get("FCM_REAL") else 5000  # in the test host all is slow
    assert taken["memory"] and taken["frozen"] and 0 < taken["pause_ms"] < longest
    assert [f["name"] for f in taken["files"]][0] == "disk" and taken["vm"]["name"] == source
    after = host.vm(source)
    assert (after["vmm_pid"], after["boot_id"], after["state"]) == (before["vmm_pid"], before["boot_id"], "running")
    print(f"note pause of a live snapshot: {taken['pause_ms']} ms, {taken['took_ms']} ms in all")
    goes_on(host, source)
    return taken


@pytest.fixture(autouse=True)
def only_the_source(host):
    """What a test made goes: a machine of two cores has no room for all of them."""
    yield
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        if vm["name"] != "source":
            host.api.delete(f"/v1/vms/{vm['id']}?force=1").ok()


def identity(host, vm):
    """All that must differ between two VMs, as the guest has it."""
    facts = json.loads(shell(host, vm, "cat /run/fcm/instance.json"))
    link = shell(host, vm, "ip -o link show eth0; ip -4 -o addr show eth0")
    of_mac = re.search(r"ether (..:..:..):(..:..:..)", link)
    link_local = shell(host, vm, "sed -n 's/^fe80\\([0-9a-f]*\\) .* eth0$/\\1/p' /proc/net/if_inet6")  # RFC 4291, appendix A
    assert link_local[14:] == f"{of_mac[1]}ff:fe{of_mac[2]}".replace(":", "")[2:], (link_local, link)
    return {"id": facts["id"], "name": facts["name"], "hostname": shell(host, vm, "hostname"),
            "ip": re.search(r"inet ([\d.]+)", link)[1], "mac": re.search(r"ether ([0-9a-f:]+)", link)[1],
            "host key": host.vm(vm)["host_key"], "machine-id": shell(host, vm, "cat /etc/machine-id 2>/dev/null || cat /run/fcm/instance.json"),
            "random": shell(host, vm, "head -c 16 /dev/urandom | od -An -tx1")}


def test_clones_are_others(host, source, warm):
    begun = time.monotonic()
    made = host.api.post("/v1/snapshots/warm/clone", {"name": "twin", "count": CLONES}).ok(201)["vms"]
    print(f"note {CLONES} clones at once: {time.monotonic() - begun:.2f} s")
    names = [vm["name"] for vm in made]
    assert names == [f"twin-{n + 1}" for n in range(CLONES)]
    seen = [identity(host, name) for name in (source, *names)]
    for key in seen[0]:
        assert len({each[key] for each in seen}) == len(seen), (key, seen)
    for vm, each in zip(made, seen[1:]):
        assert (vm["boot_id"], vm["ip"], vm["mac"], vm["name"]) == (host.vm(source)["boot_id"], each["ip"], each["mac"], each["hostname"])
        assert vm["snapshot"] == warm["id"]
        assert shell(host, vm["name"], "cat /run/hook") == f"source {host.vm(source)['ip']} -> {vm['name']} {vm['ip']}"
        goes_on(host, vm["name"])
        assert host.ssh(vm["name"], "hostname").strip() == vm["name"]
        assert abs(time.time() - float(shell(host, vm["name"], "date +%s"))) < 2
    # programs that were in the middle of reading random bytes
    assert len({shell(host, name, "cat /run/random") for name in (source, *names)}) == CLONES + 1


def test_data_is_apart(host, source, warm):
    clone(host, "warm", "apart")
    shell(host, "apart", "echo clone >/root/note; sync")
    assert shell(host, source, "cat /root/note") == "first"
    shell(host, source, "echo source >/root/note; sync")
    assert shell(host, "apart", "cat /root/note") == "clone"
    shell(host, source, "echo first >/root/note; sync")


def test_the_network_of_a_clone(host, source, warm):
    vm = clone(host, "warm", "net", publish=["8088:8000"])
    shell(host, "net", "echo hello >/run/index.html; (cd /run && busybox httpd -p 8000 2>/dev/null || true)")
    assert shell(host, "net", f"ping -c 1 -W 5 {vm['ip'].rsplit('.', 1)[0]}.1 >/dev/null && echo yes") == "yes"
    assert host.vm("net")["publish"] == ["0.0.0.0:8088:8000/tcp"]
    assert host.vm(source)["publish"] == []


def of_memory(host, vm, path):
    """KiB of the file of memory that the VM's VMM has mapped privately: what of it is there once for all, and what is its own."""
    maps = open(f"/proc/{host.vm(vm)['vmm_pid']}/smaps", encoding="ascii").read()
    ours = re.findall(rf"^\S+ rw-p \S+ \S+ {path.stat().st_ino} .*\n((?:\w+:.*\n)+)", maps, re.M)
    assert ours, "it is mapped privately"
    return {key: sum(int(n) for text in ours for n in re.findall(rf"^{key}:\s+(\d+) kB", text, re.M))
            for key in ("Rss", "Pss", "Private_Dirty")}


def pss(host, vm):
    text = open(f"/proc/{host.vm(vm)['vmm_pid']}/smaps_rollup", encoding="ascii").read()
    return int(re.search(r"^Pss:\s+(\d+)", text, re.M)[1]) // 1024


def test_clones_share_the_memory(host, source, warm):
    path = host.state_dir / "snapshots" / warm["id"] / "memory"
    before = hashlib.sha256(path.read_bytes()).digest()
    made = host.api.post("/v1/snapshots/warm/clone", {"name": "share", "count": CLONES}).ok(201)["vms"]
    for vm in made:
        goes_on(host, vm["name"])
        shell(host, vm["name"], "head -c 8388608 /dev/urandom >/run/noise")
    seen = {vm["name"]: of_memory(host, vm["name"], path) for vm in made}
    for name, own in seen.items():
        shared = own["Rss"] - own["Private_Dirty"]
        assert own["Private_Dirty"] > 8 << 10 and shared > 4 << 10, (name, seen)
        assert own["Pss"] < own["Private_Dirty"] + shared * 0.5, "what is shared counts in parts"
    sizes = [pss(host, name) for name in (source, *seen)]
    print(f"note PSS of a VM that booted: {sizes[0]} MiB, of its {CLONES} clones: {sizes[1:]}")
    assert max(sizes[1:]) < sizes[0] * 0.6, sizes
    assert hashlib.sha256(path.read_bytes()).digest() == before


def test_taken_while_much_is_asked(host, source, warm):
    """The memory is copied behind the devices: nothing that comes for the guest in between may be in one of them alone."""
    loop = f"while :; do fcm exec {source} true; head -c 300000 /dev/zero | fcm exec -i {source} sh -c 'cat >/dev/null'; done >/dev/null 2>&1"
    askers = [host.spawn(["sh", "-c", loop], start_new_session=True) for _ in range(2)]
    for n in range(3):
        take(host, source, f"busy-{n}")
        goes_on(host, clone(host, f"busy-{n}", f"busy-{n}")["name"])
        host.api.delete(f"/v1/vms/busy-{n}?force=1").ok()
        host.api.delete(f"/v1/snapshots/busy-{n}").ok()
    for asker in askers:
        os.killpg(asker.pid, 9)
        asker.wait(10)
    goes_on(host, source)


def test_a_clone_of_a_clone(host, source, warm):
    clone(host, "warm", "first")
    assert take(host, "first", "second-hand")["parent"] == warm["id"]
    vm = clone(host, "second-hand", "second")
    assert vm["boot_id"] == host.vm(source)["boot_id"]
    n = count(host, "first")
    goes_on(host, "second")
    assert count(host, "second") < n + 100000


def test_a_vm_is_cloned_at_once(host, source):
    begun = time.monotonic()
    vm = host.api.post(f"/v1/vms/{source}/clone", {"name": "direct"}).ok(201)["vms"][0]
    print(f"note clone of a running VM: {time.monotonic() - begun:.2f} s")
    goes_on(host, vm["name"])
    assert [s["name"] for s in host.api.get("/v1/snapshots").ok()["snapshots"]] == ["warm", "second-hand"]
    assert shell(host, "direct", "cat /root/note") == "first"


def test_restore(host, source, warm):
    before = host.vm(source)
    n = count(host, source)
    take(host, source, "here")
    shell(host, source, "echo later >/root/note; sync")
    wait_for("it counts on", lambda: count(host, source) > n + 5)
    back = host.api.post(f"/v1/vms/{source}/restore", {"snapshot": "here"}).ok()
    assert (back["id"], back["ip"], back["boot_id"]) == (before["id"], before["ip"], before["boot_id"])
    assert shell(host, source, "cat /root/note") == "first"
    goes_on(host, source)
    clone(host, "warm", "other")
    refused = host.api.post("/v1/vms/other/restore", {"snapshot": "here"})
    assert refused.status == 409 and "fcm clone here" in refused.error["hint"]
    assert host.ssh(source, "hostname").strip() == source


def test_out_and_in_again(host, source):
    """As a file: what is made of it there goes on where the source was, as another VM."""
    n, path = count(host, source), host.work / "moved.fcm"
    taken = take(host, source, "moved")
    begun = time.monotonic()
    host.fcm("snapshot", "export", "-o", path, "moved")
    print(f"note export of {sum(f['size'] for f in taken['files']) >> 20} MiB to {path.stat().st_size >> 20}: {time.monotonic() - begun:.2f} s")
    host.api.delete("/v1/snapshots/moved").ok()
    begun = time.monotonic()
    assert host.fcm("snapshot", "import", "--name", "arrived", path).stdout == "arrived\n"
    print(f"note import of it: {time.monotonic() - begun:.2f} s")
    path.unlink()
    vm = clone(host, "arrived", "far")
    assert vm["resumed"] and vm["boot_id"] == host.vm(source)["boot_id"] and count(host, "far") >= n
    goes_on(host, "far")
    here, there = identity(host, source), identity(host, "far")
    assert [key for key in here if here[key] == there[key]] == []
    assert shell(host, "far", "cat /run/hook") == f"source {host.vm(source)['ip']} -> far {vm['ip']}"
    assert host.ssh("far", "hostname").strip() == "far"
    refused = host.api.post(f"/v1/vms/{source}/restore", {"snapshot": "arrived"})
    assert refused.status == 409 and "was imported" in refused.error["message"]
    wait_for("nobody holds it", lambda: host.api.delete("/v1/snapshots/arrived").status == 200)


def test_disk_only(host, source):
    taken = take(host, source, "disk", disk_only=True)
    assert not taken["memory"] and [f["name"] for f in taken["files"]] == ["disk"]
    vm = clone(host, "disk", "cold")
    assert vm["boot_id"] != host.vm(source)["boot_id"]
    assert shell(host, "cold", "cat /root/note") == "first"


def test_stop(host, warm):
    clone(host, "warm", "ends")
    host.api.post("/v1/vms/ends/snapshots", {"name": "last", "stop": True}).ok(201)
    assert host.vm("ends")["state"] == "stopped"
    back = host.api.post("/v1/vms/ends/restore", {"snapshot": "last"}).ok()
    assert back["state"] == "running"
    goes_on(host, "ends")


def test_of_a_paused_and_a_suspended_one(host, warm):
    clone(host, "warm", "still")
    host.api.post("/v1/vms/still/pause").ok()
    for name in ("paused-1", "paused-2"):
        assert take(host, "still", name)["frozen"]
        assert host.vm("still")["state"] == "paused"
    goes_on(host, clone(host, "paused-2", "of-paused")["name"])
    host.api.post("/v1/vms/still/suspend").ok()
    assert take(host, "still", "asleep")["memory"]
    goes_on(host, clone(host, "asleep", "of-suspended")["name"])
    assert host.vm("still")["state"] == "suspended"
    host.api.post("/v1/vms/still/start").ok()
    goes_on(host, "still")


def test_a_database_like_load(host, source):
    """A writer that appends and syncs: every line that was acknowledged is in the clone."""
    shell(host, source, "rm -f /root/log; (i=0; while :; do i=$((i+1)); echo $i >>/root/log; sync; echo $i >/run/acked; done) >/dev/null 2>&1 </dev/null &")
    time.sleep(1)
    acked = int(shell(host, source, "cat /run/acked"))
    host.api.post(f"/v1/vms/{source}/clone", {"name": "loaded"}).ok(201)
    lines = [int(n) for n in shell(host, "loaded", "cat /root/log").split()]
    assert lines == list(range(1, len(lines) + 1)) and len(lines) >= acked


def test_a_long_sleep(host, source):
    seconds = 600 if os.environ.get("FCM_LONG") else 5
    shell(host, source, f"(sleep {seconds + 3}; date +%s >/run/woken) >/dev/null 2>&1 </dev/null &")
    host.api.post(f"/v1/vms/{source}/suspend").ok()
    time.sleep(seconds)
    host.api.post(f"/v1/vms/{source}/start").ok()
    assert abs(time.time() - float(shell(host, source, "date +%s"))) < 1.5
    goes_on(host, source)


def test_a_daemon_that_is_killed_before_the_clone_is_another(host, warm):
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "clone/guest:kill"})
    with pytest.raises((OSError, http.client.HTTPException)):
        clone(host, "warm", "orphan")
    host.daemon.wait(10)
    host.start_daemon()
    wait_for("it is adopted", lambda: host.api.post("/v1/vms/orphan/exec", {"cmd": ["true"]}).status == 200)
    assert shell(host, "orphan", "hostname") == "orphan"
    assert identity(host, "orphan")["ip"] == host.vm("orphan")["ip"]
    goes_on(host, "orphan")


def test_a_daemon_that_is_killed_while_a_vm_stands_still(host, source, warm):
    before = host.vm(source)
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "snapshot/copy:kill"})
    with pytest.raises((OSError, http.client.HTTPException)):
        take(host, source, "never")
    host.daemon.wait(10)
    host.start_daemon()
    wait_for("it is adopted", lambda: host.api.post(f"/v1/vms/{source}/exec", {"cmd": ["true"]}).status == 200)
    goes_on(host, source)
    assert host.vm(source)["boot_id"] == before["boot_id"] and host.vm(source)["state"] == "running"
    assert "never" not in [s["name"] for s in host.api.get("/v1/snapshots").ok()["snapshots"]]
    take(host, source, "after")
