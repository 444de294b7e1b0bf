"""The real Firecracker boots our kernel in the host, and our agent answers over vsock. No product but kernel and image."""
import json
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from oci import ext4_of  # noqa: E402  pylint: disable=wrong-import-position

RELEASES = ("bookworm",)  # it is one program

HERE = Path(__file__).resolve().parent
FOLDER = "/srv/fc"
BOOTS = 2


@pytest.fixture(scope="module")
def guest(firecracker, kernel_tar, tiny_tar, tmp_path_factory):
    """A folder in the host with all that by_hand.py wants."""
    with tarfile.open(kernel_tar) as tar:
        for name in ("vmlinux", "initrd"):
            firecracker.put(f"{FOLDER}/{name}", tar.extractfile(name).read())
    image = tmp_path_factory.mktemp("image") / "image.ext4"
    ext4_of(tiny_tar, image)
    firecracker.put(f"{FOLDER}/image.ext4", image.read_bytes())
    firecracker.put(f"{FOLDER}/by_hand.py", (HERE / "by_hand.py").read_bytes())
    firecracker.run(f"mke2fs -q -t ext4 {FOLDER}/disk.ext4 64M")
    return firecracker


def by_hand(guest):
    steps = json.loads(guest.run(f"python3 -B {FOLDER}/by_hand.py {FOLDER}", timeout=120).out)
    assert "error" not in steps, f"{steps['error']}\nso far: {steps}\nconsole: {steps['console']}"
    return steps


def test_versions(firecracker):
    assert firecracker.run("firecracker --version").text.startswith("Firecracker v1.12.1\n")
    assert firecracker.run("jailer --version").text.startswith("Jailer v1.12.1\n")


def test_a_guest_boots_and_its_agent_answers(guest, note):
    boot_ids, times = set(), []
    for _ in range(BOOTS):
        steps = by_hand(guest)
        assert steps["version"] == "1.12.1"
        assert steps["hello"]["magic"] == "FCMA"
        assert steps["ping"]["ok"] == "1" and steps["ping"]["echo"] == "there"
        assert steps["ping"]["boot_id"] == steps["hello"]["boot_id"]
        assert steps["mount"]["ok"] == "1", steps["mount"]
        assert steps["power"]["ok"] == "1"
        assert steps["event"] == {"event": "power", "intent": "poweroff"}
        assert steps["status"] == 0, "a reset ends Firecracker with 0, whatever was meant"
        boot_ids.add(steps["hello"]["boot_id"])
        times.append(steps)
    assert len(boot_ids) == BOOTS
    for key in ("api_ms", "configured_ms", "started_ms", "hello_ms", "mount_ms", "power_ms"):
        values = sorted(t[key] for t in times)
        note(f"firecracker by hand, {key}: median {values[BOOTS // 2]:.0f} ({values[0]:.0f} to {values[-1]:.0f})")
