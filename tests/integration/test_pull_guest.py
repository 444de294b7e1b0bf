"""Images of a real registry, run as machines: docker-registry, filled by skopeo with an image that is made here."""
import hashlib
import os

import oci
import pytest
from host import wait_for
from oci import CONFIG
from registry import Registry

REGISTRY = "127.0.0.1:5000"
HOST = {"config": f"insecure_registries = {REGISTRY}\n"}
BASE, CHANGE, ALONE = oci.base(), oci.change(), oci.tar([("busybox", oci.busybox(), oci.PROGRAM)])


@pytest.fixture(scope="module")
def registry(host, tmp_path_factory):
    r = Registry(host, tmp_path_factory.mktemp("registry"), REGISTRY)
    r.fill("app:1", [BASE, CHANGE], CONFIG)
    r.fill("alone:1", [ALONE], {"Entrypoint": ["/busybox", "echo", "alone"], "Cmd": ["by itself"]})
    return r


@pytest.fixture(scope="module", autouse=True)
def nothing_left(host):
    """The images go, and with them their layers."""
    yield
    host.destroy_all()
    for image in host.api.get("/v1/images").ok()["images"]:
        if image["kind"] == "image" and image["name"] != "tiny":
            host.fcm("rmi", image["digest"])
    assert host.layers() == []


def run(host, *argv, check=True):
    return host.fcm("run", "--mem", "96", *argv, check=check)


def test_what_the_image_says(host, registry):
    assert run(host, "--rm", f"{REGISTRY}/app:1").stdout == "hi hello /srv 1000:1001\n"
    assert host.layers() == sorted(hashlib.sha256(x).hexdigest() + ".tar" for x in (BASE, CHANGE))
    registry.stop()  # the image is here now
    assert run(host, "--rm", f"{REGISTRY}/app:1", "other", "words").stdout == "hi other words /srv 1000:1001\n"
    assert run(host, "--rm", "-e", "GREETING=ho", "-w", "/etc", "-u", "0", f"{REGISTRY}/app:1").stdout == "ho hello /etc 0:0\n"
    seen = run(host, "--rm", "--entrypoint", "/bin/ls", f"{REGISTRY}/app:1", "/etc").stdout.split()
    assert "passwd" in seen and "old" not in seen, seen
    registry.start()


def test_the_stop_signal(host, registry):
    run(host, "-d", "--name", "sleeper", f"{REGISTRY}/app:1", "sleep")
    wait_for("it traps the signal", lambda: host.fcm("logs", "sleeper").stdout == "ready\n", 10)
    host.fcm("stop", "sleeper")
    assert host.fcm("logs", "sleeper").stdout == "ready\nstopped\n" and host.vm("sleeper")["exited"]["code"] == 3, host.vm("sleeper")
    host.fcm("destroy", "sleeper")


def test_one_static_program(host, registry):
    """No shell, no libc, no directory but its own."""
    assert run(host, "--rm", f"{REGISTRY}/alone:1").stdout == "alone by itself\n"
    done = run(host, "--rm", "--entrypoint", "/nope", f"{REGISTRY}/alone:1", check=False)
    assert done.returncode == 127


def test_images(host, registry):
    assert host.fcm("pull", f"{REGISTRY}/app:1").stdout == registry.ids["app:1"] + "\n"
    assert host.api.post("/v1/images/pull", {"image": f"{REGISTRY}/app:1"}).ok()["digest"] == registry.ids["app:1"]
    listed = {(i["name"], i["tag"]): i for i in host.api.get("/v1/images").ok()["images"] if i["kind"] == "image"}
    assert listed[(f"{REGISTRY}/app", "1")]["digest"] == registry.ids["app:1"]
    assert f"{REGISTRY}/app" in host.fcm("images").stdout
    host.destroy_all()
    run(host, "-d", "--name", "user", f"{REGISTRY}/app:1", "sleep")
    assert host.fcm("rmi", f"{REGISTRY}/app:1", check=False).returncode == 4
    host.fcm("destroy", "user")
    host.fcm("rmi", f"{REGISTRY}/app:1")
    assert hashlib.sha256(CHANGE).hexdigest() + ".tar" not in host.layers()


def test_pulls_that_fail(host, registry):
    before = host.layers(), os.listdir(host.state_dir / "images")
    for name, status in ((f"{REGISTRY}/nothing:1", 3), ("127.0.0.1:1/x", None), ("localhost/x", 2), ("A/b", 2)):
        done = host.fcm("pull", name, check=False)
        assert done.returncode not in (0, None) and (status is None or done.returncode == status), done
        assert done.stderr.startswith("fcm: "), done
    assert (host.layers(), os.listdir(host.state_dir / "images")) == before
    done = run(host, "--rm", "--pull", "never", f"{REGISTRY}/nothing:1", check=False)
    assert done.returncode == 125 and "there is no image" in done.stderr
