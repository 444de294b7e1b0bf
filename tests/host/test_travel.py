"""A snapshot goes to another host as a file, of the same Debian and of the next one. Its machine goes on there, or is refused, as what
it says of itself has it; what is on its disk boots in any case."""
import json
import os
import re

import pytest

import firecracker as wheel
import host as hosts
import product as products

RELEASES = ("bookworm",)  # the others are made here
pytestmark = pytest.mark.skipif(not os.environ.get("FCM_LONG"), reason="two hosts for some minutes: with FCM_LONG=1")
SAME = ("vmm", "vmm_version", "accel", "cpu", "cpu_flags")  # of whoever wants to go on


def product_in(host, kernel_tar, tiny_tar):
    host.install()
    host.run("groupadd --system fcm; systemctl daemon-reload; systemctl start fcmd", timeout=180)
    it = products.Product(host)
    it.add_assets(kernel_tar, tiny=tiny_tar)
    return it


@pytest.fixture(scope="module")
def here(firecracker, kernel_tar, tiny_tar):
    """Where a machine runs of which there is a snapshot, in the file /root/warm."""
    it = product_in(firecracker, kernel_tar, tiny_tar)
    it.create("web")
    it.in_guest("web", "echo disk >/root/kept; echo memory >/run/kept")
    it.fcm("snapshot", "create", "web", "--name", "warm")
    it.fcm("snapshot", "export", "-o", "/root/warm", "warm")
    return it


@pytest.fixture(scope="module", params=hosts.RELEASES)
def there(request, here, kernel_tar, tiny_tar):
    try:
        machine = hosts.Host(request.param, hosts.WORK / f"host-{request.param}-test_travel-there")
    except hosts.Unavailable as reason:
        pytest.skip(str(reason))
    with machine:
        machine.put_tree(wheel.fetch(hosts.CACHE), "/usr/local/bin")
        it = product_in(machine, kernel_tar, tiny_tar)
        machine.put("/root/warm", here.host.get("/root/warm"))
        yield it


def test_it_goes_on_or_is_refused(here, there, note):
    assert there.fcm("snapshot", "import", "/root/warm").text == "warm\n"
    done = there.fcm("clone", "--name", "twin", "warm", check=False)
    note(f"a machine of {here.host.image.release} on {there.host.image.release}: {'goes on' if done.status == 0 else done.both[:100]}")
    if done.status == 0:
        assert there.in_guest("twin", "cat /root/kept /run/kept") == "disk\nmemory\n"
        assert there.boot_id("twin") == here.boot_id("web") and there.vm("twin")["id"] != here.vm("web")["id"]
        return
    manifest = json.loads(there.fcm("snapshot", "inspect", "warm").text)
    differs = re.search(r"its memory was saved with another [\w ]+: '(.*)', and here it is '(.*)'", done.both)
    assert done.status == 4 and differs and "--disk-only" in done.both, done.both
    assert differs[1] in [manifest[key][:64] for key in SAME] and differs[1] != differs[2]
    assert there.host.image.release != here.host.image.release, "hosts of one Debian are the same here"
    there.fcm("clone", "--name", "twin", "--disk-only", "warm")
    assert there.in_guest("twin", "cat /root/kept; cat /run/kept 2>/dev/null || echo none") == "disk\nnone\n"
    assert there.boot_id("twin") != here.boot_id("web")
