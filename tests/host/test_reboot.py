"""The host is shut down, or loses its power: VMs that shall run do so again, and nothing is half done."""
import pytest

import host as hosts
import product as products

RELEASES = hosts.RELEASES if hosts.WHOLE else ("bookworm",)
# name: (restart policy, state before, state after); each costs time at each boot
VMS = {
    "steady": ("unless-stopped" if hosts.FIRST else "always", "running", "running"),
    "once": ("no", "running", "stopped"),
    "resting": ("always", "stopped", "stopped"),
}
AFTER = {name: after for name, (_, _, after) in VMS.items()}
DROP_IN = "/etc/systemd/system/fcmd.service.d/fault.conf"


@pytest.fixture(scope="module")
def product(packaged, kernel_tar, tiny_tar):
    it = packaged
    it.install()
    it.add_assets(kernel_tar, tiny=tiny_tar)
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


def back(product, before, boot_id, wanted):
    """VMs are as `wanted` says, by name, and those of VMS among them what they were."""
    product.settle(wanted, 120)
    truth(product)
    now = product.vms()
    for name in VMS.keys() & wanted.keys():
        assert now[name]["ip"] == before[name]["ip"] and now[name]["desired"] == before[name]["desired"]
    assert product.in_guest("steady", "cat /root/mine") == "mine\n"
    assert product.boot_id("steady") != boot_id


def test_reboot(product, note):
    before, boot_id, count = product.vms(), product.boot_id("steady"), product.count("steady")
    note(f"reboot in {product.host.reboot():.1f} s")
    journal = product.host.run("journalctl -b -1 -u fcm-vms -o cat --no-pager").text.replace(" ", "")
    assert '"parked":2,"forced":0,"failed":0' in journal, journal
    back(product, before, boot_id, AFTER)
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


def cut_in(product, before, *commands):
    """The power goes while each of `commands` stands still at a step: (step, command)."""
    faults = " ".join(f"{step}:hang" for step, _ in commands)
    product.host.put(DROP_IN, f"[Service]\nEnvironment='FCM_FAULT={faults}'\n")
    product.host.run("systemctl daemon-reload; systemctl restart fcmd")
    product.settle(before)
    for number, (_, command) in enumerate(commands, 1):
        product.host.run(f"{command} >/dev/null 2>&1 & for i in $(seq 30); do "
                         f"test $(journalctl -o cat -u fcmd | grep -c 'fault injected') = {number} && exit; sleep 1; done; exit 1", timeout=90)
    product.host.run(f"rm {DROP_IN}; sync")
    return product.host.power_cut()


def test_power_cut(product, note):
    """In the middle of create, stop and destroy: half a VM is none, one whose guest was coming up is whole, and so is what was
    stopped; who had nothing to do with it runs again."""
    product.create("ending", "--restart", "always")
    before, boot_id = product.vms(), product.boot_id("steady")
    took = cut_in(product, {**AFTER, "ending": "running"},
                  ("create/vmm", "fcm create --image tiny --mem 96 --name half"), ("create/guest", "fcm create --image tiny --mem 96 --name new"),
                  ("stop/quiet", "fcm stop ending"), ("destroy/directory", "fcm destroy -f once"))
    note(f"power cut and back in {took:.1f} s")
    back(product, before, boot_id, {"steady": "running", "resting": "stopped", "new": "running", "ending": "stopped"})
    assert product.in_guest("new", "echo well") == "well\n"
    whole(product)
    product.fcm("start", "ending")
    assert product.in_guest("ending", "echo well") == "well\n"
