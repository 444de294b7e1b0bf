"""A VM belongs to no driver: made under one and started under another it has its address and its disk."""
import pytest

import product as products

RELEASES = ("bookworm",)
CONFIG = "/etc/fcm/fcmd.conf"


@pytest.fixture(scope="module")
def product(firecracker, kernel_tar, tiny_tar):
    firecracker.install()
    firecracker.run("groupadd --system fcm; systemctl daemon-reload; systemctl start fcmd")
    it = products.Product(firecracker)
    it.add_assets(kernel_tar, tiny=tiny_tar)
    return it


def use(product, driver):
    product.host.put(CONFIG, f"vmm = {driver}\naccel = kvm\n")
    product.host.run("systemctl restart fcmd")


def boot(product, boot_ids):
    boot_id = product.boot_id("mover")
    boot_ids.append(f"{boot_id} test_switch mover")
    return boot_id


@pytest.mark.parametrize("one, other", [
    ("qemu", "firecracker"), pytest.param("firecracker", "qemu", marks=pytest.mark.whole)])
def test_from_one_driver_to_another_and_back(product, boot_ids, one, other):
    use(product, one)
    before = product.create("mover")
    assert (before["vmm"], before["accel"]) == (one, "kvm")
    product.in_guest("mover", f"echo made under {one} >/root/data")
    seen = {boot(product, boot_ids)}
    for number, driver in enumerate((other, one), 2):
        product.fcm("stop", "mover")
        use(product, driver)
        assert product.vm("mover")["state"] == "stopped"
        product.fcm("start", "mover")
        now = product.vm("mover")
        assert (now["vmm"], now["accel"], now["boots"]) == (driver, "kvm", number)
        for key in ("id", "ip", "mac", "uid", "host_key"):
            assert now[key] == before[key]
        assert product.in_guest("mover", "cat /root/data") == f"made under {one}\n"
        seen.add(boot(product, boot_ids))
    assert len(seen) == 3
    product.fcm("destroy", "mover")


def test_a_running_vm_keeps_its_driver(product, boot_ids):
    """Until it is started again, whatever the daemon would choose for a new one."""
    use(product, "qemu")
    before = product.create("mover")
    boot_id = boot(product, boot_ids)
    use(product, "firecracker")
    now = product.vm("mover")
    assert (now["state"], now["vmm"], now["vmm_pid"]) == ("running", "qemu", before["vmm_pid"])
    assert product.boot_id("mover") == boot_id
    product.fcm("restart", "mover")
    assert product.vm("mover")["vmm"] == "firecracker"
    assert boot(product, boot_ids) != boot_id
    product.fcm("destroy", "mover")
