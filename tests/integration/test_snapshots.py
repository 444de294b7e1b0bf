"""Pause, suspend, snapshots, clones and restore against the scripted VMM: what is made, refused, shown and removed. What a real
guest makes of it is test_suspend_guest's and test_snapshot_guest's."""
import concurrent.futures
import contextlib
import http.client
import json
import os
import signal
import subprocess
import threading

import pytest
from conftest import REAL
from host import wait_for

HOST = {"fake": True}

fake_only = pytest.mark.skipif(bool(REAL), reason="a VMM that is slow when asked to")


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.remove_all()
    assert os.listdir(host.state_dir / "snapshots") == []


def snapshots(api):
    return api.get("/v1/snapshots").ok()["snapshots"]


def names(api):
    return [s["name"] for s in snapshots(api)]


def take(api, vm="web", **rq):
    return api.post(f"/v1/vms/{vm}/snapshots", rq)


def clone(api, snapshot, **rq):
    return api.post(f"/v1/snapshots/{snapshot}/clone", rq)


def saved(host, vm="web"):
    return host.state_dir / host.vm(vm)["id"] / "saved"


def edit(host, snapshot, **change):
    """What somebody else's snapshot would say."""
    path = host.state_dir / "snapshots" / snapshot["id"] / "snapshot.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))


def refused(answer, code, *words, field=None, hint=""):
    assert answer.code == code, answer
    for word in words:
        assert word in answer.error["message"], answer
    assert hint in answer.error.get("hint", ""), answer
    if field is not None:
        assert answer.error["field"] == field, answer


# ---- pause, suspend ----

def test_pause(host, api):
    before = host.create("web", publish=["8080:80"])
    paused = api.post("/v1/vms/web/pause").ok()
    assert (paused["state"], paused["changed"], paused["desired"]) == ("paused", True, "running")
    assert [host.vm("web")[k] for k in ("vmm_pid", "ip", "publish", "started", "boots")] == [
        before[k] for k in ("vmm_pid", "ip", "publish", "started", "boots")]
    assert api.post("/v1/vms/web/pause").ok()["changed"] is False
    used = api.get("/v1/vms/web/stats").ok()
    assert used["pid"] == before["vmm_pid"] and used["rss"] > 0 and set(used["guest"].values()) == {None}
    assert api.get("/v1/vms/web/wait?state=paused").ok()["state"] == "paused"
    for answer in (api.post("/v1/vms/web/exec", {"cmd": ["true"]}), api.get("/v1/vms/web/files?path=/etc"),
                   api.get("/v1/vms/web/tunnel?port=22", headers={"Connection": "Upgrade", "Upgrade": "fcm-tunnel"})):
        refused(answer, "wrong_state", "VM 'web' is paused", hint="fcm resume web")
    host.restart_daemon()
    assert host.vm("web")["state"] == "paused" and host.vm("web")["vmm_pid"] == before["vmm_pid"]
    resumed = api.post("/v1/vms/web/resume").ok()
    assert (resumed["state"], resumed["changed"]) == ("running", True)
    assert api.post("/v1/vms/web/resume").ok()["changed"] is False
    api.post("/v1/vms/web/pause").ok()
    started = api.post("/v1/vms/web/start").ok()
    assert (started["state"], started["changed"], started["resumed"]) == ("running", True, True)
    api.post("/v1/vms/web/pause").ok()
    assert api.post("/v1/vms/web/stop", {"time": 1}).ok()["state"] == "stopped"


@fake_only
def test_a_vmm_that_halts_too_late(host, api):
    """What wasn't done in time may be done all the same: the guest runs on."""
    host.create("fault-badstop")
    for verb in ("pause", "suspend", "snapshots"):
        assert api.post(f"/v1/vms/fault-badstop/{verb}", {} if verb == "snapshots" else None).code == "vmm"
        assert host.vm("fault-badstop")["state"] == "running"
        assert api.post("/v1/vms/fault-badstop/exec", {"cmd": ["true"]}, timeout=10).status == 200, verb


@fake_only
def test_vmms_that_answer_neither_the_pause_nor_the_way_back(host, api):
    """Whether they stand nobody knows, so they are called paused, and a resume makes it certain."""
    verbs = {"web": ("snapshots", {"disk_only": True}), "two": ("pause", None), "three": ("suspend", None)}
    pids = [host.create(name)["vmm_pid"] for name in verbs]
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            answers = list(pool.map(lambda row: api.post(f"/v1/vms/{row[0]}/{row[1][0]}", row[1][1], timeout=60), verbs.items()))
        assert [answer.code for answer in answers] == ["timeout"] * 3
        assert api.post("/v1/vms/web/resume", timeout=60).code == "timeout"
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    assert os.listdir(host.state_dir / "snapshots") == []
    for name in verbs:
        now = host.vm(name)
        assert (now["state"], now["desired"], now["reason"]["step"]) == ("paused", "running", "pause"), now
        assert api.post(f"/v1/vms/{name}/resume").ok()["reason"] is None and host.vm(name)["state"] == "running"
        assert api.post(f"/v1/vms/{name}/exec", {"cmd": ["true"]}, timeout=10).status == 200
    take(api).ok(201)
    assert host.vm("web")["state"] == "running"


@fake_only
def test_a_vmm_that_is_late_when_the_daemon_begins(host, api):
    """Of one that is paused nothing else is believed; a stop reaches one that runs before it asks."""
    vms = [host.create("paused"), host.create("web")]
    api.post("/v1/vms/paused/pause").ok()
    host.stop_daemon()
    for vm in vms:
        os.kill(vm["vmm_pid"], signal.SIGSTOP)
    host.start_daemon()
    try:
        for vm in vms:
            wait_for("it is late", lambda vm=vm: host.vm(vm["name"])["reason"], 15)
    finally:
        for vm in vms:
            os.kill(vm["vmm_pid"], signal.SIGCONT)
    assert api.post("/v1/vms/web/stop", {"time": 10}).ok()["forced"] is False
    assert host.vm("paused")["state"] == "paused"
    assert api.post("/v1/vms/paused/start").ok()["resumed"] and host.vm("paused")["state"] == "running"
    assert api.post("/v1/vms/paused/exec", {"cmd": ["true"]}).ok()["exit"] == 0


@fake_only
def test_a_suspend_that_a_new_daemon_takes_back(host, api):
    """Its VM runs on, and is wanted to."""
    host.create("web")
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "suspend/save:kill"})
    with contextlib.suppress(OSError, http.client.HTTPException):
        api.post("/v1/vms/web/suspend")
    host.stop_daemon()
    host.start_daemon()
    wait_for("it runs", lambda: host.vm("web")["state"] == "running", 10)
    assert host.vm("web")["desired"] == "running"


def test_suspend(host, api):
    before = host.create("web", publish=["8080:80"], expose=8000)
    asleep = api.post("/v1/vms/web/suspend").ok()
    assert (asleep["state"], asleep["changed"], asleep["vmm_pid"], asleep["started"]) == ("suspended", True, 0, None)
    assert api.post("/v1/vms/web/suspend").ok()["changed"] is False
    assert not os.path.exists(f"/proc/{before['vmm_pid']}")
    assert saved(host).stat().st_mode & 0o777 == 0o700 and saved(host).stat().st_uid == 0
    assert {p.name for p in saved(host).iterdir()} >= {"snapshot.json", "state"} and names(api) == []
    host.restart_daemon()
    assert host.vm("web")["state"] == "suspended"
    back = api.post("/v1/vms/web/start").ok()
    assert (back["state"], back["changed"], back["resumed"]) == ("running", True, True)
    assert [back[k] for k in ("id", "ip", "mac", "boot_id", "host_key", "boots", "publish")] == [
        before[k] for k in ("id", "ip", "mac", "boot_id", "host_key", "boots", "publish")]
    assert back["expose"]["domain"] == before["expose"]["domain"] and not saved(host).exists()


@fake_only
def test_the_channel_is_closed_once_more(host, api):
    """A guest that hears late that its connections are of another time closes the new one, too."""
    host.create("fault-sreset")
    api.post("/v1/vms/fault-sreset/suspend").ok()
    assert api.post("/v1/vms/fault-sreset/start").ok()["resumed"] is True


def test_stop_drops_the_memory(host, api):
    before = host.create("web")
    api.post("/v1/vms/web/suspend").ok()
    stopped = api.post("/v1/vms/web/stop").ok()
    assert stopped["state"] == "stopped" and stopped["changed"] and not saved(host).exists()
    started = api.post("/v1/vms/web/start").ok()
    assert started["resumed"] is False and started["boots"] == before["boots"] + 1
    api.post("/v1/vms/web/suspend").ok()
    again = api.post("/v1/vms/web/restart").ok()
    assert again["resumed"] is False and again["boots"] == before["boots"] + 2 and not saved(host).exists()


@fake_only
def test_a_command_in_one_that_is_suspended(host, api):
    """It ends with its stream, and says why."""
    host.create("web")
    child = host.spawn(["fcm", "exec", "web", "sleep"], stderr=subprocess.PIPE)
    wait_for("it runs", lambda: "open=2" in api.post("/v1/vms/web/exec", {"cmd": ["show"]}).ok()["stdout"])
    api.post("/v1/vms/web/suspend").ok()
    assert child.wait(10) == 125
    assert child.stderr.read() == b"fcm: VM 'web' was suspended\n     fcm start web, and the command again\n"


@pytest.mark.parametrize("state, verb, hint", [
    ("stopped", "pause", "start"), ("stopped", "resume", "start"), ("stopped", "suspend", "start"),
    ("suspended", "pause", "start"), ("suspended", "resume", "start")])
def test_not_in_that_state(host, api, state, verb, hint):
    host.create("web")
    api.post(f"/v1/vms/web/{'stop' if state == 'stopped' else 'suspend'}").ok()
    refused(api.post(f"/v1/vms/web/{verb}"), "wrong_state", f"VM 'web' is {state}", hint=f"fcm {hint} web")
    assert host.vm("web")["state"] == state


def test_of_nobody(api):
    for verb in ("pause", "resume", "suspend", "snapshots", "clone"):
        assert api.post(f"/v1/vms/nope/{verb}").code == "not_found"
    assert api.post("/v1/vms/nope/restore", {"snapshot": "x"}).code == "not_found"
    for answer in (api.get("/v1/snapshots/nope"), api.delete("/v1/snapshots/nope"), clone(api, "nope")):
        refused(answer, "not_found", "there is no snapshot 'nope'", hint="fcm snapshot ls")


@pytest.mark.parametrize("was", ["suspended", "failed", "stopped"])
def test_suspended_memory_that_is_broken(host, api, was):
    """It isn't started without it, for it isn't what its user thinks; stop drops it, also after a start that failed later."""
    host.create("web")
    api.post("/v1/vms/web/suspend").ok()
    if was != "suspended":
        host.stop_daemon()
        path = next(host.state_dir.glob("*/saved")).parent / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": was}))
        host.start_daemon()
    state = saved(host) / "state"
    state.chmod(0o600)
    state.write_bytes(state.read_bytes()[:-1])
    refused(api.post("/v1/vms/web/start"), "config_invalid", "'state'", "changed", hint="fcm stop web")
    assert host.vm("web")["state"] == ("suspended" if was == "suspended" else "failed")
    assert api.post("/v1/vms/web/stop").ok()["changed"]
    assert not state.parent.exists()
    api.post("/v1/vms/web/start").ok()


# ---- take ----

def test_take(host, api):
    before = host.create("web", env={"KEY": "secret"}, labels={"a": "b"})
    taken = take(api, name="one", note="as it was").ok(201)
    assert (taken["name"], taken["note"], taken["memory"], taken["frozen"], taken["parent"]) == ("one", "as it was", True, True, "")
    assert taken["vm"]["name"] == "web" and taken["vm"]["env"] == {"KEY": "***"} and taken["vm"]["labels"] == {"a": "b"}
    assert {"disk", "state"} <= {f["name"] for f in taken["files"]} and taken["on_disk"] > 0 and taken["pause_ms"] >= 0
    assert [host.vm("web")[k] for k in ("state", "vmm_pid", "boot_id")] == [before[k] for k in ("state", "vmm_pid", "boot_id")]
    folder = host.state_dir / "snapshots"
    for path, mode in ((folder, 0o700), (folder / taken["id"], 0o700), (folder / taken["id"] / "snapshot.json", 0o600)):
        assert (path.stat().st_uid, path.stat().st_mode & 0o777) == (0, mode), path
    for path in (folder / taken["id"]).iterdir():  # memory is read by a VM's uid, through its jail
        assert (path.stat().st_uid, path.stat().st_mode & 0o077) == (0, 0o044 if path.name == "memory" else 0), path
    same = {k: v for k, v in taken.items() if k != "took_ms"}
    assert api.get("/v1/snapshots/one").ok() == api.get(f"/v1/snapshots/{taken['id']}").ok() == same == snapshots(api)[0]
    host.restart_daemon()
    assert snapshots(api) == [same]
    removed = api.delete("/v1/snapshots/one").ok()
    assert removed["id"] == taken["id"] and removed["bytes"] > 0
    assert names(api) == [] and not (folder / taken["id"]).exists()


def test_names(host, api):
    host.create("web")
    assert [take(api).ok(201)["name"] for _ in range(2)] == ["web-1", "web-2"]
    take(api, name="mine").ok(201)
    refused(take(api, name="mine"), "name_taken", "'mine'", field="name", hint="fcm snapshot rm mine")
    api.delete("/v1/snapshots/web-1").ok()
    assert take(api).ok(201)["name"] == "web-1"
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        host.create("other")
        answers = list(pool.map(lambda vm: take(api, vm, name="race"), ["web", "other"] * 2))
    assert sorted(a.status for a in answers) == [201, 409, 409, 409] and names(api).count("race") == 1


def test_of_each_state(host, api):
    host.create("web")
    api.post("/v1/vms/web/pause").ok()
    assert take(api, name="paused").ok(201)["memory"] and host.vm("web")["state"] == "paused"
    assert take(api, name="paused-again").ok(201)["memory"]
    api.post("/v1/vms/web/suspend").ok()
    assert take(api, name="suspended").ok(201)["memory"] and host.vm("web")["state"] == "suspended" and saved(host).exists()
    assert not take(api, name="without", disk_only=True).ok(201)["memory"]
    api.post("/v1/vms/web/stop").ok()
    cold = take(api, name="stopped").ok(201)
    assert not cold["memory"] and [f["name"] for f in cold["files"]] == ["disk"] and cold["pause_ms"] == 0
    for name in ("paused", "paused-again", "suspended", "stopped"):
        assert clone(api, name).ok(201)["vms"][0]["resumed"] is (name != "stopped")


@fake_only
def test_the_disk_of_one_that_is_paused(host, api):
    """Its memory can be saved again only when it ran for a moment: that is after its disk was copied, too."""
    vm = host.create("fault-writes")
    api.post("/v1/vms/fault-writes/pause").ok()
    for runs in (1, 2):
        taken = take(api, "fault-writes").ok(201)
        with open(host.state_dir / "snapshots" / taken["id"] / "disk", "rb") as disk:
            assert int(disk.read(8)) == runs
    with open(host.state_dir / vm["id"] / "rootfs.img", "rb") as disk:
        assert int(disk.read(8)) == 3


def test_stop_with_it(host, api):
    host.create("web")
    assert take(api, name="last", stop=True).ok(201)["memory"]
    assert host.vm("web")["state"] == "stopped" and host.vm("web")["desired"] == "stopped"
    back = api.post("/v1/vms/web/restore", {"snapshot": "last"}).ok()
    assert back["state"] == "running" and back["resumed"]


@fake_only
def test_one_that_failed(host, api):
    host.create("web", restart="no")
    os.kill(host.vm("web")["vmm_pid"], signal.SIGKILL)
    host.wait_state("web", "failed")
    refused(take(api), "wrong_state", "VM 'web' is failed")
    refused(api.post("/v1/vms/web/clone", {}), "wrong_state", "VM 'web' is failed")
    assert names(api) == []


def test_volumes(host, api):
    """Its own go with it; what has a life of its own doesn't, and its memory mustn't remember it."""
    host.create("web", volumes=["data:/data", "/own"])
    for answer in (take(api), api.post("/v1/vms/web/clone", {})):
        refused(answer, "wrong_state", "'data'", hint="--disk-only")
    taken = take(api, name="cold", disk_only=True).ok(201)
    assert [f["name"] for f in taken["files"]] == ["disk", "volume1"]
    host.api.delete("/v1/vms/web?force=1").ok()
    made = clone(api, "cold", name="next").ok(201)["vms"][0]
    assert made["volumes"] == ["data:/data", f"{made['id']}.1:/own"]
    host.api.delete("/v1/vms/next?force=1").ok()
    assert [v["name"] for v in api.get("/v1/volumes").ok()["volumes"]] == ["data"]


def test_a_disk_that_is_full(host, api):
    host.create("web")
    conf = host.work / "etc/fcmd.conf"
    before = conf.read_text()
    host.stop_daemon()
    conf.write_text(before + "disk_reserve_mib = 16777216\n")
    host.start_daemon()
    try:
        for answer in (take(api), api.post("/v1/vms/web/clone", {})):
            assert answer.code == "no_space" and answer.status == 507
        assert host.vm("web")["state"] == "running" and names(api) == []
    finally:
        conf.write_text(before)
        host.restart_daemon()


@fake_only
@pytest.mark.parametrize("kind", ["snosave", "sbigsave"])
def test_a_vmm_that_cannot_save(host, api, kind):
    """The VM runs on, and nothing is left."""
    host.create(f"fault-{kind}")
    answer = take(api, f"fault-{kind}")
    assert answer.status >= 500 and answer.error["step"] == "copy", answer
    assert host.vm(f"fault-{kind}")["state"] == "running" and names(api) == []
    assert os.listdir(host.state_dir / "snapshots") == []
    assert api.post(f"/v1/vms/fault-{kind}/suspend").status >= 500
    assert host.vm(f"fault-{kind}")["state"] == "running" and not saved(host, f"fault-{kind}").exists()


def test_half_made_ones_are_swept_up(host, api):
    half = host.state_dir / "snapshots/.abcd1234"
    half.mkdir()
    (half / "disk").write_bytes(bytes(4096))
    (host.state_dir / "snapshots/zzzz9999").mkdir()
    (host.state_dir / "snapshots/zzzz9999/snapshot.json").write_text("{")
    host.restart_daemon()
    assert not half.exists() and names(api) == [] and "zzzz9999" in host.log_tail(200)
    (host.state_dir / "snapshots/zzzz9999/snapshot.json").unlink()
    (host.state_dir / "snapshots/zzzz9999").rmdir()


# ---- clone ----

@fake_only
def test_a_clone_that_does_not_know_it_yet(host, api):
    """Its memory, saved, would be taken for its own, and it went on under the source's names."""
    host.create("web")
    take(api, name="warm").ok(201)
    clone(api, "warm", name="fault-late", ready={"mode": "none"}).ok(201)
    for answer in (api.post("/v1/vms/fault-late/suspend"), take(api, "fault-late")):
        refused(answer, "wrong_state", "'fault-late' doesn't know yet that it is another VM than 'web'")
    assert host.vm("fault-late")["state"] == "running" and names(api) == ["warm"]
    assert not take(api, "fault-late", disk_only=True).ok(201)["memory"]


def test_clone(host, api):
    web = host.create("web", env={"KEY": "secret"}, labels={"a": "b"}, memory=128, publish=["8080:80"], expose=8000)
    taken = take(api, name="warm").ok(201)
    made = clone(api, "warm", name="twin", publish=["9090:80"], expose=3000).ok(201)["vms"][0]
    assert made["resumed"] and made["state"] == "running" and made["snapshot"] == taken["id"] and "took_ms" in made
    for key in ("id", "name", "ip", "mac", "host_key", "uid", "vmm_pid"):
        assert made[key] != web[key], key
    for key in ("boot_id", "image", "image_id", "cpus", "memory", "disk", "kernel", "labels", "restart"):
        assert made[key] == web[key], key
    assert made["publish"] == ["0.0.0.0:9090:80/tcp"] and made["expose"]["port"] == 3000
    assert api.get("/v1/vms/twin?show=env").ok()["env"] == {"KEY": "secret"}
    plain = clone(api, "warm").ok(201)["vms"][0]
    assert plain["publish"] == [] and plain["expose"] is None and plain["name"] not in ("web", "twin")
    cold = clone(api, "warm", disk_only=True).ok(201)["vms"][0]
    assert cold["resumed"] is False and cold["boot_id"] != web["boot_id"]
    host.restart_daemon()
    assert host.vm("twin")["state"] == "running" and host.vm("twin")["vmm_pid"] == made["vmm_pid"]


def test_the_source_may_go(host, api):
    host.create("web")
    take(api, name="warm").ok(201)
    clone(api, "warm", name="first").ok(201)
    api.delete("/v1/vms/web?force=1").ok()
    clone(api, "warm", name="second").ok(201)
    api.delete("/v1/snapshots/warm").ok()
    for name in ("first", "second"):
        api.post(f"/v1/vms/{name}/suspend").ok()
        assert api.post(f"/v1/vms/{name}/start").ok()["resumed"]


def test_several(host, api):
    host.create("web")
    take(api, name="warm").ok(201)
    made = clone(api, "warm", name="w", count=9).ok(201)["vms"]  # more than at one time
    assert [vm["name"] for vm in made] == [f"w-{n}" for n in range(1, 10)] and len({vm["ip"] for vm in made}) == 9
    made = clone(api, "warm", count=2).ok(201)["vms"]
    assert len({vm["name"] for vm in made}) == 2
    answer = clone(api, "warm", name="p", count=3, publish=["8080:80"])
    refused(answer, "port_taken", "1 of 3 clones were made", field="publish")
    assert len([vm for vm in api.get("/v1/vms").ok()["vms"] if vm["name"].startswith("p-")]) == 1
    made = clone(api, "warm", name="q", count=2, publish=["80"]).ok(201)["vms"]
    assert len({port for vm in made for port in vm["publish"]}) == 2


def test_of_a_vm(host, api):
    host.create("web")
    made = api.post("/v1/vms/web/clone", {"name": "twin", "count": 2}).ok(201)["vms"]
    assert [vm["name"] for vm in made] == ["twin-1", "twin-2"] and all(vm["resumed"] for vm in made)
    assert names(api) == [] and [vm.get("snapshot") for vm in made] == [None, None]
    refused(api.post("/v1/vms/web/clone", {"name": "web"}), "name_taken", field="name")
    warm = take(api, name="warm").ok(201)["id"]
    first = clone(api, "warm", name="first").ok(201)["vms"][0]
    second = api.post("/v1/vms/first/clone", {"name": "second"}).ok(201)["vms"][0]
    assert first["snapshot"] == second["snapshot"] == take(api, "second").ok(201)["parent"] == warm
    api.delete("/v1/snapshots/warm").ok()
    api.delete("/v1/snapshots/second-1").ok()
    assert host.vm("web")["state"] == "running"
    wait_for("nothing is left", lambda: os.listdir(host.state_dir / "snapshots") == [])


def test_for_a_moment(host, api):
    """As `run --rm` from what is warm."""
    host.create("web", restart="no")
    take(api, name="warm").ok(201)
    clone(api, "warm", name="brief", auto_remove=True).ok(201)
    api.post("/v1/vms/brief/kill").ok()
    wait_for("it is gone", lambda: api.get("/v1/vms/brief").status == 404, 20)
    host.create("stays", restart="always")
    assert api.post("/v1/vms/stays/clone", {"auto_remove": True}).ok(201)["vms"][0]["restart"] == "no"


def test_once(host, api):
    host.create("web")
    take(api, name="warm").ok(201)
    key = {"Idempotency-Key": "clone-1"}
    first = api.post("/v1/snapshots/warm/clone", {"name": "once"}, headers=key)
    again = api.post("/v1/snapshots/warm/clone", {"name": "once"}, headers=key)
    assert first.status == again.status == 201 and first.json["vms"][0]["id"] == again.json["vms"][0]["id"]
    refused(clone(api, "warm", name="once"), "name_taken", field="name")
    take(api, name="cold").ok(201)
    refused(api.post("/v1/snapshots/cold/clone", {"name": "once"}, headers=key), "idempotency_key_reused")
    key = {"Idempotency-Key": "clone-2"}
    assert api.post("/v1/vms/web/clone", {}, headers=key).status == 201
    refused(api.post("/v1/vms/once/clone", {}, headers=key), "idempotency_key_reused")


@fake_only
def test_rm_while_a_vm_is_made_of_it(host, api):
    host.create("web")
    take(api, name="warm").ok(201)
    answers = []
    maker = threading.Thread(target=lambda: answers.append(clone(api, "warm", name="fault-slow")))
    maker.start()
    wait_for("it is being made", lambda: any(vm["name"] == "fault-slow" for vm in api.get("/v1/vms").ok()["vms"]))
    refused(api.delete("/v1/snapshots/warm"), "busy", "'warm'")
    api.delete("/v1/vms/fault-slow?force=1")
    maker.join()
    wait_for("nobody holds it", lambda: api.delete("/v1/snapshots/warm").status == 200)


def test_an_image_that_a_snapshot_needs(host, api):
    host.create("web")
    take(api, name="warm").ok(201)
    api.delete("/v1/vms/web?force=1").ok()
    id = api.get("/v1/image?ref=tiny").ok()["digest"]
    answer = api.delete(f"/v1/image?ref={id}")
    refused(answer, "wrong_state", "1 snapshot: warm", hint="remove the snapshots first")
    assert api.get("/v1/image?ref=tiny").ok()["snapshots"] == ["warm"]
    assert api.post("/v1/images/prune", {"all": True}).ok()["removed"] == []
    clone(api, "warm").ok(201)
    assert "VM" in api.delete(f"/v1/image?ref={id}").error["message"]


def test_one_of_another_host(host, api):
    """Its memory is refused, saying what differs; its disk is as good as any."""
    host.create("web")
    taken = take(api, name="warm").ok(201)
    for key, value, what in (("vmm", "other", "VMM"), ("vmm_version", "9.9.1", "version of the VMM"), ("accel", "magic", "accelerator"),
                             ("cpu", "a Z80", "CPU"), ("cpu_flags", "0" * 64, "set of CPU features")):
        edit(host, taken, **{key: value})
        for answer in (clone(api, "warm"), api.post("/v1/vms/web/restore", {"snapshot": "warm"})):
            refused(answer, "wrong_state", f"another {what}", value, hint="--disk-only")
        edit(host, taken, **{key: taken[key]})
    assert host.vm("web")["state"] == "running" and len(api.get("/v1/vms").ok()["vms"]) == 1
    edit(host, taken, vmm_version="9.9")
    assert clone(api, "warm", disk_only=True).ok(201)["vms"][0]["resumed"] is False
    edit(host, taken, frozen=False)
    refused(clone(api, "warm"), "wrong_state")


def test_one_whose_programs_were_not_held(host, api):
    """They would run on as another VM; as the same one they may."""
    host.create("web")
    edit(host, take(api, name="warm").ok(201), frozen=False)
    refused(clone(api, "warm"), "wrong_state", "agent didn't answer", hint="--disk-only")
    assert api.post("/v1/vms/web/restore", {"snapshot": "warm"}).ok()["resumed"]


@pytest.mark.parametrize("file, how", [("state", "changed"), ("disk", "changed"), ("state", "missing")])
def test_one_that_was_changed(host, api, file, how):
    host.create("web")
    taken = take(api, name="warm").ok(201)
    path = host.state_dir / "snapshots" / taken["id"] / file
    if how == "missing":
        path.unlink()
    else:
        path.chmod(0o600)
        with path.open("r+b") as f:
            f.seek(4096)
            f.write(b"not what it was")
    refused(clone(api, "warm"), "config_invalid", f"'{file}'")
    refused(api.post("/v1/vms/web/restore", {"snapshot": "warm"}), "config_invalid", f"'{file}'")
    assert host.vm("web")["state"] == "running" and len(api.get("/v1/vms").ok()["vms"]) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"schema":99,"id":"abcd1234","vm":{}}', '{"id":"../../x","vm":{}}',
                                  '{"id":"abcd1234","name":"../x","vm":{}}', '{"id":"abcd1234","vm":{},"files":[{"name":"../x","size":1,"sum":""}]}'])
def test_one_that_cannot_be_read(host, api, text):
    """It is left out, said in the log, and takes no other with it."""
    host.create("web")
    broken, good = take(api, name="broken").ok(201), take(api, name="good").ok(201)
    path = host.state_dir / "snapshots" / broken["id"] / "snapshot.json"
    kept = path.read_text()
    path.write_text(text)
    assert names(api) == ["good"] and broken["id"] in host.log_tail(20)
    assert api.get("/v1/snapshots/broken").code == "not_found"
    clone(api, good["id"]).ok(201)
    path.write_text(kept)


# ---- restore ----

@fake_only
@pytest.mark.parametrize("step", ["revert/unpack", "revert/end"])
def test_a_restore_that_was_cut(host, api, step):
    """It isn't called stopped, which would be innocent; and its memory has the size that it was saved with."""
    host.create("web", memory=96)
    take(api, name="first").ok(201)
    api.call("PATCH", "/v1/vms/web", {"memory": 128}).ok()
    api.post("/v1/vms/web/restart").ok()
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": f"{step}:kill"})
    with contextlib.suppress(OSError, http.client.HTTPException):
        api.post("/v1/vms/web/restore", {"snapshot": "first"}, timeout=20)
    assert host.daemon.wait(10) == -signal.SIGKILL
    host.start_daemon()
    now = host.vm("web")
    assert (now["state"], now["memory"], now["reason"]["code"]) == ("failed", 96, "restore"), now
    back = api.post("/v1/vms/web/restore", {"snapshot": "first"}).ok()
    assert (back["state"], back["memory"], back["reason"], back["resumed"]) == ("running", 96, None, True)


def test_restore(host, api):
    web = host.create("web", publish=["8080:80"])
    first = take(api, name="first").ok(201)
    api.post("/v1/vms/web/restart").ok()
    back = api.post("/v1/vms/web/restore", {"snapshot": "first"}).ok()
    assert back["resumed"] and back["snapshot"] == first["id"]
    assert [back[k] for k in ("id", "name", "ip", "mac", "boot_id", "host_key", "publish")] == [
        web[k] for k in ("id", "name", "ip", "mac", "boot_id", "host_key", "publish")]
    assert take(api, name="second").ok(201)["parent"] == first["id"]
    cold = api.post("/v1/vms/web/restore", {"snapshot": "first", "disk_only": True}).ok()
    assert cold["resumed"] is False and cold["boot_id"] != web["boot_id"]
    for verb in ("stop", "suspend", "pause"):
        api.post("/v1/vms/web/start").ok()
        api.post(f"/v1/vms/web/{verb}").ok()
        assert api.post("/v1/vms/web/restore", {"snapshot": first["id"]}).ok()["state"] == "running"
    host.create("other")
    refused(api.post("/v1/vms/other/restore", {"snapshot": "first"}), "wrong_state", "another VM, web", field="snapshot", hint="fcm clone first")
    refused(api.post("/v1/vms/web/restore", {"snapshot": "nope"}), "not_found", "'nope'")
    assert host.vm("web")["state"] == "running"


# ---- create and save ----

def test_create_and_save(host, api):
    made = api.post("/v1/vms", {"name": "web", "image": "tiny", "save_snapshot": "warm"}).ok(201)
    assert made["state"] == "running" and made["saved"]["name"] == "warm" and made["saved"]["memory"] and made["resumed"] is False
    assert names(api) == ["warm"] and host.vm("web")["state"] == "running" and "saved" not in host.vm("web")
    refused(api.post("/v1/vms", {"name": "two", "image": "tiny", "save_snapshot": "warm"}), "name_taken", field="save_snapshot",
            hint="fcm snapshot rm warm")
    refused(api.post("/v1/vms", {"name": "two", "image": "nosuch", "save_snapshot": "warm"}), "name_taken")
    refused(api.post("/v1/vms", {"name": "two", "image": "tiny", "save_snapshot": "x", "volumes": ["data:/data"]}), "wrong_state",
            "'data'", field="save_snapshot")
    refused(api.post("/v1/vms", {"name": "two", "image": "tiny", "save_snapshot": "warm", "dry_run": True}), "name_taken")
    plan = api.post("/v1/vms", {"name": "two", "image": "tiny", "save_snapshot": "x", "dry_run": True}).ok()["plan"]
    assert [line.split()[0] for line in plan[-8:]] == ["shot", "freeze", "pause", "copy", "copy", "pause", "freeze", "seal"]
    assert [vm["name"] for vm in api.get("/v1/vms").ok()["vms"]] == ["web"] and names(api) == ["warm"]
    assert api.post("/v1/vms", {"name": "two", "image": "tiny", "save_snapshot": "x", "volumes": ["/own"]}).ok(201)["saved"]["name"] == "x"


@fake_only
def test_a_snapshot_that_fails_leaves_the_vm(host, api):
    answer = api.post("/v1/vms", {"name": "fault-snosave", "image": "tiny", "save_snapshot": "warm"})
    assert answer.status >= 500 and answer.error["step"] == "copy" and "is up, but" in answer.error["message"], answer
    assert host.vm("fault-snosave")["state"] == "running" and names(api) == []


@fake_only
def test_a_client_that_goes_away(host, api):
    """The VM, whose agent answers after 4 s, and its snapshot are made all the same."""
    child = host.spawn(["fcm", "create", "--name", "fault-late", "--image", "tiny", "--save-snapshot", "warm"])
    wait_for("it has begun", lambda: api.get("/v1/vms/fault-late").status == 200)
    child.send_signal(signal.SIGINT)
    assert child.wait(10) == -signal.SIGINT and names(api) == []
    wait_for("the snapshot", lambda: names(api) == ["warm"])
    assert host.vm("fault-late")["state"] == "running"


# ---- the client ----

def test_the_client(host, api):
    host.fcm("create", "--name", "web", "--image", "tiny", "--save-snapshot", "base")
    assert host.fcm("pause", "web").stdout == "web\n" and host.fcm("ps", "-q").stdout == "web\n"
    assert "paused" in host.fcm("ls").stdout and host.fcm("wait", "web", "--state", "paused").stdout == "web\n"
    done = host.fcm("exec", "web", "true", check=False)
    assert (done.returncode, done.stderr) == (125, "fcm: VM 'web' is paused\n     fcm resume web\n")
    host.fcm("unpause", "web")
    host.fcm("suspend", "web")
    assert "suspended" in host.fcm("ls").stdout and host.fcm("ps", "-q").stdout == ""
    host.fcm("start", "web")
    assert host.fcm("snapshot", "create", "web", "--note", "two words").stdout == "web-1\n"
    assert host.fcm("clone", "base", "--name", "twin", "-p", "9090:80").stdout == "twin\n"
    assert host.fcm("snapshot", "create", "twin", "leaf").stdout == "leaf\n"
    assert host.fcm("create", "--snapshot", "leaf", "--name", "third").stdout == "third\n"
    assert host.vm("third")["snapshot"] == api.get("/v1/snapshots/leaf").ok()["id"]
    rows = host.fcm("snapshot", "ls", "-o", "name,vm,parent,note").stdout.splitlines()
    assert sorted(rows[1:]) == ["base   web   -       -", "leaf   twin  base    -", "web-1  web   -       two words"]
    assert "└─ leaf" in host.fcm("snapshot", "ls", "--tree").stdout
    assert host.fcm("snapshot", "ls", "twin", "-q").stdout == "leaf\n"
    assert json.loads(host.fcm("snapshot", "inspect", "leaf").stdout)["vm"]["name"] == "twin"
    host.fcm("restore", "web", "web-1")
    done = host.fcm("restore", "third", "web-1", check=False)
    assert done.returncode == 4 and "is of another VM, web" in done.stderr and "fcm clone web-1" in done.stderr
    assert host.fcm("snapshot", "rm", "base", "web-1").stdout == "base\nweb-1\n"
    assert host.fcm("snapshot", "rm", "-f", "base").returncode == 0
    host.fcm("snapshot", "create", "third", "web")
    done = host.fcm("clone", "web", check=False)
    assert done.returncode == 2 and f"fcm clone {host.vm('web')['id']}" in done.stderr
    assert host.fcm("clone", "--snapshot", "web", "--name", "of-third").stdout == "of-third\n"
    assert len(host.fcm("clone", host.vm("web")["id"], "-n", "2").stdout.splitlines()) == 2


def test_bench(host, api):
    """`fcm bench`: all that it measures is what this daemon does, and nothing of it stays."""
    report = json.loads(host.fcm("bench", "-n", "2", "--json").stdout)
    assert {row["what"]: row["count"] for row in report["results"]} == {"create": 2, "exec": 2, "clone": 2, "destroy": 4}
    assert api.get("/v1/vms").ok()["vms"] == [] and names(api) == []
