"""fcm build with real guests: a script runs in a VM, what it changed is an image, and nothing else is left of it."""
import io
import json
import os
import random
import re
import signal
import subprocess
import tarfile
import time

import pytest
from host import USER, Failed, wait_for
from oci import CONFIG, base, change, docker_archive

HOST = {"assets": ("kernel", "tiny")}
SIZES = ("--mem", "128")


def images(host):
    return {(i["name"], i["tag"], i["digest"]) for i in host.api.get("/v1/images").ok()["images"] if i["kind"] == "image"}


def store(host):
    return sorted(os.listdir(host.state_dir / "images")) + sorted(os.listdir(host.state_dir / "layers"))


@pytest.fixture(autouse=True)
def nothing_left(host):
    """Each build's VM goes by itself; the images go here."""
    before, residue = store(host), host.residue()
    yield
    machines = host.api.get("/v1/vms").ok()["vms"]
    assert [v["name"] for v in machines if v["name"].startswith("build-")] == [], machines
    host.destroy_all()
    for digest in {i[2] for i in images(host)} - set(before):
        host.fcm("rmi", digest)
    assert store(host) == before
    host.check_residue(residue)


def script(host, text):
    path = host.work / "script"
    path.write_text(text)
    return path


def build(host, name, text, *options, check=True, **kwargs):
    return host.fcm("build", "--image-name", name, "--script-path", script(host, text), *SIZES, *options, check=check, **kwargs)


def exec_in(host, vm, command):
    return host.api.post(f"/v1/vms/{vm}/exec", {"cmd": ["/bin/sh", "-c", command]}).ok()["stdout"]


TINY = """
echo "as $(id -u) in $(pwd) on $(hostname) with $GREETING"; echo careful >&2
mkdir -p /srv/site; echo content >/srv/site/index.html; ln -s site /srv/www; ln /srv/site/index.html /srv/again
rm /etc/shells; mv /etc/nsswitch.conf /etc/moved.conf; chmod 700 /var/log
echo 0123456789abcdef0123456789abcdef >/etc/machine-id; echo mine >/etc/hosts
echo gone >/tmp/gone; echo gone >/run/gone
truncate -s 50M /srv/sparse
"""


def test_a_script_on_tiny(host):
    done = build(host, "web:1", TINY, "--from", "tiny", "-e", "GREETING=hello")
    assert done.stdout == "web:1\n"
    said = re.fullmatch(r"as 0 in / on (build-[0-9a-f]{6}) with hello\ncareful\n", done.stderr)
    assert said, done.stderr
    image = host.api.get("/v1/image?ref=web:1").ok()
    assert image["names"] == ["localhost/web:1"] and image["size"] > 0 and image["version"] == host.api.get("/v1/image?ref=tiny").ok()["version"]
    steps = host.api.get("/v1/image/history?ref=web:1").ok()["history"]
    below = host.api.get("/v1/image/history?ref=tiny").ok()["history"]
    assert len(steps) == 2 and steps[1] == below[0] and steps[0]["created_by"] == "fcm build --from tiny" and steps[0]["size"] < 100_000, steps

    one, two = (host.create(name, image="web:1", memory=96, ssh_keys=[]) for name in ("one", "two"))
    for vm, other in ((one, two), (two, one)):
        name = vm["name"]
        assert exec_in(host, name, "cat /srv/www/index.html /srv/again; stat -c %h /srv/again; stat -c %s /srv/sparse") == "content\ncontent\n2\n52428800\n"
        assert exec_in(host, name, "ls /etc/shells /etc/nsswitch.conf /etc/machine-id /tmp/gone /run/gone /run/fcm/build 2>/dev/null; ls /etc/moved.conf; stat -c %a /var/log") == \
            "/etc/moved.conf\n700\n"
        assert exec_in(host, name, "hostname; grep -c mine /etc/hosts; env | grep GREETING") == f"{name}\n0\n"
        assert vm["host_key"] != other["host_key"]
    keys = [exec_in(host, name, "sha256sum /etc/dropbear/dropbear_ed25519_host_key") for name in ("one", "two")]
    assert keys[0] != keys[1]
    host.add_user_token()
    assert host.ssh("one", "cat /srv/site/index.html") == "content\n"


def test_on_a_built_image(host):
    """Three layers; a later one takes away what an earlier one added. The image travels as any other."""
    build(host, "first", "echo 1 >/srv-1; mkdir /d; echo old >/d/old; seq 1000 >/d/numbers", "--from", "tiny")
    build(host, "second", "rm /srv-1; rm -r /d; mkdir /d; echo new >/d/new; echo again >>/etc/passwd-", "--from", "first")
    assert len(host.api.get("/v1/image/history?ref=second").ok()["history"]) == 3
    archive = host.work / "second.tar"
    host.fcm("image", "export", "second", "-o", archive)
    copy = host.work / "copied"
    subprocess.run(["skopeo", "copy", "-q", f"oci-archive:{archive}", f"dir:{copy}"], check=True)
    host.create("vm", image="second", memory=96)
    assert exec_in(host, "vm", "ls /srv-1 2>/dev/null; ls /d; cat /d/new") == "new\nnew\n"
    host.fcm("destroy", "vm")
    host.fcm("rmi", "first")
    host.create("vm", image="second", memory=96)  # its layers stay
    assert exec_in(host, "vm", "cat /d/new") == "new\n"


def test_an_image_for_containers(host):
    """What it runs doesn't run meanwhile, its environment is there, and it runs as before afterwards."""
    host.api.post("/v1/images/import", docker_archive([base(), change()], CONFIG, ["app:1"])[1]).ok(201)
    done = build(host, "app:2", "#!/bin/sh\necho $GREETING $(id -u) $(pwd); ls /proc/1/exe >/dev/null; echo more >/srv/more\n", "--from", "app:1")
    assert done.stderr == "hi 0 /\n"
    assert host.fcm("run", "--rm", "--mem", "96", "app:2").stdout == "hi hello /srv 1000:1001\n"
    assert host.fcm("run", "--rm", "--mem", "96", "--entrypoint", "/bin/ls", "app:2", "/srv").stdout.split() == ["f", "more"]
    seen = host.fcm("run", "--rm", "--mem", "96", "--entrypoint", "/bin/ls", "app:2", "/etc", "/").stdout.split()
    assert "fcm" in seen and "old" not in seen, seen
    layer = host.api.get("/v1/image/history?ref=app:2").ok()["history"][0]["layer"]
    with tarfile.open(host.state_dir / "layers" / f"{layer}.tar") as tar:
        assert {"srv/more"} == {m.name for m in tar if m.isfile()}


def test_other_interpreters_and_their_output(host):
    """All that it prints comes, whatever it is, and so does a script that is no small one."""
    data = random.Random(5).randbytes(100_000)
    text = "#!/bin/awk -f\n# " + "x" * 200_000 + '\nBEGIN { for (i = 0; i < 40000; i++) print i; print "end" >"/awk" }\n'
    done = build(host, "awk", text, "--from", "tiny")
    assert done.stderr == "".join(f"{i}\n" for i in range(40000))
    encoded = "".join(f"\\{x:03o}" for x in data)
    with open(host.work / "said", "wb") as said:  # host.run() reads text
        client = host.spawn(["fcm", "build", "--image-name", "bytes", "--script-path", script(host, f"printf '{encoded}'"), "--from", "tiny", *SIZES],
                            stdin=subprocess.DEVNULL, stderr=said)
        assert client.wait(60) == 0
    assert (host.work / "said").read_bytes() == data
    assert host.fcm("build", "-q", "--image-name", "quiet", "--script-path", "-", "--from", "tiny", *SIZES, input="echo said").stderr == ""
    answer = host.fcm("build", "--json", "--image-name", "quiet", "--script-path", "-", "--from", "tiny", *SIZES, input="echo said")
    assert json.loads(answer.stdout)["name"] == "quiet" and answer.stderr == "said\n"


@pytest.mark.parametrize("text, status, why", [
    ("echo before; touch /kept; exit 3", 3, "the script ended with status 3; nothing is kept"),
    ("kill -9 $$", 137, "the script was killed by signal 9; nothing is kept"),
    ("#!/no/such/interpreter\n", 127, "the script can't be run"),
    ("poweroff -f; sleep 60", 125, "the VM, or its agent, ended while the script ran\n     its VM is gone, and nothing is kept"),
], ids=("status", "signal", "interpreter", "poweroff"))
def test_a_script_that_fails(host, text, status, why):
    before = images(host), store(host)
    done = build(host, "failed", text, "--from", "tiny", check=False)
    assert done.returncode == status and done.stdout == "" and why in done.stderr, done
    assert (images(host), store(host)) == before and host.api.get("/v1/vms").ok()["vms"] == []


def test_a_name_keeps_its_image_when_it_fails(host):
    build(host, "mine", "echo 1 >/one", "--from", "tiny")
    before = images(host)
    assert build(host, "mine", "exit 1", "--from", "mine", check=False).returncode == 1
    assert images(host) == before
    build(host, "mine", "echo 2 >/two", "--from", "mine")
    assert images(host) != before and ("mine", "latest") in {i[:2] for i in images(host)}


def test_of_the_api(host, api):
    """Without progress the answer is the image; errors name the field."""
    made = api.post("/v1/images/build", {"name": "api", "from": "tiny", "script": "echo x >/x", "memory": 128}, timeout=120).ok(201)
    assert made["name"] == "api" and api.get("/v1/image?ref=api").ok()["digest"] == made["digest"]
    failed = api.post("/v1/images/build", {"name": "api", "from": "tiny", "script": "exit 7", "memory": 128}, timeout=120)
    assert (failed.status, failed.code) == (422, "script_failed") and "status 7" in failed.error["message"]
    lines = [json.loads(x) for x in api.post("/v1/images/build", {"name": "api", "from": "tiny", "script": "echo out; sleep 1; echo err >&2", "memory": 128},
                                             headers={"Accept": "application/x-ndjson"}, timeout=120).body.splitlines()]
    assert [(x["stream"], x["data"]) for x in lines if x.get("event") == "output"] == [("stdout", "out\n"), ("stderr", "err\n")]
    steps = [x["step"] for x in lines if x.get("event") == "step" and x["status"] == "begin"]
    assert [s for s in steps if s in ("boot", "script", "quiet", "pack", "merge")] == ["boot", "script", "quiet", "pack", "merge"]
    assert [x["exit"] for x in lines if x.get("event") == "exit"] == [0] and lines[-1]["result"]["name"] == "api"


def running(host, what):
    """The build's VM, once `what` is true of it."""
    def look():
        found = [v for v in host.api.get("/v1/vms").ok()["vms"] if v["name"].startswith("build-")]
        return found and what(found[0]) and found[0]
    return wait_for("the build's VM", look, 60, 0.02)


def start_build(host, text, name="killed"):
    return host.spawn(["fcm", "build", "--image-name", name, "--script-path", script(host, text), "--from", "tiny", *SIZES],
                      stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def gone(host, before, timeout=30):
    wait_for("the VM went", lambda: host.api.get("/v1/vms").ok()["vms"] == [], timeout, 0.05)
    wait_for("nothing is kept", lambda: (images(host), store(host)) == before, timeout, 0.05)


WHEN = {
    "while it is made": lambda vm: vm["state"] in ("creating", "starting"),
    "while it boots": lambda vm: vm["state"] == "starting" and vm["vmm_pid"],
    "in the script": lambda vm: vm["state"] == "running",
}


@pytest.mark.parametrize("when, sig", [*((when, signal.SIGKILL) for when in WHEN), ("in the script", signal.SIGINT)], ids=str)
def test_the_client_is_killed(host, when, sig):
    before = images(host), store(host)
    client = start_build(host, "sleep 1000")
    vm = running(host, WHEN[when])
    assert vm["throwaway"] is True
    if when == "in the script":
        time.sleep(0.5)
    client.send_signal(sig)
    client.wait(10)
    gone(host, before)


def test_the_client_is_killed_at_any_time(host):
    """From the script's end to the image: whole or nothing."""
    before = images(host), store(host)
    for moment in range(0, 12, 1 if os.environ.get("FCM_LONG") else 3):
        client = start_build(host, "seq 200000 >/numbers; echo ready", f"moment-{moment}")
        assert client.stdout.readline() == "ready\n"
        time.sleep(moment * 0.15)
        client.kill()
        client.wait(10)
        wait_for("the VM went", lambda: host.api.get("/v1/vms").ok()["vms"] == [], 30, 0.05)
        time.sleep(0.3)
        for name, _, digest in images(host) - before[0]:
            assert name == f"moment-{moment}"
            host.fcm("rmi", digest)
        wait_for("nothing is kept", lambda: (images(host), store(host)) == before, 10, 0.05)


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM], ids=lambda s: s.name)
def test_the_daemon_ends(host, sig):
    before = images(host), store(host)
    client = start_build(host, "echo ready; sleep 1000")
    assert client.stdout.readline() == "ready\n"
    host.stop_daemon(sig)
    assert client.wait(30) != 0
    host.start_daemon()
    gone(host, before)


def test_others_end_the_vm(host):
    """Destroyed, stopped and started by somebody else."""
    before = images(host), store(host)
    for verb in ("destroy", "stop", "kill"):
        client = start_build(host, "echo ready; sleep 1000")
        assert client.stdout.readline() == "ready\n"
        host.fcm(verb, running(host, lambda vm: True)["name"])
        said = client.communicate(timeout=60)[0]
        ended = re.search("the VM, or its agent, ended while the script ran|the script was killed by signal (9|15)", said)
        assert client.returncode in (125, 137, 143) and ended, said
        gone(host, before)


def test_refused(host, api):
    raw = host.work / "raw.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", raw, "4M"], check=True, capture_output=True)
    host.fcm("image", "import", "--name", "raw", raw)
    done = build(host, "x", "true", "--from", "raw", check=False)
    assert done.returncode == 125 and "has no layers" in done.stderr
    for name in ("UPPER", "a@sha256:" + "0" * 64, "a b"):
        assert build(host, name, "true", "--from", "tiny", check=False).returncode == 125
    assert api.post("/v1/images/build", {"name": "x", "from": "nosuch", "script": "true"}).code == "no_image"
    for script_path, why in (("/nosuch", "there is no '/nosuch'"), ("/dev/null", "it is empty"), ("/bin/busybox", "longer than 1024 KiB")):
        done = host.fcm("build", "--image-name", "x", "--script-path", script_path, check=False)
        assert done.returncode == 125 and why in done.stderr, done.stderr


def test_as_a_user(host):
    """Who may use the daemon may build."""
    host.add_user_token()
    path = script(host, "echo x >/x")
    path.chmod(0o644)
    host.fcm("build", "--image-name", "users", "--script-path", "-", "--from", "tiny", *SIZES, user=USER, input="echo x >/x")
    assert ("users", "latest") in {i[:2] for i in images(host)}
