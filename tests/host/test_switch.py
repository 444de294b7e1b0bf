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


def is_itself(product, before, driver, boots):
    """All but its driver is what it was."""
    now = product.vm("mover")
    assert (now["vmm"], now["accel"], now["boots"]) == (driver, "kvm", boots)
    for key in ("id", "ip", "mac", "uid", "host_key"):
        assert now[key] == before[key]
    assert product.in_guest("mover", "cat /root/data") == f"made under {before['vmm']}\n"


@pytest.mark.parametrize("one, other", [
    ("qemu", "firecracker"), pytest.param("firecracker", "qemu", marks=pytest.mark.whole)])
def test_from_one_driver_to_another_and_back(product, boot_ids, one, other):
    """While it runs it keeps its driver, whatever the daemon would choose for a new one; started again, or from rest, it has that."""
    use(product, one)
    before = product.create("mover")
    assert (before["vmm"], before["accel"]) == (one, "kvm")
    product.in_guest("mover", f"echo made under {one} >/root/data")
    seen = [boot(product, boot_ids)]

    use(product, other)
    now = product.vm("mover")
    assert (now["state"], now["vmm"], now["vmm_pid"]) == ("running", one, before["vmm_pid"])
    assert product.boot_id("mover") == seen[0]
    product.fcm("restart", "mover")
    is_itself(product, before, other, 2)
    seen.append(boot(product, boot_ids))

    product.fcm("stop", "mover")
    use(product, one)
    assert product.vm("mover")["state"] == "stopped"
    product.fcm("start", "mover")
    is_itself(product, before, one, 3)
    seen.append(boot(product, boot_ids))
    assert len(set(seen)) == 3
    product.fcm("destroy", "mover")
