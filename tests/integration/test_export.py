"""fcm image export and history, fcm system df: what they say of an image is what other tools see in it."""
import io
import json
import os
import subprocess
import tarfile

import pytest
from conftest import tar_of
from oci import docker_archive, sha, tar

HOST = {"fake": True}
LOWER, UPPER = tar([("a", b"1" * 100000)]), tar([("b", b"2")])
CONFIG = {"Cmd": ["/x"], "Labels": {"a": "b"}}


@pytest.fixture(scope="module")
def image(host):
    """One with a layer that comes twice; its id."""
    digest, data = docker_archive([LOWER, UPPER, LOWER], CONFIG, ["app:1", "registry.example/app:2"])
    host.api.post("/v1/images/import", data).ok(201)
    yield digest
    host.destroy_all()
    host.api.delete(f"/v1/image?ref={digest}").ok()
    assert os.listdir(host.state_dir / "layers") == []


def export(api, query):
    answer = api.get(f"/v1/image/export?{query}")
    assert answer.status == 200, answer
    return answer.body


def test_archive(api, image):
    data = export(api, "ref=app:1")
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        names = archive.getnames()
        blobs = {name.rsplit("/", 1)[-1]: archive.extractfile(name).read() for name in names if name.startswith("blobs/sha256/")}
        index, manifest = (json.load(archive.extractfile(name)) for name in ("index.json", "manifest.json"))
    assert names[0] == "oci-layout" and len(set(names)) == len(names) and all(sha(blob) == name for name, blob in blobs.items())
    assert {image, sha(LOWER), sha(UPPER)} < set(blobs) and len(blobs) == 4
    assert [m["annotations"]["io.containerd.image.name"] for m in index["manifests"]] == ["docker.io/library/app:1"]
    assert manifest == [{"Config": f"blobs/sha256/{image}", "RepoTags": ["docker.io/library/app:1"],
                         "Layers": [f"blobs/sha256/{sha(x)}" for x in (LOWER, UPPER, LOWER)]}]


@pytest.mark.parametrize("kind, ref", [("oci-archive", ""), ("docker-archive", ""), ("docker-archive", ":docker.io/library/app:1"),
                                       ("oci-archive", ":docker.io/library/app:1")])
def test_skopeo_reads_it(host, api, image, kind, ref):
    """As either kind of archive; and what it says of it is the image."""
    (host.work / "archive").write_bytes(export(api, "ref=app:1"))
    said = subprocess.run(["skopeo", "--insecure-policy", "inspect", "--config", f"{kind}:{host.work}/archive{ref}"], check=True, capture_output=True,
                          text=True).stdout
    assert json.loads(said)["config"]["Cmd"] == ["/x"]
    subprocess.run(["rm", "-rf", host.work / "copy"], check=True)
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"{kind}:{host.work}/archive{ref}", f"dir:{host.work}/copy"], check=True)
    assert image in os.listdir(host.work / "copy")


def test_there_and_back(api, image):
    """All its names go with one that was asked for by its id."""
    data = export(api, f"ref={image[:12]}")
    assert api.post("/v1/images/import", data).ok(201)["added"] == ["docker.io/library/app:1", "registry.example/app:2"]
    assert api.post("/v1/images/import?name=x", data).ok(201)["digest"] == image
    api.delete("/v1/image?ref=x").ok()


def test_file_system(host, api, image):
    kept = (host.state_dir / "images" / image / "image.ext4").read_bytes()
    assert export(api, "ref=app:1&raw=1") == kept
    host.fcm("image", "export", "--raw", "-o", host.work / "raw.ext4", "app:1")
    assert (host.work / "raw.ext4").read_bytes() == kept


def test_an_image_without_layers(host, api):
    refused = api.get("/v1/image/export?ref=tiny")
    assert (refused.status, refused.code) == (409, "wrong_state") and "--raw" in refused.error["hint"]
    assert len(export(api, "ref=tiny&raw=1")) == 4 << 20
    assert api.get("/v1/image/history?ref=tiny").ok() == {"history": []}
    assert api.get("/v1/image/export?ref=nosuch").code == "no_image" and api.get("/v1/image/export").error["field"] == "ref"
    assert api.get("/v1/image/history?ref=nosuch").code == "no_image" and api.get("/v1/image/history").error["field"] == "ref"


def test_removed_in_the_middle(host, api):
    """What was begun becomes whole."""
    big = tar([("big", os.urandom(8 << 20))])
    digest, data = docker_archive([big], {}, ["big:1"])
    api.post("/v1/images/import", data).ok(201)
    with api.connect(False, 20) as sock:
        sock.sendall(f"GET /v1/image/export?ref=big:1 HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {api.token}\r\n\r\n".encode())
        got = sock.recv(100)
        api.delete("/v1/image?ref=big:1").ok()
        while piece := sock.recv(1 << 20):
            got += piece
    assert sha(big)[:20].encode() in got and got.endswith(b"\r\n0\r\n\r\n")


def test_history(api, image):
    steps = api.get("/v1/image/history?ref=app:1").ok()["history"]
    assert [s["layer"] for s in steps] == [sha(LOWER), sha(UPPER), sha(LOWER)] and [s["size"] for s in steps] == [len(LOWER), len(UPPER), len(LOWER)]
    config = {"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(LOWER), "sha256:" + sha(UPPER)]},
              "history": [{"created": "2020-01-01T00:00:00Z", "created_by": "one\x1b[31m"}, {"created_by": "two", "empty_layer": True},
                          {"created_by": "x" * 5000, "comment": "c"}]}
    text = json.dumps(config).encode()
    manifest = json.dumps([{"Config": "c", "Layers": ["l", "u"], "RepoTags": ["h:1"]}]).encode()
    made = api.post("/v1/images/import", tar([("manifest.json", manifest), ("c", text), ("l", LOWER), ("u", UPPER)])).ok(201)
    steps = api.get("/v1/image/history?ref=h:1").ok()["history"]
    assert [(s["created_by"][:6], s["comment"], s["layer"], s["size"]) for s in steps] == [
        ("xxxxxx", "c", sha(UPPER), len(UPPER)), ("two", "", None, 0), ("one?[3", "", sha(LOWER), len(LOWER))]
    assert len(steps[0]["created_by"]) < 2000 and steps[2]["created"] == "2020-01-01T00:00:00Z"
    api.delete(f"/v1/image?ref={made['digest']}").ok()


def df(api):
    answer = api.get("/v1/system/df").ok()
    assert answer["free"] > 0
    return {row.pop("type"): row for row in answer["df"]}


def test_df(host, api, image):
    before = df(api)
    assert before["images"]["count"] == 2 and before["layers"]["count"] == 2 and before["layers"]["active"] == 0
    assert before["layers"]["size"] == before["layers"]["reclaimable"] >= len(LOWER) + len(UPPER)
    assert before["vms"] == before["volumes"] == {"count": 0, "active": 0, "size": 0, "reclaimable": 0}
    api.post("/v1/vms", {"name": "one", "image": "app:1", "volumes": ["data:/srv"]}).ok(201)
    api.post("/v1/vms", {"name": "two", "image": "tiny"}).ok(201)
    api.post("/v1/vms/two/stop", {"time": 0}).ok()
    api.post("/v1/volumes", {"name": "unused", "size": 64}).ok(201)
    now = df(api)
    assert now["images"]["active"] == 2 and now["images"]["reclaimable"] == 0 and now["images"]["size"] == before["images"]["size"]
    assert now["layers"]["active"] == 2 and now["layers"]["reclaimable"] == 0
    assert (now["vms"]["count"], now["vms"]["active"]) == (2, 1) and 0 < now["vms"]["reclaimable"] < now["vms"]["size"]
    assert (now["volumes"]["count"], now["volumes"]["active"]) == (2, 1) and 0 < now["volumes"]["reclaimable"] < now["volumes"]["size"]
    text = host.fcm("system", "df").stdout
    assert text.splitlines()[0].split() == ["TYPE", "COUNT", "ACTIVE", "SIZE", "RECLAIMABLE"] and text.splitlines()[-1].split()[0] == "snapshots"
    host.destroy_all()
    for name in ("data", "unused"):
        api.delete(f"/v1/volumes/{name}").ok()
    assert df(api) == before
