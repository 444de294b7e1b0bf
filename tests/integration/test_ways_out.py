"""Where an operation fails, is late or is in the way, the VM stays true and some command leads on."""
import contextlib
import http.client
import json
import os
import resource
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import add_fake_assets
from host import wait_for
from oci import docker_archive, tar

AT_ONCE = 2
HOST = {"fake": True, "config": "mem_overcommit_percent = 10000\ndisk_reserve_mib = 0\nboot_seconds = 30\n"
        f"starts_at_once = {AT_ONCE}\n",
        "caddyfile": "{\n\tlocal_certs\n}\ntaken.example.com {\n\trespond taken\n}\n"}
SPEC = {"image": "tiny", "memory": 64, "disk": 64, "restart": "no"}
KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI" + "A" * 43 + " "


def create(host, name, **more):
    return host.api.post("/v1/vms", {**SPEC, "name": name, **more}).ok(201)


def destroy(host, name):
    return host.api.delete(f"/v1/vms/{name}?force=1").ok()


def config(host, vm):
    return json.loads((host.state_dir / vm["id"] / "config.json").read_text())


def kill_vmm(host, name):
    """kill -9 of the VMM; 0 would be our own process group."""
    pid = host.vm(name)["vmm_pid"]
    if pid == 0:
        raise ProcessLookupError
    os.kill(pid, signal.SIGKILL)
    return pid


def cpu_seconds(host):
    fields = Path(f"/proc/{host.daemon.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descriptors(host):
    return len(os.listdir(f"/proc/{host.daemon.pid}/fd"))


# ---- a config.json that can't be read ----

def test_a_broken_config_is_left_alone(host):
    """Only destroy may touch it: everything else would write a new one over what can still be mended."""
    vm = create(host, "torn")
    path = host.state_dir / vm["id"] / "config.json"
    host.stop_daemon()
    path.write_text("garbage")
    host.start_daemon()
    for method, what, body in (("POST", "start", None), ("POST", "stop", {"time": 1}), ("POST", "kill", None),
                               ("POST", "restart", None), ("PUT", "ssh-keys", {"keys": [KEY + "a"]}),
                               ("PUT", "expose", {"port": 80}), ("DELETE", "expose", None)):
        answer = host.api.call(method, f"/v1/vms/{vm['id']}/{what}", body)
        assert answer.code == "config_invalid" and vm["id"] in answer.error["hint"], (what, answer)
        assert path.read_text() == "garbage", what
    assert create(host, "other")["ip"] != vm["ip"], "its config.json may be mended"
    assert destroy(host, vm["id"])["left"] == [] and destroy(host, "other")["left"] == []


def test_a_directory_without_a_config_goes(host):
    """Killed in the middle of removing it, and once more in the middle of mending that."""
    vm = create(host, "half")
    host.stop_daemon()
    (host.state_dir / vm["id"] / "config.json").unlink()
    host.start_daemon(env={"FCM_FAULT": "destroy/quiet:kill"}, wait=False)
    assert host.daemon.wait(10) == -signal.SIGKILL
    host.start_daemon()
    wait_for("it is gone", lambda: host.api.get(f"/v1/vms/{vm['id']}").status == 404 and
             not (host.state_dir / vm["id"]).exists(), 10)


# ---- a disk that is full or read-only ----

@pytest.fixture
def small_disk(host):
    """The state directory on a tmpfs of its own; what the daemon had before is there again afterwards."""
    host.stop_daemon()
    outside = host.state_dir
    host.ns.run("mount", "-t", "tmpfs", "-o", "size=48m", "small", "/var/lib/firecracker")
    host.state_dir = Path(f"/proc/{host.ns.pid}/root/var/lib/firecracker")
    host.start_daemon()
    add_fake_assets(host)
    yield host.state_dir
    (host.state_dir / "ballast").unlink(missing_ok=True)
    host.destroy_all()
    host.stop_daemon()
    host.ns.run("umount", "/var/lib/firecracker")
    host.state_dir = outside
    host.start_daemon()


def fill(folder):
    with open(folder / "ballast", "ab", buffering=0) as file:
        for size in (1 << 20, 4096):
            while True:
                try:
                    if file.write(bytes(size)) < size:
                        break
                except OSError:
                    break


def test_full_disk(host, small_disk):
    running, resting = create(host, "running"), create(host, "resting")
    host.api.post("/v1/vms/resting/kill").ok()
    fill(small_disk)
    assert host.api.post("/v1/vms", {**SPEC, "name": "late"}).code == "no_space"
    assert host.api.get("/v1/vms/late").status == 404
    assert host.api.post("/v1/vms/resting/start").code == "no_space"
    assert host.api.post("/v1/vms/running/restart", {"time": 2}).code == "no_space"
    now = host.vm("resting")
    assert (now["state"], now["desired"], now["reason"]) == ("stopped", "stopped", None)
    host.restart_daemon(signal.SIGKILL)
    now = host.wait_state("running", "running", 10)
    assert now["vmm_pid"] == running["vmm_pid"]
    assert host.api.post("/v1/vms/running/stop", {"time": 2}).ok()["state"] == "stopped"
    assert not os.path.exists(f"/proc/{running['vmm_pid']}")
    (small_disk / "ballast").unlink()
    assert host.api.post("/v1/vms/running/start").ok()["state"] == "running"
    fill(small_disk)
    assert destroy(host, "running")["left"] == [] and destroy(host, resting["id"])["left"] == []


def an_image(host, folder):
    """(where it is sent to, its bytes, how it goes again)"""
    _, data = docker_archive([tar([("random", os.urandom(6 << 20))])], {}, ["large:1"])
    return "images/import", data, lambda: host.api.delete("/v1/image?ref=large:1").status == 200


def a_snapshot(host, folder):
    vm = create(host, "source")
    with open(folder / vm["id"] / "rootfs.img", "r+b") as disk:
        disk.seek(8 << 20)
        disk.write(os.urandom(6 << 20))
    host.api.post("/v1/vms/source/snapshots", {"name": "large"}).ok(201)
    data = host.api.get("/v1/snapshots/large/export").body
    wait_for("nobody holds it", lambda: host.api.delete("/v1/snapshots/large").status == 200)
    destroy(host, "source")
    return "snapshots/import", data, lambda: host.api.delete("/v1/snapshots/large").status == 200


@pytest.mark.parametrize("what", [an_image, a_snapshot])
def test_what_comes_and_does_not_fit(host, small_disk, what):
    """The least room in which it does is found by halving: wherever the disk is full before, nothing of it is left, and all that was
    here runs on."""
    create(host, "running")
    path, data, remove = what(host, small_disk)
    kept = [sorted(os.listdir(small_disk / name)) for name in ("images", "layers", "snapshots")]
    little, enough = 1 << 20, 24 << 20
    while enough - little > 4096:
        room = (little + enough) // 2 & ~4095
        fill(small_disk)
        with open(small_disk / "ballast", "r+b") as ballast:
            ballast.truncate(ballast.seek(0, os.SEEK_END) - room)
        answer = host.api.post(f"/v1/{path}", data)
        if answer.status == 201:
            enough = room
            wait_for("nobody holds it", remove)
        else:
            assert (answer.status, answer.code) == (507, "no_space"), (room, answer)
            little = room
        assert kept == [sorted(os.listdir(small_disk / name)) for name in ("images", "layers", "snapshots")], (room, answer)
        assert host.vm("running")["state"] == "running"
        (small_disk / "ballast").unlink()
    assert 6 << 20 < little and enough < 24 << 20
    destroy(host, "running")


def test_read_only_disk(host, small_disk):
    vm = create(host, "running")
    host.stop_daemon()
    host.ns.run("mount", "--bind", "/var/lib/firecracker", "/var/lib/firecracker")
    host.ns.run("mount", "-o", "remount,bind,ro", "/var/lib/firecracker")
    for _ in range(2):
        host.start_daemon()
        for method, path, body in (("POST", "/v1/vms", {**SPEC, "name": "late"}), ("POST", "/v1/vms/running/stop", {"time": 1}),
                                   ("POST", "/v1/vms/running/restart", None), ("DELETE", "/v1/vms/running?force=1", None)):
            answer = host.api.call(method, path, body)
            assert answer.code == "no_space", (path, answer)
        now = host.wait_state("running", "running", 10)
        assert (now["vmm_pid"], now["desired"]) == (vm["vmm_pid"], "running")
        assert small_disk.exists() and host.stop_daemon() == 0
    host.ns.run("umount", "/var/lib/firecracker")
    host.start_daemon()


# ---- what ends while nobody expects it ----

def test_start_over_a_vmm_that_just_ended(host):
    """The end is noticed by the start or before it; either way nothing of the old run stays."""
    create(host, "ended")
    time.sleep(1)
    before = descriptors(host)
    for number in range(24):
        with contextlib.suppress(ProcessLookupError):
            kill_vmm(host, "ended")
        time.sleep(number % 6 / 1000)
        host.api.post("/v1/vms/ended/start").ok()
    wait_for("the descriptors of one VM", lambda: descriptors(host) <= before, 10)
    destroy(host, "ended")


def test_a_planned_restart_survives_the_daemon(host):
    create(host, "stubborn", restart="on-failure")
    kill_vmm(host, "stubborn")
    wait_for("it failed", lambda: host.vm("stubborn")["state"] == "failed", 5)
    host.restart_daemon(signal.SIGKILL)
    assert host.wait_state("stubborn", "running", 10)["boots"] == 2
    destroy(host, "stubborn")


def test_a_late_guest_is_set_up(host):
    """One that answers only after boot_seconds is left running, and becomes an ordinary one when it does."""
    host.restart_daemon(argv=("fcmd", "--set", "boot_seconds=1"))
    answer = host.api.post("/v1/vms", {**SPEC, "name": "fault-late-guest", "ssh_keys": [KEY + "a"]})
    assert answer.code == "timeout" and answer.error["step"] == "guest"
    vm = host.vm("fault-late-guest")
    assert (vm["state"], vm["reason"]["code"], vm["boot_id"]) == ("running", "timeout", "")
    wait_for("it is set up", lambda: host.vm("fault-late-guest")["reason"] is None, 20)
    now = host.vm("fault-late-guest")
    assert now["boot_id"] and (now["state"], now["vmm_pid"], now["boots"]) == ("running", vm["vmm_pid"], 1)
    host.api.put("/v1/vms/fault-late-guest/ssh-keys", {"keys": [KEY + "b"]}).ok()
    assert host.api.post("/v1/vms/fault-late-guest/stop", {"time": 5}).ok()["forced"] is False
    destroy(host, "fault-late-guest")
    host.restart_daemon()


def test_a_restart_that_fails_is_tried_again(host):
    create(host, "stubborn", restart="always")
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "start/tap:fail"})
    host.wait_state("stubborn", "running", 10)
    kill_vmm(host, "stubborn")
    wait_for("the restart failed", lambda: (host.vm("stubborn")["reason"] or {}).get("step") == "tap", 5)
    host.wait_state("stubborn", "running", 15)
    destroy(host, "stubborn")
    host.restart_daemon()


def test_a_release_that_fails_is_told(host):
    create(host, "stuck")
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "ended/cgroup:fail"})
    host.wait_state("stuck", "running", 10)
    kill_vmm(host, "stuck")
    assert host.wait_state("stuck", "failed", 5)["reason"]["step"] == "cgroup"
    assert host.api.post("/v1/vms/stuck/start").ok()["state"] == "running"
    destroy(host, "stuck")
    host.restart_daemon()


def test_a_tap_that_somebody_deletes(host):
    """The VM runs on and says what it lacks, also to the next daemon; a restart mends it."""
    for deleted_while in ("serving", "down"):
        vm = create(host, "cut")
        if deleted_while == "down":
            host.stop_daemon()
        host.ns.run("ip", "link", "del", f"tap_{vm['id']}")
        if deleted_while == "down":
            host.start_daemon()
        now = wait_for("it is noticed", lambda: (now := host.vm("cut"))["reason"] and now, 5)
        assert now["reason"]["code"] == "network_lost" and "fcm restart cut" in now["reason"]["message"]
        assert (now["state"], now["vmm_pid"]) == ("running", vm["vmm_pid"])
        host.restart_daemon()
        assert host.vm("cut")["reason"]["code"] == config(host, vm)["reason"]["code"] == "network_lost"
        now = host.api.post("/v1/vms/cut/restart", {"time": 2}).ok()
        assert now["state"] == "running" and host.vm("cut")["reason"] is None
        host.ns.run("ip", "link", "show", f"tap_{vm['id']}")
        destroy(host, "cut")


def test_directories_in_place_of_sockets(host):
    """What a VMM that was taken over could make in its run directory keeps its VM from nothing."""
    vm = create(host, "taken")
    run = host.state_dir / vm["id"] / "jail/run"

    def spoil():
        for name in ("vmm.sock", "agent.sock", "console.sock", "state", "memory"):
            (run / name).unlink(missing_ok=True)
            (run / name / "in/side").mkdir(parents=True)

    spoil()
    host.api.post("/v1/vms/taken/kill").ok()
    assert host.api.post("/v1/vms/taken/start").ok()["state"] == "running"
    spoil()
    host.api.post("/v1/vms/taken/stop", {"time": 0}).ok()
    spoil()
    host.api.post("/v1/vms/taken/start").ok()
    spoil()
    assert host.api.delete("/v1/vms/taken?force=1").ok()["left"] == []
    assert not run.exists()


def test_a_stop_goes_on_gently(host):
    """The daemon is killed while the guest shuts down; the next one asks again instead of killing it."""
    vm = create(host, "gentle")
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "stop/quiet:kill"})
    with pytest.raises((OSError, http.client.HTTPException)):
        host.api.post("/v1/vms/gentle/stop", {"time": 5})
    host.daemon.wait(5)
    host.start_daemon()
    host.wait_state("gentle", "stopped", 10)
    assert "status=0" in (host.state_dir / vm["id"] / "exit").read_text().replace("\0", "\n"), "it was killed"
    destroy(host, "gentle")


# ---- what is in the way ----

def in_background(call):
    pool = ThreadPoolExecutor(1)
    future = pool.submit(call)
    pool.shutdown(wait=False)
    return future


def test_a_kill_ends_a_boot_that_hangs(host):
    made = in_background(lambda: host.api.post("/v1/vms", {**SPEC, "name": "fault-deaf-boot"}, timeout=60))
    wait_for("it boots", lambda: host.vm("fault-deaf-boot")["state"] == "starting", 10)
    begun = time.monotonic()
    destroy(host, "fault-deaf-boot")
    assert time.monotonic() - begun < 5 and made.result().code == "cancelled"


def test_an_end_for_which_there_is_no_thread(host):
    """It is told once, and what is to be done then waits for a thread."""
    create(host, "ends")
    limit = next(path / "pids.max" for path in host.groups.paths if (path / "pids.max").exists())
    limit.write_text("1")
    try:
        kill_vmm(host, "ends")
        wait_for("it can't be done now", lambda: "no thread for the operation" in host.log_tail(20))
        assert host.vm("ends")["state"] == "running"
    finally:
        limit.write_text("max")
    wait_for("it is done", lambda: host.vm("ends")["state"] == "failed", 10)
    destroy(host, "ends")


def test_a_kill_waits_little_for_an_adoption(host):
    """A VMM that hangs when the daemon starts is given up soon."""
    vm = create(host, "hangs")
    host.stop_daemon()
    os.kill(vm["vmm_pid"], signal.SIGSTOP)
    host.start_daemon()
    begun = time.monotonic()
    assert destroy(host, "hangs")["left"] == []
    assert time.monotonic() - begun < 8


def test_a_kill_ends_a_stop_that_hangs(host):
    create(host, "fault-nopower-stop")
    stop = in_background(lambda: host.api.post("/v1/vms/fault-nopower-stop/stop", {"time": 60}, timeout=90))
    wait_for("it stops", lambda: host.vm("fault-nopower-stop")["state"] == "stopping", 10)
    time.sleep(0.5)
    begun = time.monotonic()
    assert host.api.post("/v1/vms/fault-nopower-stop/kill").ok()["state"] == "stopped"
    assert time.monotonic() - begun < 8 and stop.result().ok()["forced"]
    destroy(host, "fault-nopower-stop")


def test_a_queue_has_an_end(host):
    """Clients that come, ask and go away leave operations behind: not without a limit."""
    in_background(lambda: host.api.post("/v1/vms", {**SPEC, "name": "fault-deaf-queue"}, timeout=60))
    wait_for("it boots", lambda: host.vm("fault-deaf-queue")["state"] == "starting", 10)
    body = b'{"time": 1}'
    request = (b"POST /v1/vms/fault-deaf-queue/stop HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
               b"Content-Length: %d\r\n\r\n%s" % (len(body), body))
    for _ in range(2):
        clients = [host.api.connect(False, 5) for _ in range(10)]
        for client in clients:
            client.sendall(request)
        time.sleep(0.5)
        for client in clients:
            client.close()
    assert host.api.post("/v1/vms/fault-deaf-queue/start", timeout=5).code == "busy"
    destroy(host, "fault-deaf-queue")


@pytest.mark.parametrize("sent", [0, 32 << 20])
def test_a_client_that_left_costs_nothing(host, sent):
    """A tunnel to a port that takes nothing and never closes; its client is gone, with or without bytes under way."""
    vm = create(host, "sink")
    host.ns.run("ip", "addr", "add", f"{vm['ip']}/32", "dev", "lo")  # the scripted guest has no network
    listener = host.ns.inside(lambda: socket.create_server((vm["ip"], 9), backlog=1))
    client = host.api.connect(False, 5)
    client.sendall(b"GET /v1/vms/sink/tunnel?port=9 HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\n"
                   b"Upgrade: fcm-tunnel\r\n\r\n")
    assert b" 101 " in client.recv(4096)
    server, _ = listener.accept()
    client.settimeout(0.5)
    with contextlib.suppress(TimeoutError):
        client.sendall(bytes(sent))
    client.close()
    time.sleep(0.2)
    begun = cpu_seconds(host)
    time.sleep(2)
    assert cpu_seconds(host) - begun < 0.5
    server.close()
    listener.close()
    host.ns.run("ip", "addr", "del", f"{vm['ip']}/32", "dev", "lo")
    destroy(host, "sink")


def test_memory_is_promised_once(host):
    """Asked for at one time, as much as fits and no more."""
    total = next(int(line.split()[1]) for line in open("/proc/meminfo", encoding="ascii")) // 1024
    most = 1 << 20  # MiB, the largest VM; mem_overcommit_percent makes 100 times the host's memory of it
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: host.api.post("/v1/vms", {**SPEC, "name": f"big{n}", "memory": most}), range(8)))
    assert {a.status for a in answers} <= {201, 409} and sum(a.status == 201 for a in answers) <= total * 100 // most
    host.destroy_all()


def test_too_many_keys_leave_none(host):
    vm = create(host, "keys")
    host.api.put("/v1/vms/keys/ssh-keys", {"keys": [f"{KEY}first{n}" for n in range(30)]}).ok()
    answer = host.api.put("/v1/vms/keys/ssh-keys", {"keys": [f"{KEY}second{n}" for n in range(5)]})
    assert answer.status == 400 and answer.error["field"] == "keys"
    host.api.post("/v1/vms/keys/kill").ok()  # writes config.json
    assert len(config(host, vm)["ssh_keys"]) == 30
    destroy(host, "keys")


# ---- sites ----

def test_an_expose_that_fails_leaves_what_was(host):
    host.start_caddy()
    create(host, "shop")
    taken = {"port": 81, "domain": "taken.example.com"}
    assert host.api.put("/v1/vms/shop/expose", taken).code == "domain_taken"
    assert host.vm("shop")["expose"] is None
    host.api.put("/v1/vms/shop/expose", {"port": 80, "domain": "shop.example.com"}).ok()
    assert host.api.put("/v1/vms/shop/expose", taken).code == "domain_taken"
    now = host.vm("shop")["expose"]
    assert (now["port"], now["domain"], now["status"]) == (80, "shop.example.com", "active")
    assert "shop.example.com" in (host.caddy_dir / f"fcm.d/{host.vm('shop')['id']}.caddy").read_text()
    destroy(host, "shop")


# ---- many ----

def test_a_hundred_vms_are_adopted_at_once(host):
    """With the same ids, addresses and processes, within a second; one VMM that hangs delays nobody."""
    names = [f"many{n}" for n in range(99)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: create(host, name), [*names, "hangs"]))
        before = {vm["id"]: (vm["vmm_pid"], vm["ip"]) for vm in host.api.get("/v1/vms").ok()["vms"]}
        host.stop_daemon(signal.SIGKILL)
        os.kill(before[next(i for i in before if config(host, {"id": i})["name"] == "hangs")][0], signal.SIGSTOP)
        host.start_daemon()
        begun = time.monotonic()
        # an operation waits for the VM's adoption, and keys go through the agent's channel
        keys = {"keys": [KEY + "a"]}
        list(pool.map(lambda name: host.api.put(f"/v1/vms/{name}/ssh-keys", keys, timeout=30).ok(), names))
        took = time.monotonic() - begun
        print(f"adopted and given a key in {took:.2f} s")
        assert {vm["id"]: (vm["vmm_pid"], vm["ip"]) for vm in host.api.get("/v1/vms").ok()["vms"]} == before
        assert took < (20 if os.environ.get("FCM_SANITIZED") else 5), "adoption is one thread a VM, and waits longer for the hung one"
        destroy(host, "hangs")
        list(pool.map(lambda name: destroy(host, name), names))


def vms(host):
    return {vm["name"]: vm for vm in host.api.get("/v1/vms").ok()["vms"]}


def turns_taken(host):
    now = vms(host).values()
    return {vm["state"] for vm in now} == {"starting"} and sum(vm["vmm_pid"] != 0 for vm in now) == AT_ONCE


def test_starts_take_turns(host):
    """After a boot of the host few VMs start at a time; one that waits can be stopped, started and destroyed."""
    names = [f"fault-slow-{n}" for n in range(7)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: create(host, name, restart="always"), names))
    host.run("fcmd", "--park")
    host.restart_daemon()
    wait_for("turns are taken", lambda: turns_taken(host), 10)
    now = vms(host)
    stopped, destroyed, *waits = (name for name in names if now[name]["vmm_pid"] == 0)
    begun = time.monotonic()
    assert host.api.post(f"/v1/vms/{stopped}/stop").ok()["state"] == "stopped"
    destroy(host, destroyed)
    assert time.monotonic() - begun < 2
    host.api.post(f"/v1/vms/{waits[0]}/start").ok()  # whoever asks isn't kept waiting
    while starting := [vm for vm in vms(host).values() if vm["state"] == "starting" and vm["name"] != waits[0]]:
        assert sum(vm["vmm_pid"] != 0 for vm in starting) <= AT_ONCE
        time.sleep(0.05)
    now = vms(host)
    assert {name for name in now if now[name]["state"] == "running"} == set(names) - {stopped, destroyed}
    host.destroy_all()


def test_parking_reaches_those_that_wait(host):
    names = [f"fault-slow-{n}" for n in range(AT_ONCE + 1)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(pool.map(lambda name: create(host, name, restart="always"), names))
    host.run("fcmd", "--park")
    host.restart_daemon()
    wait_for("turns are taken", lambda: turns_taken(host), 10)
    host.run("fcmd", "--park")
    assert {(vm["state"], vm["desired"]) for vm in vms(host).values()} == {("stopped", "running")}
    host.destroy_all()


# ---- the daemon's own end ----

def test_sigterm_hears_a_guest_out(host):
    """The daemon stops while a guest shuts down: it waits for the guest's answer, and the stop is done when it ends."""
    create(host, "last")
    stop = in_background(lambda: host.api.post("/v1/vms/last/stop", {"time": 5}, timeout=60))
    wait_for("it stops", lambda: host.vm("last")["state"] in ("stopping", "stopped"), 5)
    assert host.stop_daemon() == 0
    with contextlib.suppress(OSError, http.client.HTTPException):
        assert stop.result().status in (200, 503)
    host.start_daemon()
    assert host.vm("last")["state"] == "stopped"
    destroy(host, "last")


def test_no_descriptors(host):
    """Without a free descriptor requests fail; with one the daemon is as before."""
    create(host, "held")
    usual, most = resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE, (descriptors(host) + 6, most))
    answers = []
    for number in range(8):
        with contextlib.suppress(OSError, http.client.HTTPException):
            answers.append(host.api.post("/v1/vms", {**SPEC, "name": f"short{number}"}, timeout=20))
    assert all(a.status in (201, 500, 503) for a in answers), answers
    assert cpu_seconds(host) < 20
    resource.prlimit(host.daemon.pid, resource.RLIMIT_NOFILE, (usual, most))
    wait_for("it answers again", lambda: host.api.get("/v1/vms").status == 200, 5)
    assert host.vm("held")["state"] == "running"
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        assert destroy(host, vm["id"])["left"] == []
    create(host, "after")
    destroy(host, "after")
