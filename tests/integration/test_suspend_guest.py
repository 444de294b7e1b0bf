"""Standing still, and going on: pause, resume, suspend, start. A counter in the guest's memory tells that it is the same machine."""
import time

import pytest
from host import counter, wait_for


@pytest.fixture(scope="module", autouse=True)
def user(host):
    host.add_user_token()


def run(host, vm, *cmd, **more):
    done = host.api.post(f"/v1/vms/{vm}/exec", {"cmd": list(cmd), **more}).ok()
    assert done["exit"] == 0, done
    return done["stdout"].strip()


def shell(host, vm, line):
    return run(host, vm, "sh", "-c", line)


def count(host, vm):
    return int(shell(host, vm, "tail -n 1 /run/n | grep . || echo 0"))


@pytest.fixture(scope="module")
def vm(host):
    host.create("still")
    shell(host, "still", counter("/run/n", 0.1))
    wait_for("the counter", lambda: count(host, "still") > 5)
    yield "still"
    host.api.delete("/v1/vms/still?force=1")


def drift(host, vm):
    """Seconds that the guest's clock is behind ours."""
    return time.time() - float(shell(host, vm, "date +%s"))


def test_pause(host, vm):
    before = host.vm(vm)
    paused = host.api.post(f"/v1/vms/{vm}/pause").ok()
    assert (paused["state"], paused["changed"]) == ("paused", True)
    assert paused["vmm_pid"] == before["vmm_pid"] and paused["started"] == before["started"]
    assert host.api.post(f"/v1/vms/{vm}/pause").ok()["changed"] is False
    refused = host.api.post(f"/v1/vms/{vm}/exec", {"cmd": ["true"]})
    assert refused.status == 409 and "fcm resume" in refused.error["hint"]
    time.sleep(3)
    assert host.api.post(f"/v1/vms/{vm}/resume").ok()["state"] == "running"
    n = count(host, vm)
    assert -1.5 < drift(host, vm) < 1.5
    wait_for("it goes on", lambda: count(host, vm) > n)
    assert host.vm(vm)["boot_id"] == before["boot_id"]
    assert host.api.post(f"/v1/vms/{vm}/resume").ok()["changed"] is False


def test_a_paused_one_is_adopted(host, vm):
    boot = host.vm(vm)["boot_id"]
    n = count(host, vm)
    host.api.post(f"/v1/vms/{vm}/pause").ok()
    host.restart_daemon()
    assert host.vm(vm)["state"] == "paused"
    assert host.api.post(f"/v1/vms/{vm}/start").ok()["state"] == "running"
    wait_for("the agent's session", lambda: host.api.post(f"/v1/vms/{vm}/exec", {"cmd": ["true"]}).status == 200)
    wait_for("it goes on", lambda: count(host, vm) > n)
    assert host.vm(vm)["boot_id"] == boot


def test_suspend(host, vm):
    before, n = host.vm(vm), count(host, vm)
    gone = host.api.post(f"/v1/vms/{vm}/suspend").ok()
    assert (gone["state"], gone["desired"], gone["vmm_pid"]) == ("suspended", "stopped", 0)
    assert gone["ip"] == before["ip"]
    assert host.api.post(f"/v1/vms/{vm}/suspend").ok()["changed"] is False
    host.restart_daemon()
    assert host.vm(vm)["state"] == "suspended"
    time.sleep(2)
    again = host.api.post(f"/v1/vms/{vm}/start").ok()
    assert again["state"] == "running" and again["boot_id"] == before["boot_id"]
    m = count(host, vm)
    assert n <= m < n + 500, (n, m)
    assert -1.5 < drift(host, vm) < 1.5
    wait_for("it goes on", lambda: count(host, vm) > m)
    assert int(host.ssh(vm, "tail -n 1 /run/n")) > m


def test_what_is_paused_can_be_suspended(host, vm):
    boot = host.vm(vm)["boot_id"]
    host.api.post(f"/v1/vms/{vm}/pause").ok()
    host.api.post(f"/v1/vms/{vm}/suspend").ok()
    assert host.api.post(f"/v1/vms/{vm}/start").ok()["boot_id"] == boot


def test_stop_drops_the_memory(host, vm):
    boot = host.vm(vm)["boot_id"]
    shell(host, vm, "echo kept >/root/kept; sync")
    host.api.post(f"/v1/vms/{vm}/suspend").ok()
    assert host.api.post(f"/v1/vms/{vm}/stop").ok()["state"] == "stopped"
    assert host.api.post(f"/v1/vms/{vm}/start").ok()["boot_id"] != boot
    assert shell(host, vm, "cat /root/kept") == "kept"


def test_a_paused_one_is_stopped(host, vm):
    host.api.post(f"/v1/vms/{vm}/pause").ok()
    stopped = host.api.post(f"/v1/vms/{vm}/stop").ok()
    assert (stopped["state"], stopped["forced"]) == ("stopped", False)
    refused = host.api.post(f"/v1/vms/{vm}/pause")
    assert refused.status == 409 and "is stopped" in refused.error["message"]
