"""Real guests run what was imported, whatever it came as: archives that skopeo and umoci wrote, a root file system, tiny's own ext4."""
import os
import subprocess
from pathlib import Path

import oci
import pytest
from oci import CONFIG, ext4_of, layout

BASE, CHANGE = oci.base(), oci.change()


@pytest.fixture(scope="module")
def image(host):
    """An OCI layout of the image; its id."""
    folder = host.work / "image"
    return folder, layout(folder, [BASE, CHANGE], CONFIG)


@pytest.fixture(scope="module", autouse=True)
def nothing_left(host):
    """The images go, and with them their layers."""
    yield
    host.destroy_all()
    for digest in {i["digest"] for i in host.api.get("/v1/images").ok()["images"] if i["kind"] == "image" and i["name"] != "tiny"}:
        host.fcm("rmi", digest)
    assert host.layers() == []


def run(host, *argv):
    return host.fcm("run", "--rm", "--mem", "96", *argv).stdout


@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
def test_archives_of_skopeo(host, image, kind):
    folder, digest = image
    archive = host.work / kind
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{folder}:x", f"{kind}:{archive}:team/{kind}:1"], check=True)
    assert host.fcm("image", "import", archive).stdout == f"team/{kind}:1\n"
    assert host.api.get(f"/v1/image?ref=team/{kind}:1").ok()["digest"] == digest
    assert run(host, f"team/{kind}:1") == "hi hello /srv 1000:1001\n"


def test_layout_of_umoci(host, image):
    """Its layer is gzip, and removes a file of the lower ones."""
    folder = host.work / "umoci"
    subprocess.run(["cp", "-r", image[0], folder], check=True)
    bundle = host.work / "bundle"

    def umoci(*argv):
        subprocess.run(["umoci", *argv], check=True, capture_output=True)
    umoci("unpack", "--image", f"{folder}:x", bundle)
    (bundle / "rootfs/srv/f").unlink()
    (bundle / "rootfs/srv/g").write_text("other\n")
    umoci("repack", "--image", f"{folder}:y", bundle)
    umoci("rm", "--image", f"{folder}:x")
    umoci("gc", "--layout", folder)
    host.fcm("image", "import", "--name", "changed", folder)
    assert run(host, "--entrypoint", "/bin/ls", "changed", "/srv").split() == ["g"]


def test_root_file_system(host):
    """A tar as any tool makes it."""
    root = host.work / "root"
    root.mkdir()
    subprocess.run(["tar", "xf", "-", "-C", root], input=BASE, check=True)
    archive = host.work / "root.tar.xz"
    subprocess.run(["tar", "cJf", archive, "-C", root, "."], check=True)
    assert host.fcm("image", "import", "--name", "rootfs", "--cmd", "cat", "--cmd", "/etc/passwd", "-e", "PATH=/bin", archive).stdout == "rootfs:latest\n"
    assert run(host, "rootfs").startswith("root:x:0:0:")
    assert run(host, "rootfs", "id", "-u") == "0\n"


def test_raw_ext4(host):
    """A machine of its own: it has an init, sshd and all."""
    file = host.work / "tiny.ext4"
    ext4_of(Path(os.environ["FCM_ASSETS"]) / "tiny.tar", file)
    host.fcm("image", "import", "--name", "raw", file)
    host.create("machine", image="raw", memory=96)
    assert host.fcm("exec", "machine", "cat", "/etc/shells").stdout
    host.add_user_token()
    assert host.ssh("machine", "echo hello") == "hello\n"
