"""Volumes against the scripted VMM: what is made, refused, shown and removed."""
import concurrent.futures
import json
import os
import signal
import time

import pytest
from host import wait_for

HOST = {"fake": True}


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.destroy_all()
    for volume in volumes(host.api):
        host.api.delete(f"/v1/volumes/{volume['name']}").ok()


def volumes(api):
    return api.get("/v1/volumes").ok()["volumes"]


def names(api):
    return [v["name"] for v in volumes(api)]


def create(api, *wanted, name="web", **spec):
    return api.post("/v1/vms", {"name": name, "image": "tiny", "volumes": list(wanted), **spec})


def test_by_itself(api):
    made = api.post("/v1/volumes", {"name": "data", "size": 100})
    assert made.status == 201 and made.json["size"] == 100 and made.json["vm"] is None and made.json["used_by"] == []
    assert made.json["on_disk"] < 10 << 20 and made.json["created"].endswith("Z")
    assert api.post("/v1/volumes", {"name": "data", "size": 100}).status == 200
    assert api.post("/v1/volumes", {"name": "data"}).status == 200
    other = api.post("/v1/volumes", {"name": "data", "size": 200})
    assert (other.code, other.error["field"]) == ("name_taken", "name") and "100 MiB" in other.error["message"]
    assert api.get("/v1/volumes/data").ok() == made.json
    chosen = api.post("/v1/volumes", {}).ok(201)["name"]
    assert names(api) == sorted(["data", chosen])
    assert api.delete("/v1/volumes/data").ok()["name"] == "data"
    assert api.get("/v1/volumes/data").code == "not_found" and api.delete("/v1/volumes/data").code == "not_found"


@pytest.mark.parametrize("body, field", [
    ({"name": "../x"}, "name"), ({"name": ".x"}, "name"), ({"name": "a" * 65}, "name"), ({"name": "A b"}, "name"), ({"size": 1}, "size"),
    ({"size": "20000g"}, "size"), ({"nam": "x"}, "nam")])
def test_wrong_ones(api, body, field):
    answer = api.post("/v1/volumes", body)
    assert answer.status == 400 and answer.error["field"] == field and names(api) == []


@pytest.mark.parametrize("wanted, word", [
    (["data"], "where in the VM"), (["data:srv"], "begins with /"), (["data:/"], "below the VM's root"), (["data:/a/../b"], "below"),
    (["data:/a//b"], "below"), (["data:/proc/x"], "own"), (["data:/dev"], "own"), (["data:/run/fcm"], "own"), (["data:/a:rx"], ":ro"),
    (["/host:/a"], "directory of the host"), (["./host:/a"], "directory of the host"), (["~/x:/a"], "directory of the host"),
    (["a:/x", "b:/x"], "two volumes"), (["a:/x", "a:/y"], "twice"), ([f"v{i}:/v{i}" for i in range(9)], "8"), (["a:/" + "x" * 255], "255"),
    (["data:/a\nb"], "begins with /"), (["DATA!:/a"], "name")])
def test_refused(api, wanted, word):
    answer = create(api, *wanted)
    assert answer.status == 400 and answer.error["field"].startswith("volumes") and word in answer.error["message"], answer
    if "directory of the host" in word:
        assert "--map" in answer.error["hint"]
    assert names(api) == [] and api.get("/v1/vms").ok()["vms"] == []


def test_with_a_machine(host, api):
    vm = create(api, "data:/srv", "/cache", "logs:/var/log/").ok(201)
    own = f"{vm['id']}.0"
    assert vm["volumes"] == [f"{own}:/cache", "data:/srv", "logs:/var/log"]
    assert names(api) == sorted([own, "data", "logs"])
    assert api.get("/v1/volumes/data").ok()["used_by"] == ["web"] and api.get(f"/v1/volumes/{own}").ok()["vm"] == vm["id"]
    file = host.state_dir / "volumes/data/volume.ext4"
    assert file.stat().st_uid == vm["uid"] and (host.state_dir / "volumes").stat().st_mode & 0o777 == 0o700
    for name in ("data", own):
        answer = api.delete(f"/v1/volumes/{name}")
        assert answer.code == "wrong_state" and "'web'" in answer.error["message"] and "fcm destroy web" in answer.error["hint"]
    api.post("/v1/vms/web/stop").ok()
    assert api.delete("/v1/volumes/data").code == "wrong_state"
    host.restart_daemon()
    assert host.vm("web")["volumes"] == vm["volumes"] and api.delete("/v1/volumes/data").code == "wrong_state"
    api.delete("/v1/vms/web?force=1").ok()
    assert names(api) == ["data", "logs"]


def test_a_new_daemon_may_hear_of_a_kill_first(host, api):
    """It has yet to adopt the VM, which then is none that crashed."""
    for n in range(12):
        create(api, name=f"vm{n}", restart="no").ok(201)
    host.stop_daemon()
    host.start_daemon(wait=False)

    def kill(n):
        wait_for("an answer", lambda: api.post(f"/v1/vms/vm{n}/kill"), 20, 0.01).ok()

    with concurrent.futures.ThreadPoolExecutor(12) as pool:
        list(pool.map(kill, range(12)))
    time.sleep(0.5)  # for what it had planned
    for vm in api.get("/v1/vms").ok()["vms"]:
        assert (vm["state"], vm["reason"]) == ("stopped", None), vm


def test_one_writes_or_many_read(host, api):
    create(api, "data:/data", name="writer").ok(201)
    for mode in ("", ":ro"):
        answer = create(api, f"data:/data{mode}")
        assert (answer.code, answer.error["field"]) == ("wrong_state", "volumes") and "'writer'" in answer.error["message"]
    host.restart_daemon()
    assert create(api, "data:/x").code == "wrong_state"
    api.post("/v1/vms/writer/kill").ok()
    for name in ("r1", "r2"):
        create(api, "data:/data:ro", name=name).ok(201)
    answer = api.post("/v1/vms/writer/start")
    assert answer.code == "wrong_state" and "'r1'" in answer.error["message"] and host.vm("writer")["state"] == "stopped"
    for name in ("r1", "r2"):
        api.post(f"/v1/vms/{name}/kill").ok()
    api.post("/v1/vms/writer/start").ok()
    assert api.post("/v1/vms/r1/start").code == "wrong_state"


def test_many_want_to_write(api):
    """At one time: one gets it."""
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda i: create(api, "data:/data", name=f"vm{i}"), range(8)))
    assert sorted(a.status for a in answers) == [201] + [409] * 7 and names(api) == ["data"]
    assert len(api.get("/v1/vms").ok()["vms"]) == 1


def test_another_machines_own(host, api):
    vm = create(api, "/cache").ok(201)
    api.post("/v1/vms/web/kill").ok()
    answer = create(api, f"{vm['id']}.0:/x", name="thief")
    assert answer.status == 400 and vm["id"] in answer.error["message"], answer
    assert len(names(api)) == 1


def test_a_failed_create(host, api):
    """What it made for itself goes again; what has a name stays."""
    answer = create(api, "data:/data", "/own", ready={"mode": "none"}, image="missing")
    assert answer.status == 404 and names(api) == []
    host.stop_daemon()
    host.start_daemon(env={"FCM_FAULT": "create/boot:fail"})
    assert create(api, "data:/data", "/own").status == 500 and names(api) == ["data"]
    host.restart_daemon()


def test_killed_while_it_is_made(host, api):
    """Nothing half has a name, and what has none is swept up."""
    for i in range(5):
        half = host.state_dir / f"volumes/.half{i}"
        half.mkdir()
        (half / "volume.ext4").write_bytes(bytes(4096))
    os.kill(host.daemon.pid, signal.SIGKILL)
    host.restart_daemon()
    assert names(api) == [] and os.listdir(host.state_dir / "volumes") == []
    (host.state_dir / "volumes/odd").mkdir()
    (host.state_dir / "volumes/odd/volume.json").write_text("{")
    host.restart_daemon()
    assert names(api) == []
    (host.state_dir / "volumes/odd/volume.ext4").write_bytes(bytes(4096))
    assert names(api) == ["odd"]


def test_the_client(host, api):
    assert host.fcm("volume", "create", "--size", "128m", "data", "more").stdout == "data\nmore\n"
    host.fcm("create", "--name", "web", "--image", "tiny", "-v", "data:/srv", "-v", "/own")
    rows = host.fcm("volume", "ls").stdout.splitlines()
    assert rows[0].split() == ["NAME", "SIZE", "ON", "DISK", "USED", "BY", "CREATED"]
    assert [row.split()[0] for row in rows[1:]] == names(api) and "web" in rows[2] + rows[1] + rows[3]
    assert json.loads(host.fcm("volume", "inspect", "data").stdout)["used_by"] == ["web"]
    done = host.fcm("volume", "rm", "data", "more", check=False)
    assert done.returncode == 4 and "VM 'web' has the volume 'data'" in done.stderr and "data" in names(api)
    host.fcm("destroy", "-f", "web")
    host.fcm("volume", "create", "spare")
    host.fcm("volume", "prune")
    assert names(api) == ["data", "spare"]
    host.fcm("volume", "prune", "--all")
    assert names(api) == []
    for argv in (("volume",), ("volume", "nope"), ("volume", "rm"), ("volume", "ls", "x")):
        assert host.fcm(*argv, check=False).returncode == 2
    done = host.fcm("create", "-v", "/etc:/etc", check=False)
    assert done.returncode == 2 and "--map DIR:/PATH" in done.stderr + host.fcm("create", "--help").stdout
