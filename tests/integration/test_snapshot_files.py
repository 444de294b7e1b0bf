"""Snapshots as files, against the scripted VMM: what comes out of one host goes into another, whole and under a new id, or not at
all. What a stranger wrote names nothing of this host, and is of none of its VMs."""
import concurrent.futures
import io
import json
import os
import random
import subprocess
import tarfile
import time

import pytest
from host import wait_for
from oci import layout, tar

HOST = {"fake": True}
OCTETS = {"Content-Type": "application/octet-stream"}
NOISE = random.Random(1).randbytes(24 << 20)  # what no compressor makes small


def folder(host):
    return os.listdir(host.state_dir / "snapshots")


@pytest.fixture(autouse=True)
def nobody(host):
    yield
    host.remove_all()
    assert folder(host) == []


def take(host, **more):
    """A snapshot of a VM, as a file; both are here no more."""
    vm = host.create("web", memory=128, disk=64, env={"KEY": "secret"}, **more)
    taken = host.api.post("/v1/vms/web/snapshots", {"name": "warm", "note": "two words"}).ok(201)
    path = host.work / f"warm-{time.monotonic_ns()}"
    host.fcm("snapshot", "export", "-o", path, "warm")
    host.api.delete("/v1/snapshots/warm").ok()
    host.destroy_all()
    return taken, path, vm


@pytest.fixture(scope="module")
def files(host):
    return take(host)


@pytest.fixture
def warm(files):
    return files[:2]


@pytest.fixture
def large(host):
    """One that is here, and whose disk is as long in a file."""
    vm = host.create("web", memory=128, disk=64)
    with open(host.state_dir / vm["id"] / "rootfs.img", "r+b") as disk:
        disk.seek(8 << 20)
        disk.write(NOISE)
    return host.api.post("/v1/vms/web/snapshots", {"name": "large"}).ok(201)


def bring(api, data, query=""):
    return api.post(f"/v1/snapshots/import{query}", data, headers=OCTETS)


def export(api, name):
    answer = api.get(f"/v1/snapshots/{name}/export")
    assert answer.status == 200, answer
    return answer.body


def members(data):
    data = subprocess.run(["zstd", "-dc"], input=data, check=True, capture_output=True).stdout
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        return [(x.name, archive.extractfile(x).read()) for x in archive]


def pack(rows):
    return subprocess.run(["zstd", "-qc"], input=tar(rows), check=True, capture_output=True).stdout


def changed(rows, of=None, **change):
    """With another snapshot.json; `of`: what else it says of its VM."""
    manifest = json.loads(rows[0][1])
    manifest["vm"] |= of or {}
    manifest |= change
    return [("snapshot.json", json.dumps(manifest).encode()), *rows[1:]]


def refused(host, answer, code, *words):
    assert answer.code == code, answer
    said = answer.error["message"] + answer.error.get("hint", "")
    assert said.isprintable() and all(word in said for word in words), answer
    assert folder(host) == []


def head(api, what, length=None):
    more = f"Content-Length: {length}\r\n" if length else ""
    return f"{what} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n{more}\r\n".encode()


# ---- what works ----

def test_there_and_back(host, api, warm):
    taken, path = warm
    assert host.fcm("snapshot", "import", str(path)).stdout == "warm\n"
    back = api.get("/v1/snapshots/warm").ok()
    assert back["id"] != taken["id"]
    for key in ("name", "note", "created", "memory", "frozen", "vmm", "vmm_version", "cpu", "cpu_flags"):
        assert back[key] == taken[key], key
    sums = [{x["name"]: (x["size"], x["sum"]) for x in s["files"]} for s in (taken, back)]
    assert sums[0] == sums[1]
    made = api.post("/v1/snapshots/warm/clone", {"name": "twin"}).ok(201)["vms"][0]
    assert made["resumed"] and made["snapshot"] == back["id"]
    assert api.get("/v1/vms/twin?show=env").ok()["env"] == {"KEY": "secret"}
    place = host.state_dir / "snapshots" / back["id"]
    modes = {x.name: (x.stat().st_uid, x.stat().st_mode & 0o777) for x in place.iterdir()}
    assert modes == dict.fromkeys(modes, (0, 0o444)) | {"snapshot.json": (0, 0o600)} and place.stat().st_mode & 0o777 == 0o700
    disk = place / "disk"
    assert disk.stat().st_blocks * 512 < disk.stat().st_size  # its holes are holes


def test_what_is_in_it(warm):
    taken, path = warm
    rows = members(path.read_bytes())
    assert [name for name, data in rows] == ["snapshot.json", *(x["name"] for x in taken["files"])]
    assert [len(data) for name, data in rows[1:]] == [x["size"] for x in taken["files"]]
    assert json.loads(rows[0][1])["vm"]["env"] == {"KEY": "secret"}


def test_again_and_again(host, api, large):
    """What was imported is exported as any other, and is the same file's content."""
    first = members(export(api, "large"))
    assert dict(first)["disk"][8 << 20:(8 << 20) + len(NOISE)] == NOISE
    bring(api, pack(first), "?name=second").ok(201)
    assert members(export(api, "second"))[1:] == first[1:]


def test_holes_cost_nothing(host, api):
    """Two GiB of which hardly anything was written."""
    host.create("web", memory=128, disk=2048)
    api.post("/v1/vms/web/snapshots", {"name": "hollow"}).ok(201)
    begun = time.monotonic()
    data = export(api, "hollow")
    back = bring(api, data, "?name=again").ok(201)
    assert time.monotonic() - begun < 10 and len(data) < 4 << 20
    disk = host.state_dir / "snapshots" / back["id"] / "disk"
    assert disk.stat().st_size == 2 << 30 and disk.stat().st_blocks * 512 < 100 << 20


def test_names(host, api, warm):
    data = warm[1].read_bytes()
    assert bring(api, data, "?name=other").ok(201)["name"] == "other"
    assert bring(api, data).ok(201)["name"] == "warm"
    for query in ("", "?name=other"):
        answer = bring(api, data, query)
        assert (answer.code, answer.error["field"]) == ("name_taken", "name"), answer
    assert bring(api, data, "?name=a%2Fb").error["field"] == "name"
    assert len(folder(host)) == 2


def test_two_of_one_name_at_once(host, api, warm):
    data = warm[1].read_bytes()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        answers = list(pool.map(lambda _: bring(api, data), range(3)))
    assert sorted(x.status for x in answers) == [201, 409, 409] and {x.code for x in answers if x.status == 409} == {"name_taken"}
    assert len(folder(host)) == 1


def test_progress(host, api, warm):
    answer = api.post("/v1/snapshots/import", warm[1].read_bytes(), headers={**OCTETS, "Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["step"] for line in lines if line.get("status") == "begin"] == ["shot", "receive", "judge", "enter"]
    assert lines[-1]["result"]["name"] == "warm"


def test_volumes_of_its_own_go_with_it(host, api):
    api.post("/v1/vms", {"name": "web", "image": "tiny", "memory": 128, "disk": 64, "volumes": ["/own"]}).ok(201)
    api.post("/v1/vms/web/snapshots", {"name": "warm"}).ok(201)
    data = export(api, "warm")
    back = bring(api, data, "?name=back").ok(201)
    assert back["vm"]["volumes"] == ["/own"] and "volume0" in [x["name"] for x in back["files"]]
    made = api.post("/v1/snapshots/back/clone", {"name": "twin"}).ok(201)["vms"][0]
    assert made["volumes"] == [f"{made['id']}.0:/own"]


# ---- what it may say ----

def test_a_volume_of_this_host(host, api, warm):
    """One with a life of its own isn't in a snapshot, so neither does one go out that had it, nor comes one in that names it."""
    host.create("web", memory=128, disk=64, volumes=["data:/data"])
    api.post("/v1/vms/web/snapshots", {"name": "cold", "disk_only": True}).ok(201)
    answer = api.get("/v1/snapshots/cold/export")
    assert answer.code == "wrong_state" and "'data'" in answer.error["message"], answer
    done = host.fcm("snapshot", "export", "-o", host.work / "never", "cold", check=False)
    assert done.returncode == 4 and "'data'" in done.stderr and not (host.work / "never").exists()
    api.delete("/v1/snapshots/cold").ok()
    other = host.create("other", memory=128, disk=64, volumes=["/own"])
    rows = members(warm[1].read_bytes())
    for volume in ("data:/data", "data:/data:ro", f"{other['id']}.0:/own", "nosuch:/x"):
        refused(host, bring(api, pack(changed(rows, of={"volumes": [volume]}))), "invalid", f"'{volume.split(':')[0]}'")
    # one that it says is its VM's own, which is here, must be in it as any other
    refused(host, bring(api, pack(changed(rows, of={"id": other["id"], "volumes": [f"{other['id']}.0:/own"]}))), "invalid", "lists no 'volume0'")


def test_it_is_of_no_vm_here(host, api, warm):
    """Whatever it says, and though it was: none goes back to it."""
    rows = members(warm[1].read_bytes())
    for n, vm in enumerate((host.create("web", memory=128, disk=64), host.create("other", memory=128, disk=64))):
        made = bring(api, pack(changed(rows, of={"id": vm["id"], "name": vm["name"]}, id=vm["id"])), f"?name=liar{n}").ok(201)
        assert made["vm"]["id"] == made["id"] != vm["id"]
        answer = api.post(f"/v1/vms/{vm['name']}/restore", {"snapshot": f"liar{n}"})
        assert (answer.code, answer.error["field"]) == ("wrong_state", "snapshot") and "was imported" in answer.error["message"], answer
        assert f"fcm clone liar{n}" in answer.error["hint"] and host.vm(vm["name"])["vmm_pid"] == vm["vmm_pid"]
        assert api.post(f"/v1/snapshots/liar{n}/clone", {"name": f"twin{n}"}).ok(201)["vms"][0]["id"] != vm["id"]


def test_no_parent(api, warm):
    """It would be another host's, or a lie."""
    here = bring(api, warm[1].read_bytes()).ok(201)["id"]
    rows = members(warm[1].read_bytes())
    assert bring(api, pack(changed(rows, parent=here, of={"snapshot": here})), "?name=child").ok(201)["parent"] == ""


def test_a_machine_of_another_host(host, api, warm):
    """It comes in, for its disk; its memory goes on nowhere here."""
    rows = members(warm[1].read_bytes())
    bring(api, pack(changed(rows, vmm_version="99.1.0"))).ok(201)
    answer = api.post("/v1/snapshots/warm/clone", {"name": "twin"})
    assert answer.code == "wrong_state" and "another version of the VMM: '99.1.0'" in answer.error["message"] and "--disk-only" in answer.error["hint"], answer
    made = api.post("/v1/snapshots/warm/clone", {"name": "twin", "disk_only": True}).ok(201)["vms"][0]
    assert made["resumed"] is False


def test_what_it_leaves_out(api, warm):
    """A health check without numbers would be one without a pause."""
    rows = members(warm[1].read_bytes())
    made = bring(api, pack(changed(rows, of={"health": {"cmd": "true"}}))).ok(201)
    assert min(made["vm"]["health"][k] for k in ("interval", "timeout", "retries")) > 0


@pytest.mark.parametrize("change, words", [
    ({"schema": 2}, ["schema 2 is newer"]), ({"schema": "1"}, ["schema"]), ({"files": 1}, ["lists no 'disk'"]), ({"files": []}, ["lists no 'disk'"]),
    ({"files": [1]}, ["file 1"]), ({"files": [{"name": "disk"}]}, ["file 1", "size"]), ({"files": [{"name": "../x", "size": 1, "sum": "0" * 64}]}, ["none of a snapshot"]),
    ({"vm": None}, ["vm"]), ({"vm": []}, ["vm"]), ({"vm": {}}, ["id"]), ({"name": "../x"}, ["name"]), ({"name": 1}, ["name"]), ({"name": ""}, ["needs one here"]),
    ({"id": "../../.."}, ["id"]), ({"note": "x" * 300}, ["note"]), ({"memory": "yes"}, ["memory"]), ({"created": "yesterday"}, ["created"])])
def test_bad_manifests(host, api, warm, change, words):
    rows = members(warm[1].read_bytes())
    refused(host, bring(api, pack(changed(rows, **change))), "invalid", *words)


@pytest.mark.parametrize("vm, words", [
    ({"image_id": ""}, ["what image"]), ({"image_id": "../../x"}, ["image_id"]), ({"image": "a b"}, ["image"]), ({"kernel": "../../etc"}, ["kernel"]),
    ({"cpus": 0}, ["cpus"]), ({"cpus": 10 ** 12}, ["cpus"]), ({"memory": -1}, ["memory"]), ({"disk": 65}, ["its disk has"]), ({"name": "a\x1b[2J"}, ["name"]),
    ({"env": {"A": "x\ny"}}, ["env"]), ({"env": {"A": "x" * 20000}}, ["env"]), ({"volumes": ["etc"]}, ["volumes"]), ({"volumes": ["/a", "/a"]}, ["volumes"]),
    ({"main": {"args": ["x" * 20000]}}, ["main.args"]), ({"main": {"tty": True}}, ["main.args"]), ({"health": {"interval": 5}}, ["health"]),
    ({"restart": "sometimes"}, ["restart"]), ({"labels": 1}, ["labels"]), ({"id": "Not valid"}, ["id"])])
def test_bad_vms(host, api, warm, vm, words):
    """It is read as strictly as a request to create one."""
    rows = members(warm[1].read_bytes())
    refused(host, bring(api, pack(changed(rows, of=vm))), "invalid", *words)


def test_no_manifest(host, api, warm):
    rows = members(warm[1].read_bytes())
    refused(host, bring(api, pack(rows[1:])), "invalid", "snapshot.json")
    for text in (b"", b"{", b"[]", b"\xff", b"[" * 100000, b'{"a":1,"a":2}'):
        refused(host, bring(api, pack([("snapshot.json", text), *rows[1:]])), "invalid")
    refused(host, bring(api, pack([("snapshot.json", b" " * (3 << 20)), *rows[1:]])), "too_large", "snapshot.json")


# ---- what its files are ----

def test_changed(host, api, warm):
    rows = members(warm[1].read_bytes())
    for i in range(1, len(rows)):
        name, data = rows[i]
        other = bytes([data[0] ^ 1]) + data[1:]
        refused(host, bring(api, pack([*rows[:i], (name, other), *rows[i + 1:]])), "invalid", f"'{name}' has another sum")


def test_changed_lists(host, api, warm):
    rows = members(warm[1].read_bytes())
    listed = json.loads(rows[0][1])["files"]
    for i, file in enumerate(listed):
        if file["name"] != "disk":
            other = [*listed[:i], file | {"size": file["size"] + 1}, *listed[i + 1:]]
            refused(host, bring(api, pack(changed(rows, files=other))), "invalid", f"'{file['name']}' has another size")
    refused(host, bring(api, pack(changed(rows, files=listed + listed[:1]))), "invalid", "listed twice")
    refused(host, bring(api, pack(changed(rows, files=listed * 20))), "invalid", "files")


def test_bad_archives(host, api, warm):
    """More of them: test_unpack_snapshot.py."""
    whole, rows = warm[1].read_bytes(), members(warm[1].read_bytes())
    refused(host, bring(api, whole[:len(whole) // 2]), "invalid", "not a good archive")
    refused(host, bring(api, b""), "invalid")
    refused(host, bring(api, pack(rows[:-1])), "invalid", f"'{rows[-1][0]}' is missing")
    refused(host, bring(api, pack([*rows, ("volume0", b"x")])), "invalid", "isn't listed")
    refused(host, bring(api, pack([*rows, ("../passwd", b"x")])), "invalid", "'../passwd' is no file of a snapshot")
    refused(host, bring(api, pack([*rows, rows[1]])), "invalid", "comes twice")
    refused(host, bring(api, pack([*rows, ("volume0", b"", {"type": tarfile.SYMTYPE, "linkname": "/etc/shadow"})])), "invalid", "no regular file")


# ---- the image below it ----

def test_an_image_that_is_not_here(host, api, warm):
    rows = members(warm[1].read_bytes())
    vm = json.loads(rows[0][1])["vm"]
    answer = bring(api, pack(changed(rows, of={"image_id": "1" * 64})))
    refused(host, answer, "no_image", vm["image"], "isn't here", f"fcm pull {vm['image']}")


def test_an_image_that_goes_meanwhile(host, api, tmp_path):
    layout(tmp_path / "image", [tar([("file", b"content")])], {})
    archive = subprocess.run(["tar", "-C", tmp_path / "image", "-c", "."], check=True, stdout=subprocess.PIPE).stdout
    made = api.post("/v1/images/import?name=mine", archive, headers=OCTETS).ok(201)
    data = take(host, image="mine")[1].read_bytes()
    with api.connect(False, 20) as sock:
        sock.sendall(head(api, "POST /v1/snapshots/import", len(data)) + data[:-10])
        wait_for("it is being made", lambda: folder(host))
        api.delete("/v1/image?ref=mine").ok()
        sock.sendall(data[-10:])
        said = b""
        while b"no_image" not in said:
            said += sock.recv(65536)
            assert b"201 Created" not in said
    wait_for("nothing is left", lambda: folder(host) == [])
    # and one that is here keeps its image
    assert api.post("/v1/images/import?name=mine", archive, headers=OCTETS).ok(201)["digest"] == made["digest"]
    bring(api, data).ok(201)
    answer = api.delete("/v1/image?ref=mine")
    assert answer.code == "wrong_state" and "warm" in answer.error["message"]
    wait_for("nobody holds it", lambda: api.delete("/v1/snapshots/warm").status == 200)
    api.delete("/v1/image?ref=mine").ok()


# ---- who goes away ----

def test_a_reader_that_goes_away(host, api, large):
    """While it is read nobody removes it; then it is free."""
    with api.connect(False, 20) as sock:
        sock.sendall(head(api, "GET /v1/snapshots/large/export"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")
        answer = api.delete("/v1/snapshots/large")
        assert answer.code == "busy" and "exported" in answer.error["message"]
    wait_for("nobody holds it", lambda: api.delete("/v1/snapshots/large").status == 200, 10)
    assert host.vm("web")["state"] == "running"


def test_a_sender_that_goes_away(host, api, large):
    data = export(api, "large")
    before = folder(host)
    with api.connect(False, 20) as sock:
        sock.sendall(head(api, "POST /v1/snapshots/import?name=half", len(data)) + data[:len(data) // 2])
        wait_for("it is being made", lambda: len(folder(host)) == 2, 10)
    wait_for("nothing is left", lambda: folder(host) == before, 10)
    bring(api, data, "?name=half").ok(201)


def test_a_daemon_that_is_killed(host, api, large):
    """In an import and in an export: the next one finds nothing of the first, and the snapshot of the second."""
    data, pid = export(api, "large"), host.vm("web")["vmm_pid"]
    host.restart_daemon()  # the VM is its child no more
    before = host.residue(), folder(host)
    with api.connect(False, 20) as reader, api.connect(False, 20) as sender:
        reader.sendall(head(api, "GET /v1/snapshots/large/export"))
        reader.recv(100)
        sender.sendall(head(api, "POST /v1/snapshots/import?name=half", len(data)) + data[:len(data) // 2])
        wait_for("it is being made", lambda: len(folder(host)) == 2, 10)
        host.stop_daemon(9)
    host.start_daemon()
    assert folder(host) == before[1] and host.wait_state("web", "running", 10)["vmm_pid"] == pid and os.path.exists(f"/proc/{pid}")
    host.check_residue(before[0])
    assert members(export(api, "large"))[1:] == members(data)[1:]


def test_a_daemon_that_stops(host, api, large):
    """It waits for neither."""
    data = export(api, "large")
    before = folder(host)
    with api.connect(False, 20) as sender:
        sender.sendall(head(api, "POST /v1/snapshots/import?name=half", len(data)) + data[:len(data) // 2])
        wait_for("it is being made", lambda: len(folder(host)) == 2, 10)
        begun = time.monotonic()
        host.restart_daemon()
        assert time.monotonic() - begun < 10
    assert folder(host) == before


def test_too_many_at_a_time(host, api, large):
    data = export(api, "large")
    socks = [api.connect(False, 20) for _ in range(4)]
    try:
        for sock in socks:
            sock.sendall(head(api, "POST /v1/snapshots/import", len(data)) + data[:100_000])
        wait_for("all are there", lambda: len(folder(host)) == 5, 10)
        answer = bring(api, data, "?name=fifth")
        assert (answer.status, answer.code) == (503, "unavailable")
    finally:
        for sock in socks:
            sock.close()
    wait_for("all are gone", lambda: len(folder(host)) == 1, 10)


# ---- the commands ----

def test_commands(host, api, warm):
    """By pipes, under another name, and by who may not read the file."""
    done = host.ns.run("sh", "-c", f"fcm snapshot import --name piped <{warm[1]} && fcm snapshot export piped | fcm snapshot import --name again -",
                       env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"})
    assert done.stdout.split() == ["piped", "again"]
    done = host.fcm("snapshot", "import", host.work / "nothing", check=False)
    assert done.returncode == 2 and "there is no" in done.stderr
    (host.work / "text").write_text("hello")
    done = host.fcm("snapshot", "import", host.work / "text", check=False)
    assert done.returncode == 2 and "not a good archive" in done.stderr
    done = host.fcm("snapshot", "export", "-o", host.work / "never", "nosuch", check=False)
    assert done.returncode == 3 and not (host.work / "never").exists()
    host.add_user_token()
    warm[1].chmod(0o600)
    done = host.fcm("snapshot", "import", warm[1], user="ada", check=False)
    assert done.returncode != 0 and "Permission denied" in done.stderr, done
