"""A real guest keeps the image that it was made with, whoever has the name now."""
import os
import subprocess
from pathlib import Path

import pytest
from oci import ext4_of


@pytest.fixture
def other_tiny(host):
    """tiny as an ext4 with one more file in it."""
    image, mark = host.work / "image.ext4", host.work / "mark"
    ext4_of(Path(os.environ["FCM_ASSETS"]) / "tiny.tar", image)
    mark.write_text("other\n")
    subprocess.run(["debugfs", "-w", "-R", f"write {mark} /etc/which", image], check=True, capture_output=True)
    return image.read_bytes()


def which(host, name):
    return host.api.post(f"/v1/vms/{name}/exec", {"cmd": ["cat", "/etc/which"]}).ok()["stdout"]


def test_a_replaced_name(host, api, other_tiny):
    before = api.get("/v1/image?ref=tiny").ok()["digest"]
    assert host.create("old", memory=96)["image_id"] == before
    now = api.post("/v1/images/import?name=tiny", other_tiny, headers={"Content-Type": "application/octet-stream"}).ok(201)["digest"]
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
