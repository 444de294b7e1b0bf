"""The contract of the drivers (tests/contract/vmm) where KVM works: QEMU with it, and the real Firecracker."""
import re

import host as hosts

# Firecracker is the same program on both releases; QEMU is 7.2 on bookworm, where test_switch.py runs it with KVM, too, and 10.0 on
# trixie. What FCM_ACCEPTANCE=whole tries beyond that takes ten minutes.
DRIVERS = "firecracker qemu-kvm" if hosts.WHOLE else "firecracker" if hosts.FIRST else "qemu-kvm"
# What is the same without KVM is tried there (tests/contract); here what a VM's life needs.
TESTS = "" if hosts.WHOLE else "life or soft_off or saved_and_loaded or jail or killed_vmm or recorded or auto or took_part"
FOLDER = "/srv/vmm"
CONTRACT = hosts.TOP / "tests/contract/vmm"


def test_contract(firecracker, kernel_tar, tiny_tar, note):
    for name in ("daemon/shim/fcm-shim", "daemon/shim/fcm-preload.so", "tests/contract/vmmdrive"):
        firecracker.put(f"{FOLDER}/build/{name}", (hosts.BUILD / name).read_bytes(), 0o755)
    for path in (*CONTRACT.glob("*.py"), CONTRACT / "calls.jsonl"):
        firecracker.put(f"{FOLDER}/tests/contract/vmm/{path.name}", path.read_bytes())
    firecracker.put(f"{FOLDER}/tests/oci.py", (hosts.TOP / "tests/oci.py").read_bytes())
    for path in (kernel_tar, tiny_tar):
        firecracker.put(f"{FOLDER}/assets/{path.name}", path.read_bytes())
    env = f"FCM_BUILD={FOLDER}/build FCM_ASSETS={FOLDER}/assets FCM_VMM_DRIVERS='{DRIVERS}'"
    done = firecracker.run(f"cd {FOLDER}/tests/contract/vmm && {env} python3 -B -m pytest -p no:cacheprovider -v -s -rs --durations=12 -k '{TESTS}' .",
                           timeout=1800 if hosts.WHOLE else 900, check=False)
    print(done.both)
    assert done.status == 0
    covered = re.search(r"^vmm contract: covered (.*)$", done.text, re.M)
    assert covered and covered[1] == DRIVERS
    note(f"vmm contract in the host: {covered[1]}, {done.text.splitlines()[-1].strip('= ')}")
    for line in re.findall(r"^note (.*)$", done.text, re.M):
        note(line)
