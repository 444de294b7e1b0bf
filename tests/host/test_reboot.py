"""The host is shut down, or loses its power: VMs that shall run do so again, and nothing is half done."""
import pytest

import product as products


# name: (restart policy, state before, state after)
VMS = {
    "always": ("always", "running", "running"),
    "usual": ("unless-stopped", "running", "running"),
    "onfail": ("on-failure", "running", "stopped"),
    "once": ("no", "running", "stopped"),
    "resting": ("always", "stopped", "stopped"),
}
AFTER = {name: after for name, (_, _, after) in VMS.items()}
ALONE = {"usual": "running"}  # who is there when the power goes in the middle of something
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
    for name in ("always", "usual"):
        it.in_guest(name, f"echo {name} >/root/mine; {products.COUNTER}")
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


def back(product, before, boot_ids):
    product.settle(AFTER, 120)
    truth(product)
    now = product.vms()
    for name in VMS:
        assert now[name]["ip"] == before[name]["ip"] and now[name]["desired"] == before[name]["desired"]
    for name in ("always", "usual"):
        assert product.in_guest(name, "cat /root/mine") == f"{name}\n"
        assert product.boot_id(name) != boot_ids[name]


def test_reboot(product, note):
    before = product.vms()
    boot_ids = {name: product.boot_id(name) for name in ("always", "usual")}
    counts = {name: product.count(name) for name in boot_ids}
    note(f"reboot in {product.host.reboot():.1f} s")
    journal = product.host.run("journalctl -b -1 -u fcm-vms -o cat --no-pager").text.replace(" ", "")
    assert '"parked":4,"forced":0,"failed":0' in journal, journal
    back(product, before, boot_ids)
    for name in boot_ids:
        assert product.count(name) >= counts[name]
        assert "recover" not in product.in_guest(name, "dmesg | grep -i ext4").lower(), "its file system was clean"
        product.in_guest(name, products.COUNTER)
    assert product.vm("once")["reason"]["code"] == "host_shutdown"


@pytest.mark.whole
def test_guest_that_switched_itself_off(product):
    """Its last wish counts, not the policy."""
    product.in_guest("always", "(sleep 0.5; poweroff) >/dev/null 2>&1 &")
    product.settle({**AFTER, "always": "stopped"})
    product.host.reboot()
    product.settle({**AFTER, "always": "stopped"}, 120)
    product.fcm("start", "always")


@pytest.mark.one_release
def test_power_cut(product, note):
    before = product.vms()
    boot_ids = {name: product.boot_id(name) for name in ("always", "usual")}
    product.host.run("sync")
    note(f"power cut and back in {product.host.power_cut():.1f} s")
    back(product, before, boot_ids)


@pytest.fixture(scope="module")
def usual(product):
    """The product with few VMs, for each costs time at each boot."""
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
def test_power_cut_in_create(usual, step):
    """Half a VM is none; one whose guest was coming up is whole, and its policy decides."""
    cut_in(usual, f"create/{step}", "fcm create --name new --image tiny --mem 96")
    if step == "guest":
        usual.settle({**ALONE, "new": "running"}, 120)
        assert usual.in_guest("new", "echo well") == "well\n"
        usual.fcm("destroy", "-f", "new")
    usual.settle(ALONE, 120)
    whole(usual)


@pytest.mark.one_release
def test_power_cut_in_destroy(usual):
    usual.create("doomed", "--restart", "no")
    cut_in(usual, "destroy/directory", "fcm destroy doomed")
    usual.settle(ALONE, 120)
    whole(usual)


@pytest.mark.one_release
def test_power_cut_in_stop(usual):
    cut_in(usual, "stop/quiet", "fcm stop usual")
    usual.settle({"usual": "stopped"}, 120)
    usual.fcm("start", "usual")
    assert usual.in_guest("usual", "cat /root/mine") == "usual\n"
