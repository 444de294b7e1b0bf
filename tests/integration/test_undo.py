"""Every step of every table fails once, and the daemon is killed at every step. `fcmd --list-steps` enumerates them."""
import http.client
import os
import subprocess
from pathlib import Path

import pytest
from host import TOP, wait_for

HOST = {"fake": True, "daemon": False}

FCMD = Path(os.environ.get("FCM_BUILD", TOP / "build")) / "daemon/fcmd"
STEPS = subprocess.run([FCMD, "--list-steps"], capture_output=True, text=True, check=False).stdout.split()
SPEC = {"name": "victim", "image": "tiny", "memory": 96}


def prepare(host, table):
    """Bring a VM to where an operation of this table begins."""
    if table == "create":
        return
    host.api.post("/v1/vms", SPEC).ok()
    if table == "start":
        host.api.post("/v1/vms/victim/kill").ok()


def operate(host, table):
    calls = {
        "create": lambda: host.api.post("/v1/vms", SPEC, timeout=60),
        "start": lambda: host.api.post("/v1/vms/victim/start", timeout=60),
        "stop": lambda: host.api.post("/v1/vms/victim/stop", {"time": 1}, timeout=60),
        "destroy": lambda: host.api.delete("/v1/vms/victim", timeout=60),
    }
    return calls[table]()


def gone(host):
    return host.api.get("/v1/vms/victim").status == 404


@pytest.fixture(scope="module")
def baseline(host):
    from conftest import add_fake_assets
    host.start_daemon()
    add_fake_assets(host)
    host.api.post("/v1/vms", SPEC).ok()
    host.api.delete("/v1/vms/victim").ok()
    wait_for("gone", lambda: gone(host))
    return host.residue()


def clean(host, baseline):
    """The VM, if there is one, can be destroyed, and then nothing is left; the next life is a whole one."""
    if not gone(host):
        answer = host.api.delete("/v1/vms/victim?force=1", timeout=60)
        assert answer.status in (200, 404), answer
    host.check_residue(baseline)
    host.api.post("/v1/vms", SPEC).ok()
    assert host.api.delete("/v1/vms/victim").ok()["left"] == []
    host.check_residue(baseline)


def test_there_are_steps():
    assert {step.split("/")[0] for step in STEPS} >= {"create", "start", "stop", "destroy"}


@pytest.mark.parametrize("step", STEPS)
def test_fails(host, baseline, step):
    table, name = step.split("/")
    host.restart_daemon()
    prepare(host, table)
    host.restart_daemon(env={"FCM_FAULT": f"{step}:fail"})
    answer = operate(host, table)
    if answer.status >= 400:
        assert answer.error.get("step") == name and answer.error["message"]
    if table == "create":
        assert answer.status >= 400 and gone(host)
        host.check_residue(baseline)
    assert operate(host, table).status in (200, 201, 404), "the second try failed as well"
    clean(host, baseline)


@pytest.mark.parametrize("step", STEPS)
def test_killed(host, baseline, step):
    table, _ = step.split("/")
    host.restart_daemon()
    prepare(host, table)
    host.restart_daemon(env={"FCM_FAULT": f"{step}:kill"})
    with pytest.raises((OSError, http.client.HTTPException)):
        operate(host, table)
    host.daemon.wait(10)
    host.start_daemon()
    wait_for("every VM is settled", lambda: all(
        vm["state"] in ("running", "stopped", "failed") for vm in host.api.get("/v1/vms").ok()["vms"]), 20)
    clean(host, baseline)
