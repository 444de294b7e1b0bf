"""The daemon is killed at random times while VMs are created, stopped and destroyed. Nothing is lost, nothing is left."""
import http.client
import os
import random
import signal
import threading
import time

import pytest
from host import Failed, wait_for

KILLS = int(os.environ.get("FCM_KILLS", 20))
SEED = int(os.environ.get("FCM_SEED", time.time_ns() % 1_000_000))


@pytest.fixture(scope="module")
def steady(host):
    """A VM that runs through all of it and counts the seconds."""
    host.add_user_token()
    host.create("steady")
    host.ssh("steady", "(while sleep 1; do echo >>/root/seconds; done) >/dev/null 2>&1 &")
    host.boot_id("steady")
    return host.vm("steady")


class Load(threading.Thread):
    """Creates, stops, starts and destroys VMs until it is told to end; a daemon that isn't there is no reason to."""

    def __init__(self, api, chance):
        super().__init__()
        self.api, self.chance, self.ended, self.done = api, chance, threading.Event(), 0

    def try_call(self, method, path, body=None):
        try:
            self.api.call(method, path, body, timeout=60)
            self.done += 1
        except (OSError, http.client.HTTPException):
            time.sleep(0.05)

    def run(self):
        number = 0
        while not self.ended.is_set():
            number += 1
            name = f"load-{number}"
            self.try_call("POST", "/v1/vms", {"name": name, "image": "tiny", "memory": 96})
            if self.chance.random() < 0.5:
                self.try_call("POST", f"/v1/vms/{name}/stop", {"time": 3})
            if self.chance.random() < 0.3:
                self.try_call("POST", f"/v1/vms/{name}/start")
            self.try_call("DELETE", f"/v1/vms/{name}?force=1")


def still_running(host, steady):
    now = host.vm("steady")
    assert (now["state"], now["id"], now["ip"]) == ("running", steady["id"], steady["ip"])
    assert now["vmm_pid"] == steady["vmm_pid"], "the VMM was started again"


def settled(host):
    """No operation is half done: every VM is in a state that lasts."""
    vms = host.api.get("/v1/vms").ok()["vms"]
    return all(vm["state"] in ("running", "stopped", "failed") for vm in vms)


def test_killed_at_random_times(host, steady):
    print(f"FCM_SEED={SEED}")
    chance = random.Random(SEED)
    load = Load(host.api, random.Random(SEED + 1))
    load.start()
    try:
        for kill in range(KILLS):
            time.sleep(chance.uniform(0.02, 3.0))
            host.stop_daemon(signal.SIGKILL)
            begun = time.monotonic()
            host.start_daemon()
            still_running(host, steady)
            print(f"kill {kill + 1}: adopted after {time.monotonic() - begun:.2f} s")
    finally:
        load.ended.set()
        load.join(120)
    assert not load.is_alive() and load.done >= KILLS // 2, "the daemon had nothing to do"
    wait_for("every VM is settled", lambda: settled(host), 60)
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        if vm["name"] != "steady":
            assert host.api.delete(f"/v1/vms/{vm['id']}?force=1").ok()["left"] == []


def test_the_steady_one_never_noticed(host, steady):
    assert host.boot_id("steady") == steady["boot_id"]
    first = int(host.ssh("steady", "wc -l </root/seconds"))
    time.sleep(2.5)
    assert int(host.ssh("steady", "wc -l </root/seconds")) > first >= KILLS // 2


def test_sigterm_leaves_the_vms_running(host, steady):
    assert host.stop_daemon(signal.SIGTERM) == 0
    host.start_daemon()
    still_running(host, steady)
    assert host.boot_id("steady") == steady["boot_id"]


def test_a_vm_that_dies_while_nobody_looks(host):
    vm = host.create("alone", restart="no")
    host.stop_daemon(signal.SIGKILL)
    os.kill(vm["vmm_pid"], signal.SIGKILL)
    time.sleep(0.3)
    host.start_daemon()
    now = host.wait_state("alone", "failed", 10)
    assert now["reason"]["message"]
    host.api.delete("/v1/vms/alone").ok()


def test_a_second_daemon_is_refused(host, steady):
    done = host.run("fcm", "daemon", check=False, timeout=20)
    assert done.returncode != 0 and done.stderr
    still_running(host, steady)


def test_broken_config_is_a_failed_vm(host):
    vm = host.create("broken", restart="no")
    host.api.post("/v1/vms/broken/kill").ok()
    path = host.state_dir / vm["id"] / "config.json"
    good = path.read_bytes()
    for damage in ("", "{", "[]", '{"schema": 99}', "\0\0\0\0"):
        host.stop_daemon()
        path.write_text(damage)
        host.start_daemon()
        now = host.vm(vm["id"])
        assert now["state"] == "failed" and now["reason"]["code"] == "config_invalid", damage
        assert (host.state_dir / vm["id"] / "rootfs.img").exists()
    host.stop_daemon()
    path.write_bytes(good)
    host.start_daemon()
    assert host.vm("broken")["state"] == "stopped"
    host.api.delete("/v1/vms/broken").ok()


def test_steady_goes_in_the_end(host, steady):
    assert host.api.delete(f"/v1/vms/{steady['id']}").ok()["left"] == []
    with pytest.raises(Failed):
        host.vm("steady")
