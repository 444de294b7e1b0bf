"""Every step of every table fails once, and the daemon is killed at every step. `fcmd --list-steps` enumerates them."""
import contextlib
import http.client
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest
from conftest import add_assets
from host import TOP, Failed, wait_for
from oci import docker_archive, tar
from registry import Registry

REGISTRY = "127.0.0.1:5000"
HOST = {"fake": True, "daemon": False, "caddyfile": "{\n\tlocal_certs\n}\n", "config": f"insecure_registries = {REGISTRY}\n"}

LAYERS = [tar([("etc/os-release", b"ID=x\n")]), tar([("file", b"content")])]
LAYERED = docker_archive(LAYERS, {}, ["brought:1"])[1]
KERNEL = tar([("vmlinux", b"\x7fELF"), ("initrd", b"x"), ("release", b"6.1")])
OCTETS = {"Content-Type": "application/octet-stream"}
# What brings or makes an image, a kernel or a snapshot, and the last step of each: then it is there.
BROUGHT = {"pull": "keep", "import-image": "keep", "build": "keep", "import-snapshot": "enter", "import-kernel": "install"}
FCMD = Path(os.environ.get("FCM_BUILD", TOP / "build")) / "daemon/fcmd"
LIST = subprocess.run([FCMD, "--list-steps"], capture_output=True, text=True, check=False).stdout.splitlines()
STEPS = [line.split()[0] for line in LIST]
KEEP = {line.split()[0] for line in LIST if "keep" in line.split()[1:]}  # a failure here leaves the machine running
LAST = {step.split("/")[0]: step for step in STEPS}.values()
SPEC = {"name": "victim", "image": "tiny", "memory": 96, "restart": "no", "publish": ["8080:80"],
        "volumes": ["data:/data", "/own"]}
SETTLED = ("running", "paused", "suspended", "stopped", "failed")


class Operation:
    """How a table is made to run: what must be there before, and the call. A call of None is no request."""

    def __init__(self, host):
        self.host, self.api = host, host.api

    def before_create(self):
        pass

    def create(self):
        return self.api.post("/v1/vms", {**SPEC, "expose": 8000}, timeout=60)

    def before_start(self):
        self.api.post("/v1/vms", SPEC).ok()
        self.api.post("/v1/vms/victim/kill").ok()

    def start(self):
        return self.api.post("/v1/vms/victim/start", timeout=60)

    def before_stop(self):
        self.api.post("/v1/vms", SPEC).ok()

    def stop(self):
        return self.api.post("/v1/vms/victim/stop", {"time": 1}, timeout=60)

    def before_destroy(self):
        self.api.post("/v1/vms", {**SPEC, "expose": 8000}).ok()

    def destroy(self):
        return self.api.delete("/v1/vms/victim", timeout=60)

    before_expose = before_stop

    def expose(self):
        return self.api.put("/v1/vms/victim/expose", {"port": 8000}, timeout=60)

    before_unexpose = before_destroy

    def unexpose(self):
        return self.api.delete("/v1/vms/victim/expose", timeout=60)

    before_publish = before_stop

    def publish(self):
        return self.api.post("/v1/vms/victim/publish", {"publish": ["8081:81"]}, timeout=60)

    before_update = before_stop

    def update(self):
        return self.api.call("PATCH", "/v1/vms/victim", {"labels": {"a": "b"}}, timeout=60)

    before_rename = before_destroy

    def rename(self):
        return self.api.call("PATCH", "/v1/vms/victim", {"name": "survivor"}, timeout=60)

    before_adopt = before_stop

    def adopt(self):
        """It ran when the daemon started."""

    before_ended = before_stop

    def ended(self):
        os.kill(self.host.vm("victim")["vmm_pid"], signal.SIGKILL)
        time.sleep(1)

    before_pause = before_suspend = before_snapshot = before_snapshot_stop = before_stop

    def pause(self):
        return self.api.post("/v1/vms/victim/pause", timeout=60)

    def before_resume(self):
        self.before_stop()
        self.pause().ok()

    def resume(self):
        return self.api.post("/v1/vms/victim/resume", timeout=60)

    before_adopt_paused = before_resume

    def adopt_paused(self):
        """It stood still when the daemon started."""

    def suspend(self):
        return self.api.post("/v1/vms/victim/suspend", timeout=60)

    def snapshot(self):
        return self.api.post("/v1/vms/victim/snapshots", {"disk_only": True}, timeout=60)

    def snapshot_stop(self):
        return self.api.post("/v1/vms/victim/snapshots", {"disk_only": True, "stop": True}, timeout=60)

    def before_clone(self):
        self.api.post("/v1/vms", {**SPEC, "name": "source", "volumes": ["/own"], "publish": []}).ok()
        self.api.post("/v1/vms/source/snapshots", {"name": "shot"}).ok()
        self.api.delete("/v1/vms/source?force=1").ok()

    def clone(self):
        return self.api.post("/v1/snapshots/shot/clone", {"name": "victim", "publish": ["8080:80"], "expose": 8000}, timeout=60)

    def before_revert(self):
        self.before_stop()
        self.api.post("/v1/vms/victim/snapshots", {"name": "shot", "disk_only": True}).ok()

    def revert(self):
        return self.api.post("/v1/vms/victim/restore", {"snapshot": "shot"}, timeout=60)

    def before_import_image(self):
        pass

    def import_image(self):
        return self.api.post("/v1/images/import", LAYERED, headers=OCTETS, timeout=60)

    def before_pull(self):
        if not hasattr(self.host, "registry"):
            self.host.registry = Registry(self.host, self.host.work / "registry", REGISTRY)
            self.host.registry.fill("brought:1", LAYERS, {})

    def pull(self):
        return self.api.post("/v1/images/pull", {"image": f"{REGISTRY}/brought:1"}, timeout=60)

    def before_build(self):
        """No guest is there that makes the directory of what it wrote: the disk has it that all are copies of."""
        for template in (self.host.state_dir / "templates").iterdir():
            subprocess.run(["debugfs", "-w", "-R", "mkdir upper", template], check=True, capture_output=True)
        self.api.post("/v1/images/import?name=below", LAYERED, headers=OCTETS).ok(201)

    def build(self):
        return self.api.post("/v1/images/build", {"name": "brought", "from": "below", "script": "true", "memory": 96}, timeout=60)

    def before_import_kernel(self):
        pass

    def import_kernel(self):
        return self.api.put("/v1/kernels/brought", KERNEL, headers=OCTETS, timeout=60)

    def before_import_snapshot(self):
        if not hasattr(self.host, "exported"):
            self.before_clone()
            self.host.exported = self.api.get("/v1/snapshots/shot/export").body
            drop(self.host)

    def import_snapshot(self):
        return self.api.post("/v1/snapshots/import", self.host.exported, headers=OCTETS, timeout=60)


def method(host, name):
    return getattr(Operation(host), name.replace("-", "_"))


def gone(host):
    return host.api.get("/v1/vms/victim").status == 404


def settled(host):
    return all(vm["state"] in SETTLED for vm in host.api.get("/v1/vms").ok()["vms"])


@pytest.fixture(scope="module")
def baseline(host):
    """Beside the daemon and its assets there is a snapshot, which nothing here may touch."""
    host.start_caddy()
    host.start_daemon()
    add_assets(host, HOST)
    host.api.post("/v1/vms", {**SPEC, "expose": 8000}).ok()
    host.api.post("/v1/vms/victim/snapshots", {"name": "bystander", "disk_only": True}).ok()
    host.api.delete("/v1/vms/victim").ok()
    wait_for("gone", lambda: gone(host))
    return host.residue()


def brought(host):
    """The paths, in the API, of images and snapshots that were brought here."""
    images = {i["digest"] for i in host.api.get("/v1/images").ok()["images"] if i["kind"] == "image" and "brought" in i["name"]}
    shots = [s["id"] for s in host.api.get("/v1/snapshots").ok()["snapshots"] if s["name"] == "shot"]
    kernels = [path.name for path in (host.state_dir / "kernels").iterdir() if path.name != "default"]
    return [*(f"/v1/image?ref={digest}" for digest in images), *(f"/v1/snapshots/{shot}" for shot in shots),
            *(f"/v1/kernels/{kernel}" for kernel in kernels)]


def drop(host):
    """The snapshots and images that are none of the baseline's."""
    for shot in host.api.get("/v1/snapshots").ok()["snapshots"]:
        if shot["name"] != "bystander":
            wait_for("nobody holds it", lambda shot=shot: host.api.delete(f"/v1/snapshots/{shot['id']}").status == 200)
    shutil.rmtree(host.state_dir / "kernels/brought", ignore_errors=True)
    for image in host.api.get("/v1/images").ok()["images"]:
        if image["kind"] == "image" and image["name"] not in ("tiny", "base"):
            assert host.api.delete(f"/v1/image?ref={image['digest']}").status in (200, 404)  # one image may have two names


def clean(host, baseline):
    """The VM, if there is one, can be destroyed, whatever its name is; then nothing is left, and the next life is a whole one."""
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        answer = host.api.delete(f"/v1/vms/{vm['id']}?force=1", timeout=60)
        assert answer.status in (200, 404), answer
    drop(host)
    host.check_residue(baseline)
    host.create(**SPEC)
    assert host.api.delete("/v1/vms/victim").ok()["left"] == []
    host.check_residue(baseline)


def begin(host, table, fault):
    """Bring a VM to where the operation begins, with a daemon that has the fault."""
    if host.daemon:
        host.stop_daemon()
    host.start_daemon()
    host.destroy_all()  # what a failed test before this one left
    drop(host)
    method(host, "before_" + table)()
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": fault}, wait=False)


def test_every_table_is_known():
    assert STEPS and {step.split("/")[0].replace("-", "_") for step in STEPS} <= set(dir(Operation))


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("when", ["fail", "fail-after"])
def test_fails(host, baseline, step, when):
    table, name = step.split("/")
    begin(host, table, f"{step}:{when}")
    host.wait_daemon()
    answer = method(host, table)()
    if answer is not None and answer.status >= 400:
        assert answer.error.get("step") == name and answer.error["message"], answer
        if table in ("create", "clone") and step not in KEEP:
            assert gone(host)
        if table in BROUGHT and (when == "fail" or name not in ("keep", "install")):
            assert brought(host) == []
        elif table == "create" and step not in KEEP:
            host.check_residue(baseline)
    wait_for("the VM is settled", lambda: settled(host), 20)
    if answer is not None and answer.status >= 400:
        again = method(host, table)()
        assert again.status in (200, 201, 404) or step in KEEP, again
    clean(host, baseline)


@pytest.mark.parametrize("fault", [f"{step}:kill" for step in STEPS] + [f"{step}:kill-after" for step in LAST])
def test_killed(host, baseline, fault):
    table = fault.split("/")[0]
    begin(host, table, fault)
    try:
        host.wait_daemon()
        method(host, table)()
    except (OSError, http.client.HTTPException, SystemExit, Failed):
        pass
    assert host.daemon.wait(10) == -signal.SIGKILL, "the fault didn't strike"
    host.start_daemon()
    wait_for("every VM is settled", lambda: settled(host), 20)
    if table in BROUGHT:
        assert len(brought(host)) == (fault == f"{table}/{BROUGHT[table]}:kill-after"), "whole or not at all"
    clean(host, baseline)


# ---- what a new daemon makes of it: not only settled, but what was meant ----

def ends(host, policy):
    """The VMM of a VM with that policy is killed, and the daemon before it has written down what came of it."""
    host.restart_daemon(env={"FCM_FAULT": "ended/end:kill"})
    vm = host.create(**{**SPEC, "restart": policy})
    os.kill(vm["vmm_pid"], signal.SIGKILL)
    assert host.daemon.wait(10) == -signal.SIGKILL
    host.start_daemon()
    return vm


@pytest.mark.parametrize("policy, state", [("no", "failed"), ("on-failure", "running"), ("always", "running"), ("unless-stopped", "running")])
def test_a_crash_that_nobody_wrote_down(host, baseline, policy, state):
    boots = ends(host, policy)["boots"] + (state == "running")
    wait_for(f"it is {state}", lambda: (host.vm("victim")["state"], host.vm("victim")["boots"]) == (state, boots), 20)
    assert state == "running" or host.vm("victim")["reason"]["code"] == "crashed"
    clean(host, baseline)


@pytest.mark.parametrize("policy", ["no", "always"])
@pytest.mark.parametrize("step", ["start/admit", "start/publish", "start/begin", "stop/end"])
def test_a_restart_that_was_cut(host, baseline, policy, step):
    """Stopped isn't what its user asked for."""
    host.restart_daemon()
    boots = host.create(**{**SPEC, "restart": policy})["boots"] + 1
    host.restart_daemon(env={"FCM_FAULT": f"{step}:kill"})
    with contextlib.suppress(OSError, http.client.HTTPException):
        host.api.post("/v1/vms/victim/restart", {"time": 0}, timeout=30)
    assert host.daemon.wait(10) == -signal.SIGKILL
    host.start_daemon()
    wait_for("it runs", lambda: (host.vm("victim")["state"], host.vm("victim")["boots"]) == ("running", boots), 20)
    clean(host, baseline)


def test_a_restart_that_fails(host, baseline):
    """It says so, and isn't called starting for ever."""
    host.restart_daemon(env={"FCM_FAULT": "start/publish:fail"})
    host.create(**{**SPEC, "restart": "no"})
    assert host.api.post("/v1/vms/victim/restart", {"time": 0}, timeout=30).status == 500
    now = host.vm("victim")
    assert (now["state"], now["reason"]["step"]) == ("failed", "publish"), now
    clean(host, baseline)


def test_a_resume_that_was_cut(host, baseline):
    """Whoever was to go on stands still until somebody says so again."""
    host.restart_daemon()
    host.create(**SPEC)
    host.api.post("/v1/vms/victim/pause").ok()
    host.restart_daemon(env={"FCM_FAULT": "resume/end:kill"})
    with contextlib.suppress(OSError, http.client.HTTPException):
        host.api.post("/v1/vms/victim/resume", timeout=30)
    assert host.daemon.wait(10) == -signal.SIGKILL
    host.start_daemon()
    wait_for("it was adopted", lambda: host.api.post("/v1/vms/victim/resume", timeout=30).status == 200, 20)
    assert host.vm("victim")["state"] == "running"
    assert host.api.post("/v1/vms/victim/exec", {"cmd": ["true"]}, timeout=10).status == 200
    clean(host, baseline)
