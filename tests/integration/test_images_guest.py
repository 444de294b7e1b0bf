"""A real guest keeps the image that it was made with, whoever has the name now."""
import io
import os
import subprocess
import tarfile
from pathlib import Path

import pytest


@pytest.fixture
def other_tiny(host):
    """The tar of tiny with one more file in its file system."""
    image = host.work / "image.ext4"
    with tarfile.open(Path(os.environ["FCM_ASSETS"]) / "tiny.tar") as tar:
        image.write_bytes(tar.extractfile("image.ext4").read())
        facts = tar.extractfile("image.json").read()
    mark = host.work / "mark"
    mark.write_text("other\n")
    subprocess.run(["debugfs", "-w", "-R", f"write {mark} /etc/which", image], check=True, capture_output=True)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("image.ext4", image.read_bytes()), ("image.json", facts)):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def which(host, name):
    return host.api.post(f"/v1/vms/{name}/exec", {"cmd": ["cat", "/etc/which"]}).ok()["stdout"]


def test_a_replaced_name(host, api, other_tiny):
    before = api.get("/v1/image?ref=tiny").ok()["digest"]
    assert host.create("old", memory=96)["image_id"] == before
    now = api.put("/v1/images/tiny", other_tiny, headers={"Content-Type": "application/x-tar"}).ok(201)["digest"]
    assert now != before
    assert host.create("new", memory=96)["image_id"] == now
    assert (which(host, "old"), which(host, "new")) == ("", "other\n")
    api.post("/v1/vms/old/restart", {"time": 5}).ok()
    assert which(host, "old") == ""
    assert api.delete(f"/v1/image?ref={before}").code == "wrong_state"
    host.destroy_all()
    assert api.post("/v1/images/prune", {}).ok()["removed"] == [before]
    host.add_assets("tiny")
    assert api.post("/v1/images/prune", {}).ok()["removed"] == [now]
