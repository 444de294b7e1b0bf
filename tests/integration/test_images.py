"""Images: which one a name means, what a VM keeps, what may be removed. The scripted VMM boots what no machine would; that a guest
keeps the file system it was made with is seen in test_images_guest.py."""
import json
import shutil
import subprocess

import pytest

HOST = {"fake": True}
OCTETS = {"Content-Type": "application/octet-stream"}


def put(host, name, size="4M"):
    """An image of that size, so that each size is another one."""
    image = host.work / f"{size}.ext4"
    if not image.exists():
        subprocess.run(["mke2fs", "-q", "-t", "ext4", image, size], check=True, stdout=subprocess.DEVNULL)
    return host.api.post(f"/v1/images/import?name={name}", image.read_bytes(), headers=OCTETS).ok(201)


def listed(api):
    return [(i["name"], i["tag"]) for i in api.get("/v1/images").ok()["images"] if i["kind"] == "image"]


def find(api, ref):
    return api.get(f"/v1/image?ref={ref}")


@pytest.fixture
def clean(host):
    """What a test makes goes; tiny and base stay."""
    yield
    host.destroy_all()
    for image in host.api.get("/v1/images").ok()["images"]:
        if image["kind"] == "image" and image["name"] not in ("tiny", "base"):
            host.api.delete(f"/v1/image?ref={image['digest'] if image['name'] == '<none>' else image['name'] + ':' + image['tag']}")
    host.api.post("/v1/images/prune", {}).ok()


def names_shown(host):
    return host.fcm("images", "-q").stdout.split()


def test_names_and_ids(host, api, clean):
    made = put(host, "mine", "5M")
    assert (made["name"], made["tag"], made["version"]) == ("mine", "latest", "")
    for ref in ("mine", "mine:latest", "localhost/mine", made["digest"], made["digest"][:8], "sha256:" + made["digest"]):
        assert find(api, ref).ok()["digest"] == made["digest"], ref
    assert find(api, "docker.io/library/mine").code == "no_image"
    assert find(api, "mine:1").code == "no_image"
    assert find(api, "").error["field"] == "ref"
    assert find(api, "Mine").error["field"] == "image"
    added = api.post("/v1/images/tag", {"image": "mine", "tag": "registry.example:5000/team/mine:2"}).ok(200)
    assert added["added"] == "registry.example:5000/team/mine:2"
    assert find(api, "registry.example:5000/team/mine:2").ok()["names"] == ["localhost/mine:latest", "registry.example:5000/team/mine:2"]
    assert {("mine", "latest"), ("registry.example:5000/team/mine", "2")} <= set(listed(api))
    assert api.post("/v1/images/tag", {"image": "mine", "tag": "UPPER"}).error["field"] == "tag"
    assert api.post("/v1/images/tag", {"image": "mine"}).error["field"] == "tag"


def test_an_image_in_use(host, api, clean):
    made = put(host, "mine", "5M")
    vm = api.post("/v1/vms", {"name": "user", "image": "mine"}).ok(201)
    assert (vm["image"], vm["image_id"]) == ("mine", made["digest"])
    refused = api.delete("/v1/image?ref=mine")
    assert (refused.status, refused.code) == (409, "wrong_state") and "user" in refused.error["message"]
    assert api.delete(f"/v1/image?ref={made['digest'][:12]}").code == "wrong_state"
    assert find(api, "mine").ok()["vms"] == ["user"]
    assert api.post("/v1/images/prune", {"all": False}).ok()["removed"] == []

    # another image takes the name: the VM keeps its own, which has no name now
    other = put(host, "mine", "6M")
    assert ("<none>", "") in listed(api)
    assert api.get("/v1/vms/user").ok()["image_id"] == made["digest"]
    api.post("/v1/vms/user/restart", {"time": 0}).ok()
    assert api.get("/v1/vms/user").ok()["image_id"] == made["digest"]
    assert api.post("/v1/vms", {"name": "later", "image": "mine"}).ok(201)["image_id"] == other["digest"]
    assert made["digest"] not in api.post("/v1/images/prune", {}).ok()["removed"]

    # by its id it is an image as any other
    assert api.post("/v1/vms", {"name": "third", "image": made["digest"][:10]}).ok(201)["image_id"] == made["digest"]
    for name in ("user", "third"):
        api.delete(f"/v1/vms/{name}?force=1").ok()
    assert api.post("/v1/images/prune", {}).ok()["removed"] == [made["digest"]]
    assert find(api, made["digest"]).code == "no_image"
    api.delete("/v1/vms/later?force=1").ok()
    gone = api.delete("/v1/image?ref=mine").ok()
    assert gone["untagged"] == ["localhost/mine:latest"] and gone["removed"] == [other["digest"]] and gone["bytes"] > 0


def test_commands(host, api, clean):
    put(host, "mine", "5M")
    assert "mine" in host.fcm("images").stdout
    host.fcm("image", "tag", "mine", "yours:2")
    assert json.loads(host.fcm("image", "inspect", "yours:2").stdout)["names"] == ["localhost/mine:latest", "localhost/yours:2"]
    assert {"mine", "yours:2"} < set(names_shown(host)) and "default" not in names_shown(host)
    api.post("/v1/vms", {"name": "user", "image": "yours:2"}).ok(201)
    done = host.fcm("rmi", "yours:2", "mine", "nosuch", check=False)
    assert done.returncode != 0 and "user" in done.stderr and "nosuch" in done.stderr
    assert ("yours", "2") not in listed(api) and ("mine", "latest") in listed(api)
    api.delete("/v1/vms/user?force=1").ok()
    host.fcm("rmi", "mine")
    assert ("mine", "latest") not in listed(api)
    put(host, "mine", "5M")
    put(host, "mine", "6M")
    for name in names_shown(host):  # an untagged one among them
        host.fcm("image", "inspect", name)
    assert host.fcm("image", "prune").stdout == "1 image\n"


def test_the_tree_of_an_older_fcm(host, api, clean):
    """Directories by name, and a VM that names one: images get their ids, the VM is pinned."""
    made = put(host, "mine", "5M")
    vm = api.post("/v1/vms", {"name": "old", "image": "mine"}).ok(201)
    api.post("/v1/vms/old/stop", {"time": 0}).ok()
    host.stop_daemon()
    images = host.state_dir / "images"
    for ref, digest in json.loads((host.state_dir / "tags.json").read_text())["tags"].items():
        name = ref.removeprefix("localhost/").removesuffix(":latest")
        shutil.copytree(images / digest, images / name)
        facts = images / name / "image.json"
        facts.write_text(json.dumps({**json.loads(facts.read_text()), "tag": "7", "sha256": digest}))
    for old in images.glob("[0-9a-f]" * 64):
        shutil.rmtree(old)
    (host.state_dir / "tags.json").unlink()
    config = host.state_dir / vm["id"] / "config.json"
    text = json.loads(config.read_text())
    assert text.pop("image_id") == made["digest"]
    config.write_text(json.dumps(text))
    host.start_daemon()
    assert api.get("/v1/vms/old").ok()["image_id"] == made["digest"]
    assert find(api, "mine").ok()["version"] == "7"
    api.post("/v1/vms/old/start", {}).ok()
    other = put(host, "mine", "6M")
    assert other["digest"] != api.get("/v1/vms/old").ok()["image_id"]
