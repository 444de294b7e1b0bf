"""How a machine ends: typed in the guest, a panic, a killed VMM or shim, a stop; and what comes after it."""
import os
import signal
import time

import pytest
from host import USER, wait_for


@pytest.fixture(scope="module", autouse=True)
def user(host):
    host.add_user_token()


@pytest.fixture(scope="module")
def booted(host):
    """A snapshot of a VM that has booted. In the test host a boot costs less than its memory's way to the disk and back."""
    if os.environ.get("FCM_REAL"):
        yield None
        return
    host.create("booted")
    taken = host.api.post("/v1/vms/booted/snapshots", {}).ok(201)
    host.api.delete("/v1/vms/booted?force=1").ok()
    yield taken["id"]
    host.api.delete(f"/v1/snapshots/{taken['id']}").ok()


@pytest.fixture
def vm(request, host, api, booted):
    """A running VM called after the test, with the restart policy that its marker `restart` names."""
    name = request.node.name.removeprefix("test_").replace("_", "-").replace("[", "-").replace("]", "")[:40]
    marker = request.node.get_closest_marker("restart")
    policy = marker.args[0] if marker else "no"
    if booted:
        host.api.post(f"/v1/snapshots/{booted}/clone", {"name": name}).ok(201)
        host.api.call("PATCH", f"/v1/vms/{name}", {"restart": policy}).ok()
    else:
        host.create(name, restart=policy)
    yield name
    api.delete(f"/v1/vms/{name}?force=1")


def type_in_guest(host, vm, command):
    """A command that ends the connection it came through."""
    host.ssh(vm, f"({command}) >/dev/null 2>&1 &", check=False, timeout=30)


def rebooted(host, vm, old):
    now = wait_for(f"{vm} booted again", lambda: (now := host.vm(vm))["state"] == "running"
                   and now["boot_id"] not in ("", old["boot_id"]) and now, 60)
    if os.environ.get("FCM_REAL"):  # sshd may need longer there than a start waits for it
        wait_for(f"{vm}'s sshd", lambda: host.ssh(vm, "true", check=False).returncode == 0, 90)
    return now


def test_poweroff(host, vm):
    type_in_guest(host, vm, "poweroff")
    begun = time.monotonic()
    after = host.wait_state(vm, "stopped", 20)
    assert time.monotonic() - begun < 5
    assert after["reason"] is None


def end_unheard(host, vm, command):
    """A command that ends the machine while no daemon listens; what the next one finds."""
    old = host.vm(vm)
    type_in_guest(host, vm, f"sleep 2; {command}")
    host.stop_daemon()
    wait_for("the VMM ended", lambda: not os.path.exists(f"/proc/{old['vmm_pid']}"), 30)
    host.start_daemon()
    return old


@pytest.mark.parametrize("policy", [pytest.param("no", marks=pytest.mark.restart("no")),
                                    pytest.param("always", marks=pytest.mark.restart("always"))])
def test_poweroff_while_no_daemon_runs(host, vm, policy):
    end_unheard(host, vm, "poweroff")
    assert host.wait_state(vm, "stopped", 20)["reason"] is None
    time.sleep(1.5)  # a restart after a crash would be due
    assert host.vm(vm)["state"] == "stopped"
    assert host.api.post(f"/v1/vms/{vm}/start").ok()["state"] == "running"
    type_in_guest(host, vm, "echo c >/proc/sysrq-trigger")  # the last run's word isn't this one's
    assert (host.wait_state(vm, "failed")["reason"] or {})["code"] == "crashed"


def test_reboot_while_no_daemon_runs(host, vm):
    old = end_unheard(host, vm, "reboot")
    assert rebooted(host, vm, old)["boots"] == old["boots"] + 1
    host.boot_id(vm)


def test_panic_while_no_daemon_runs(host, vm):
    end_unheard(host, vm, "echo c >/proc/sysrq-trigger")
    assert host.wait_state(vm, "failed", 20)["reason"]["code"] == "crashed"


@pytest.mark.restart("always")
def test_poweroff_is_no_failure(host, vm):
    """What is typed in the guest is what its user wants: no policy starts it again."""
    type_in_guest(host, vm, "poweroff")
    host.wait_state(vm, "stopped", 20)
    time.sleep(2)
    assert host.vm(vm)["state"] == "stopped"


def test_reboot(host, vm):
    old = host.vm(vm)
    host.boot_id(vm)
    type_in_guest(host, vm, "reboot")
    now = rebooted(host, vm, old)
    assert now["ip"] == old["ip"] and now["boots"] == old["boots"] + 1
    assert host.boot_id(vm) == now["boot_id"]


@pytest.mark.parametrize("command", ["poweroff", "halt"])
def test_without_the_agent(host, vm, command):
    """A program that calls reboot(2) itself. No VMM ends where a kernel halts, as it does for a poweroff, too, on Firecracker."""
    type_in_guest(host, vm, f"exec /bin/busybox {command} -f")
    assert host.wait_state(vm, "stopped", 20)["reason"] is None


def test_reboot_without_the_agent(host, vm):
    old = host.vm(vm)
    type_in_guest(host, vm, "exec /bin/busybox reboot -f")
    assert rebooted(host, vm, old)["boots"] == old["boots"] + 1


def test_panic(host, vm):
    type_in_guest(host, vm, "echo c >/proc/sysrq-trigger")
    now = host.wait_state(vm, "failed")
    assert now["reason"]["code"] and "panic" in now["reason"]["message"]
    assert "panic" in host.fcm("logs", vm, user=USER).stdout


@pytest.mark.restart("on-failure")
def test_panic_restarts(host, vm):
    old = host.vm(vm)
    type_in_guest(host, vm, "echo c >/proc/sysrq-trigger")
    rebooted(host, vm, old)
    host.boot_id(vm)


def shim_of(vmm_pid):
    with open(f"/proc/{vmm_pid}/stat", encoding="ascii") as file:
        return int(file.read().rsplit(")", 1)[1].split()[1])


@pytest.mark.parametrize("victim", ["vmm", "shim"])
def test_killed(host, vm, victim):
    pid = host.vm(vm)["vmm_pid"]
    shim = shim_of(pid)
    os.kill(pid if victim == "vmm" else shim, signal.SIGKILL)
    now = host.wait_state(vm, "failed", 10)
    assert now["reason"]["message"]
    wait_for("both are gone", lambda: not os.path.exists(f"/proc/{pid}") and not os.path.exists(f"/proc/{shim}"), 5)
    assert host.api.post(f"/v1/vms/{vm}/start").ok()["state"] == "running"
    host.boot_id(vm)


@pytest.mark.restart("on-failure")
def test_killed_restarts(host, vm):
    old = host.vm(vm)
    os.kill(old["vmm_pid"], signal.SIGKILL)
    rebooted(host, vm, old)


def test_a_stopped_vmm_can_be_destroyed(host, vm):
    """A VMM that hangs delays nobody else and can be destroyed."""
    os.kill(host.vm(vm)["vmm_pid"], signal.SIGSTOP)
    host.create("bystander")
    assert host.vm("bystander")["state"] == "running"
    host.api.delete("/v1/vms/bystander?force=1").ok()
    assert host.api.delete(f"/v1/vms/{vm}?force=1").ok()["left"] == []


def test_a_deaf_guest_is_forced(host, vm):
    """A guest whose init doesn't answer is stopped after the time that the user gave."""
    type_in_guest(host, vm, "kill -STOP 1")
    host.ssh(vm, "echo 0 >/proc/sys/kernel/hung_task_timeout_secs", check=False)
    begun = time.monotonic()
    answer = host.api.post(f"/v1/vms/{vm}/stop", {"time": 2}).ok()
    assert answer["state"] == "stopped" and time.monotonic() - begun < 12


def test_stop_and_start_keep_the_data(host, vm):
    before = host.boot_id(vm)
    host.ssh(vm, "echo kept >/root/data; sync")
    host.fcm("stop", vm, user=USER)
    assert host.vm(vm)["state"] == "stopped"
    host.fcm("start", vm, user=USER)
    assert host.ssh(vm, "cat /root/data") == "kept\n"
    assert host.boot_id(vm) != before
