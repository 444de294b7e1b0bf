"""The host is shut down, or loses its power: VMs that shall run do so again, and nothing is half done."""
import pytest

import host as hosts
import product as products

# name: (restart policy, state before, state after); each costs time at each boot
VMS = {
    "steady": ("unless-stopped" if hosts.FIRST else "always", "running", "running"),
    "once": ("no", "running", "stopped"),
    "resting": ("always", "stopped", "stopped"),
}
AFTER = {name: after for name, (_, _, after) in VMS.items()}
ALONE = {"steady": "running"}  # who is there when the power goes in the middle of something
DROP_IN = "/etc/systemd/system/fcmd.service.d/fault.conf"


@pytest.fixture(scope="module")
def product(packaged, kernel_tar, tiny_tar):
    it = packaged
    it.install()
    it.add_assets(kernel_tar, tiny_tar)
    for name, (policy, state, _) in VMS.items():
        it.create(name, "--restart", policy)
        if state == "stopped":
            it.fcm("stop", name)
    it.in_guest("steady", f"echo mine >/root/mine; {products.COUNTER}")
    it.host.run("sleep 3")
    return it


def truth(product):
    """A VM that is listed as running has a VMM, and no other has."""
    for name, vm in product.vms().items():
        assert (vm["state"] == "running") == (vm["vmm_pid"] != 0 and product.lives(vm["vmm_pid"])), (name, vm["state"])


def whole(product):
    """Each VM has its folder, its TAP where it runs, and there are no others."""
    truth(product)
    vms = product.vms().values()
    folders = product.host.run("ls -d /var/lib/firecracker/*/rootfs.img").text.split()
    assert {f.split("/")[4] for f in folders} == {vm["id"] for vm in vms}
    taps = {line[4:] for line in product.traces().splitlines() if line.startswith("tap_")}
    assert taps == {vm["id"] for vm in vms if vm["state"] == "running"}


def back(product, before, boot_id):
    product.settle(AFTER, 120)
    truth(product)
    now = product.vms()
    for name in VMS:
        assert now[name]["ip"] == before[name]["ip"] and now[name]["desired"] == before[name]["desired"]
    assert product.in_guest("steady", "cat /root/mine") == "mine\n"
    assert product.boot_id("steady") != boot_id


def test_reboot(product, note):
    before, boot_id, count = product.vms(), product.boot_id("steady"), product.count("steady")
    note(f"reboot in {product.host.reboot():.1f} s")
    journal = product.host.run("journalctl -b -1 -u fcm-vms -o cat --no-pager").text.replace(" ", "")
    assert '"parked":2,"forced":0,"failed":0' in journal, journal
    back(product, before, boot_id)
    assert product.count("steady") >= count
    assert "recover" not in product.in_guest("steady", "dmesg | grep -i ext4").lower(), "its file system was clean"
    assert product.vm("once")["reason"]["code"] == "host_shutdown"


@pytest.mark.whole
def test_guest_that_switched_itself_off(product):
    """Its last wish counts, not the policy."""
    product.in_guest("steady", "(sleep 0.5; poweroff) >/dev/null 2>&1 &")
    product.settle({**AFTER, "steady": "stopped"})
    product.host.reboot()
    product.settle({**AFTER, "steady": "stopped"}, 120)
    product.fcm("start", "steady")


@pytest.mark.one_release
def test_power_cut(product, note):
    before, boot_id = product.vms(), product.boot_id("steady")
    product.host.run("sync")
    note(f"power cut and back in {product.host.power_cut():.1f} s")
    back(product, before, boot_id)


@pytest.fixture(scope="module")
def alone(product):
    """The product with one VM."""
    for name in VMS.keys() - ALONE.keys():
        product.fcm("destroy", "-f", name)
    return product


def cut_in(product, at, command):
    """The power goes while `command` stands still at a step."""
    product.host.put(DROP_IN, f"[Service]\nEnvironment=FCM_FAULT={at}:hang\n")
    before = product.states()
    product.host.run("systemctl daemon-reload; systemctl restart fcmd")
    product.settle(before)
    product.host.run(f"{command} >/dev/null 2>&1 & sleep 3; rm {DROP_IN}; sync")
    product.host.power_cut()


@pytest.mark.one_release
@pytest.mark.parametrize("step", [pytest.param("vmm", marks=pytest.mark.whole), "guest"])
def test_power_cut_in_create(alone, step):
    """Half a VM is none; one whose guest was coming up is whole, and its policy decides."""
    cut_in(alone, f"create/{step}", "fcm create --name new --image tiny --mem 96")
    if step == "guest":
        alone.settle({**ALONE, "new": "running"}, 120)
        assert alone.in_guest("new", "echo well") == "well\n"
        alone.fcm("destroy", "-f", "new")
    alone.settle(ALONE, 120)
    whole(alone)


@pytest.mark.one_release
def test_power_cut_in_destroy(alone):
    alone.create("doomed", "--restart", "no")
    cut_in(alone, "destroy/directory", "fcm destroy doomed")
    alone.settle(ALONE, 120)
    whole(alone)


@pytest.mark.one_release
def test_power_cut_in_stop(alone):
    cut_in(alone, "stop/quiet", "fcm stop steady")
    alone.settle({"steady": "stopped"}, 120)
    alone.fcm("start", "steady")
    assert alone.in_guest("steady", "cat /root/mine") == "mine\n"
