"""fcm image import: what each kind of source becomes, and what is left of one that fails. The scripted VMM boots what no machine
would; that a guest runs what was imported is seen in test_import_guest.py."""
import gzip
import json
import os
import random
import subprocess
import time
from urllib.parse import quote

import pytest
from host import wait_for
from oci import DIRECTORY, docker_archive, layout, sha, tar

HOST = {"fake": True}
TREE = tar([("etc", b"", DIRECTORY), ("etc/os-release", b"ID=x\n")])
LAYER = tar([("file", b"content")])
BIG = tar([("random", random.Random(1).randbytes(8 << 20))])
OCTETS = {"Content-Type": "application/octet-stream"}


def send(api, data, query=""):
    return api.post(f"/v1/images/import{query}", data, headers=OCTETS)


def images(api):
    return sorted((i["name"], i["tag"], i["digest"]) for i in api.get("/v1/images").ok()["images"] if i["kind"] == "image")


def store(host):
    """All that the store of images has: a half-made one would be here."""
    return sorted(os.listdir(host.state_dir / "images")) + sorted(os.listdir(host.state_dir / "layers"))


def kernel(api, files, name="default", **headers):
    return api.put(f"/v1/kernels/{name}", tar(list(files.items())), headers={**OCTETS, **headers})


@pytest.fixture(autouse=True)
def nothing_left(host):
    """What a test imports goes, and its layers with it; what it half imported has gone."""
    before = store(host)
    yield
    for name, tag, digest in images(host.api):
        if name not in ("tiny", "base"):
            host.api.delete(f"/v1/image?ref={digest}")
    assert store(host) == before


def test_docker_archive(host, api):
    image, data = docker_archive([LAYER, TREE], {"Cmd": ["/x"]}, ["app:1", "registry.example:5000/team/app:2"])
    made = send(api, data).ok(201)
    assert made["digest"] == image and made["added"] == ["docker.io/library/app:1", "registry.example:5000/team/app:2"]
    assert {("app", "1", image), ("registry.example:5000/team/app", "2", image)} <= set(images(api))
    assert {sha(LAYER) + ".tar", sha(TREE) + ".tar"} <= set(store(host))
    # again: the same image
    assert send(api, gzip.compress(data)).ok(201)["digest"] == image
    # with a name of the user's only that one is given
    assert send(api, data, "?name=mine").ok(201)["added"] == ["localhost/mine:latest"]


def test_progress(host, api):
    _, data = docker_archive([LAYER, TREE], {}, ["app:1"])
    answer = api.post("/v1/images/import", data, headers={**OCTETS, "Accept": "application/x-ndjson"})
    lines = [json.loads(line) for line in answer.body.splitlines()]
    assert [line["step"] for line in lines if line.get("status") == "begin"] == ["making", "import", "merge", "keep"]
    assert {line["id"] for line in lines if line.get("event") == "layer" and line["status"] == "extracted"} == {sha(LAYER)[:12], sha(TREE)[:12]}
    assert lines[-1]["result"]["added"] == ["docker.io/library/app:1"]
    lines = [json.loads(line) for line in api.post("/v1/images/import", data[:-9000], headers={**OCTETS, "Accept": "application/x-ndjson"}).body.splitlines()]
    assert lines[-1]["error"]["code"] == "invalid"


def test_names(host, api):
    assert send(api, TREE, "?name=").error["field"] == "name"
    assert send(api, TREE, "?name=UPPER").error["field"] == "name"
    assert send(api, TREE, f"?name=x@sha256:{'1' * 64}").error["field"] == "name"
    made = send(api, TREE).ok(201)
    assert made["name"] == "<none>" and made["added"] == []
    assert api.post("/v1/images/prune", {}).ok()["removed"] == [made["digest"]]


def test_config(host, api):
    made = send(api, TREE, "?name=mine&config=" + quote('{"Cmd":["/bin/x"],"Env":["A=b"]}')).ok(201)
    vm = api.post("/v1/vms", {"name": "user", "image": "mine"}).ok(201)
    assert vm["main"]["args"] == ["/bin/x"] and vm["env"] == {"A": "***"} and vm["image_id"] == made["digest"]
    host.destroy_all()
    for bad, code, field in (("{", "bad_json", None), ("[]", "bad_json", None), ('{"Cmd":1}', "invalid", "Cmd"), ('{"Nope":1}', "unknown_field", "Nope"),
                             (json.dumps({"Env": ["A=b"] * 300}), "invalid", "Env")):
        refused = send(api, TREE, "?config=" + quote(bad))
        assert refused.code == code and refused.error.get("field") == field, (bad, refused)
    image, data = docker_archive([LAYER], {}, ["a:1"])
    assert send(api, data, "?config=" + quote('{"Cmd":["x"]}')).error["field"] == "config"


def test_ext4(host, api):
    file = host.work / "fs.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", file, "40M"], check=True, stdout=subprocess.DEVNULL)
    made = send(api, file.read_bytes(), "?name=raw").ok(201)
    assert made["digest"] == sha(file.read_bytes()) and made["size"] == 40 << 20
    kept = host.state_dir / "images" / made["digest"] / "image.ext4"
    assert kept.read_bytes() == file.read_bytes() and (kept.stat().st_mode & 0o777, kept.stat().st_uid) == (0o444, 0)
    assert api.post("/v1/vms", {"name": "user", "image": "raw"}).ok(201)["image_id"] == made["digest"]
    host.destroy_all()


def test_an_image_that_is_made_of_two_layers(host, api):
    """What comes of them is what merge makes (test_merge.py); here it is looked at by debugfs."""
    upper = tar([("etc/.wh.os-release", b""), ("etc/new", b"n")])
    image, data = docker_archive([TREE, upper], {}, ["a:1"])
    made = send(api, data).ok(201)
    seen = subprocess.run(["debugfs", "-R", "ls /etc", host.state_dir / "images" / made["digest"] / "image.ext4"], check=True,
                          capture_output=True, text=True).stdout
    assert "new" in seen and "os-release" not in seen


@pytest.mark.parametrize("data, code", [(b"hello", "invalid"), (b"", "invalid"), (TREE[:700], "invalid"), (gzip.compress(BIG)[:-9], "invalid"),
                                        (tar([("../up", b"x")]), "invalid"), (tar([("manifest.json", b"[]")]), "invalid")])
def test_refused(host, api, data, code):
    answer = send(api, data, "?name=bad")
    assert answer.code == code and answer.error["message"].isprintable(), answer
    assert "bad" not in [name for name, _, _ in images(api)]


KERNEL = {"./vmlinux": b"\x7fELF" + bytes(9000), "./initrd": b"cpio", "./release": b"6.12.1\n"}


def test_kernel(host, api):
    made = kernel(api, KERNEL).ok(201)
    assert (made["kind"], made["name"], made["version"], made["size"]) == ("kernel", "default", "6.12.1", 9008)
    assert sorted(os.listdir(host.state_dir / "kernels")) == ["default"]  # the older one has gone
    assert oct((host.state_dir / "kernels/default/vmlinux").stat().st_mode) == "0o100444"
    refused = api.delete("/v1/image?ref=default")
    assert refused.code == "wrong_state" and "is a kernel" in refused.error["message"], refused
    lines = [json.loads(line) for line in kernel(api, KERNEL, Accept="application/x-ndjson").body.splitlines()]
    assert [line["step"] for line in lines if line.get("status") == "begin"] == ["place", "fetch", "install"]
    assert lines[-1]["result"]["name"] == "default"


@pytest.mark.parametrize("files, code, words", [
    ({k: v for k, v in KERNEL.items() if k != "./initrd"}, "invalid", "initrd is missing"),
    ({**KERNEL, "./vmlinux": b"MZ"}, "invalid", "vmlinux is not an uncompressed kernel"),
    ({**KERNEL, "./more": b"x"}, "invalid", "'./more' is no file of a kernel"),
    ({**KERNEL, "./release": b"a\nb\n"}, "invalid", "release is not"),
    ({**KERNEL, "./release": b"6" * 2000}, "too_large", "release is larger than 1 KiB")], ids=lambda v: v if isinstance(v, str) else "")
def test_bad_kernels(host, api, files, code, words):
    before = [kernel for kernel in api.get("/v1/images").ok()["images"] if kernel["kind"] == "kernel"]
    refused = kernel(api, files)
    assert refused.code == code and words in refused.error["message"], refused
    assert [kernel for kernel in api.get("/v1/images").ok()["images"] if kernel["kind"] == "kernel"] == before
    assert sorted(os.listdir(host.state_dir / "kernels")) == ["default"]


def test_cut_by_the_client(host, api):
    """The connection ends in the middle; so do the job and what it had made."""
    before = store(host)
    head = f"POST /v1/images/import HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\nContent-Length: {len(BIG)}\r\n\r\n"
    with api.connect(False, 10) as sock:
        sock.sendall(head.encode() + BIG[:3 << 20])
        wait_for("it is being made", lambda: store(host) != before, 10)
    wait_for("nothing is left", lambda: store(host) == before, 10)


def test_cut_by_the_end_of_the_daemon(host, api):
    """Killed while an image comes: the next daemon finds nothing of it."""
    before = store(host)
    head = f"POST /v1/images/import HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\nContent-Length: {len(BIG)}\r\n\r\n"
    with api.connect(False, 10) as sock:
        sock.sendall(head.encode() + BIG[:3 << 20])
        wait_for("it is being made", lambda: store(host) != before, 10)
        host.stop_daemon(9)
    host.start_daemon()
    assert store(host) == before


def test_too_many_at_a_time(host, api):
    head = f"POST /v1/images/import HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\nContent-Length: {len(BIG)}\r\n\r\n"
    socks = [api.connect(False, 10) for _ in range(4)]
    try:
        for sock in socks:
            sock.sendall(head.encode() + BIG[:100_000])
        wait_for("all are there", lambda: sum(x.startswith(".") for x in store(host)) == 4, 10)
        refused = send(api, TREE)
        assert (refused.status, refused.code) == (503, "unavailable")
    finally:
        for sock in socks:
            sock.close()
    wait_for("all are gone", lambda: not any(x.startswith(".") for x in store(host)), 10)
    send(api, TREE).ok(201)


# ---- the command ----

@pytest.fixture
def folder(host):
    path = host.work / f"import-{time.monotonic_ns()}"
    path.mkdir()
    return path


def test_command(host, folder):
    image, data = docker_archive([LAYER], {"Cmd": ["/x"]}, ["app:1"])
    (folder / "docker.tar").write_bytes(data)
    assert host.fcm("image", "import", folder / "docker.tar").stdout == "app:1\n"
    made = layout(folder / "layout", [LAYER, TREE], {})
    assert host.fcm("image", "import", "--name", "mine", folder / "layout").stdout == "mine:latest\n"
    assert json.loads(host.fcm("image", "inspect", "mine").stdout)["digest"] == made
    done = host.ns.run("sh", "-c", f"gzip -c <{folder}/docker.tar | fcm image import --name piped:2 -",
                       env={"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": "/root"})
    assert done.stdout == "piped:2\n"
    (folder / "tree.tar").write_bytes(TREE)
    named = host.fcm("image", "import", "--name", "tree", "--cmd", "/bin/x", "--cmd", "y z", "-e", "A=b", "-w", "/srv", "-u", "web", folder / "tree.tar")
    assert named.stdout == "tree:latest\n"
    vm = host.api.post("/v1/vms", {"name": "user", "image": "tree"}).ok(201)
    assert (vm["main"]["args"], vm["main"]["dir"], vm["main"]["user"]) == (["/bin/x", "y z"], "/srv", "web")
    host.destroy_all()
    nameless = host.fcm("image", "import", folder / "tree.tar").stdout.strip()
    assert len(nameless) == 64


def test_command_of_an_ordinary_user(host, folder):
    """A directory is read by who calls."""
    host.add_user_token()
    (folder / "secret").mkdir(mode=0o700)
    (folder / "secret/x").write_text("x")
    folder.chmod(0o755)
    done = host.fcm("image", "import", folder / "secret", user="ada", check=False)
    assert done.returncode == 1 and "Permission denied" in done.stderr, done
    layout(folder / "layout", [LAYER], {})
    assert host.fcm("image", "import", "--name", "mine", folder / "layout", user="ada").stdout == "mine:latest\n"


def test_command_that_fails(host, folder):
    done = host.fcm("image", "import", folder / "nothing", check=False)
    assert done.returncode == 2 and "there is no" in done.stderr
    (folder / "text").write_text("hello")
    done = host.fcm("image", "import", folder / "text", check=False)
    assert done.returncode == 2 and "no image" in done.stderr and "qemu-img" in done.stderr
    (folder / "empty").write_text("")
    assert host.fcm("image", "import", folder / "empty", check=False).returncode == 2
    assert host.fcm("image", "import", check=False).returncode == 2
    assert host.fcm("image", "tag", "--name", "x", "tiny", "y", check=False).returncode == 2


def test_stores_of_others(host, folder):
    """docker-daemon: is skopeo's; the store itself isn't here, so skopeo says what is wrong. Without skopeo we say so."""
    done = host.fcm("image", "import", "docker-daemon:nothing:1", check=False)
    assert done.returncode == 1 and "skopeo failed" in done.stderr and "docker" in done.stderr.lower(), done
    done = host.run("env", "PATH=/nowhere", "/usr/local/bin/fcm", "image", "import", "containers-storage:nothing", check=False)
    assert done.returncode == 1 and "skopeo isn't installed" in done.stderr and "apt-get install skopeo" in done.stderr, done
    assert not [x for x in os.listdir("/var/tmp") if x.startswith("fcm-import")]


def test_docker_s_own_store(host, folder):
    """What skopeo does is played by a program of that name, which copies an archive that is here."""
    image, data = docker_archive([LAYER], {}, ["app:1"])
    (folder / "archive").write_bytes(data)
    (folder / "skopeo").write_text(f'#!/bin/sh\necho "$@" >{folder}/argv\nfor last; do :; done\nto=${{last#docker-archive:}}\ncp {folder}/archive "${{to%%:*}}"\n')
    (folder / "skopeo").chmod(0o755)
    env = {"PATH": f"{folder}:/usr/local/bin:/usr/bin:/bin"}
    assert host.run("fcm", "image", "import", "docker-daemon:app:1", env=env).stdout == "app:1\n"
    argv = (folder / "argv").read_text().split()
    assert argv[:4] == ["copy", "--quiet", "docker-daemon:docker.io/library/app:1", argv[3]] and argv[3].endswith(":docker.io/library/app:1")
    host.run("fcm", "image", "import", "--name", "x", "containers-storage:localhost/app", env=env)
    assert (folder / "argv").read_text().split()[2] == "containers-storage:localhost/app"
    (folder / "skopeo").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    done = host.run("fcm", "image", "import", "docker-daemon:app:1", env=env, check=False)
    assert done.returncode == 1 and "broken" in done.stderr
