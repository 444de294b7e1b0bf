"""fcm-oci's job `import`: archives made here, by skopeo and by umoci, and what strangers may send instead.

Needs root, as the program does.
"""
import bz2
import gzip
import io
import json
import lzma
import os
import random
import subprocess
import sys
import tarfile
import threading
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import oci  # noqa: E402
from oci import DIRECTORY, docker_archive, layout, sha, symlink, tar  # noqa: E402

UID = 64125
ONE, TWO = tar([("one", b"1" * 5000)]), tar([("two", random.Random(1).randbytes(300000))])
CONFIG = {"Cmd": ["/x"]}

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def zstd(data):
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


class Import(oci.Job):
    """One run. The stream comes by a pipe, from a thread; `data` is bytes, or a file to send."""

    def __init__(self, path, data, here=None, shell=(), **plan):
        self.folder, layers, self.out = path / "dir", path / "layers", path / "out.ext4"
        self.folder.mkdir(exist_ok=True)
        layers.mkdir(exist_ok=True)
        for name, content in (here or {}).items():
            (layers / name).write_bytes(content)
        os.chown(self.folder, UID, UID)
        read, write = os.pipe()
        rows = {"job": "import", "uid": UID, "platform": "linux/amd64", "created": "2026-01-02T03:04:05Z", **plan}
        super().__init__(rows.items(), {oci.DIR: os.open(self.folder, os.O_RDONLY), oci.LAYERS: os.open(layers, os.O_RDONLY), oci.IN: read,
                                        oci.OUT: os.open(self.out, os.O_RDWR | os.O_CREAT | os.O_TRUNC)}, shell)
        self.sender = threading.Thread(target=oci.send, args=(write, data), daemon=True)
        self.sender.start()

    def files(self):
        return sorted(x.name for x in self.folder.iterdir())


def take(path, data, **plan):
    job = Import(path, data, **plan)
    answer = job.answer()
    assert "ok" in answer, answer
    return job, answer


def refused(path, data, code, text, **plan):
    answer = Import(path, data, **plan).answer()
    assert answer.get("code") == code and text in answer["error"] and answer["error"].isprintable(), answer
    return answer


def pack(folder):
    """As `tar c` does it, with ./ before the names."""
    return subprocess.run(["tar", "c", "-C", folder, "."], check=True, capture_output=True).stdout


def oci_archive(path, layers, config=None, change=None):
    image = layout(path / "layout", layers, config or CONFIG)
    if change:
        change(path / "layout")
    return image, pack(path / "layout")


# ---- each kind ----

PACKED = {"plain": bytes, "gzip": gzip.compress, "zstd": zstd, "xz": lzma.compress, "bzip2": bz2.compress}


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_oci(tmp_path, packed):
    image, data = oci_archive(tmp_path, [ONE, TWO, ONE])
    job, answer = take(tmp_path, packed(data))
    assert (answer["kind"], answer["id"], job.all["layer"]) == ("oci", image, [sha(ONE), sha(TWO), sha(ONE)])
    assert job.files() == sorted(["config.json", sha(ONE) + ".tar", sha(TWO) + ".tar"])
    assert sha((job.folder / "config.json").read_bytes()) == image and (job.folder / (sha(TWO) + ".tar")).read_bytes() == TWO
    assert "name" not in job.all  # "x" is no more than a tag


@pytest.mark.parametrize("link", [False, True])
def test_docker(tmp_path, link):
    image, data = docker_archive([ONE, TWO, ONE], CONFIG, ["app:1", "registry.example:5000/team/app:2", "app:1"], link)
    job, answer = take(tmp_path, data)
    assert (answer["kind"], answer["id"], job.all["layer"]) == ("docker", image, [sha(ONE), sha(TWO), sha(ONE)])
    assert job.all["name"] == ["docker.io/library/app:1", "registry.example:5000/team/app:2"]
    assert job.files() == sorted(["config.json", sha(ONE) + ".tar", sha(TWO) + ".tar"])


@pytest.mark.parametrize("kind, name", [("docker-archive", ":app:1"), ("oci-archive", ":app:1"), ("docker-archive", ""), ("oci-archive", "")])
def test_skopeo(tmp_path, kind, name):
    """The id is the same whatever it went through."""
    image = layout(tmp_path / "layout", [ONE, TWO, ONE], CONFIG)
    subprocess.run(["skopeo", "--insecure-policy", "copy", "-q", f"oci:{tmp_path}/layout:x", f"{kind}:{tmp_path}/archive{name}"], check=True)
    job, answer = take(tmp_path, (tmp_path / "archive").read_bytes())
    assert (answer["id"], job.all["layer"]) == (image, [sha(ONE), sha(TWO), sha(ONE)])
    assert job.all.get("name") == (["docker.io/library/app:1"] if name else None)


def test_umoci(tmp_path):
    """Its layers are gzip."""
    def umoci(*argv):
        subprocess.run(["umoci", *argv], check=True, capture_output=True)
    umoci("init", "--layout", tmp_path / "layout")
    umoci("new", "--image", f"{tmp_path}/layout:a/b:1")
    umoci("config", "--image", f"{tmp_path}/layout:a/b:1", "--architecture", "amd64", "--os", "linux")
    (tmp_path / "file").write_text("hello")
    for target in ("/etc/one", "/etc/two"):
        umoci("insert", "--image", f"{tmp_path}/layout:a/b:1", tmp_path / "file", target)
    umoci("gc", "--layout", tmp_path / "layout")
    job, answer = take(tmp_path, pack(tmp_path / "layout"))
    assert len(job.all["layer"]) == 2 and job.all["name"] == ["docker.io/a/b:1"]
    for layer in job.all["layer"]:
        data = (job.folder / f"{layer}.tar").read_bytes()
        assert sha(data) == layer and data[257:262] == b"ustar"


@pytest.mark.parametrize("packed", PACKED.values(), ids=PACKED)
def test_tree(tmp_path, packed):
    data = tar([("etc", b"", DIRECTORY), ("etc/os-release", b"ID=x\n"), ("zeros", bytes(1 << 20))])
    job, answer = take(tmp_path, packed(data), config=json.dumps({"Cmd": ["/bin/sh"], "Env": ["A=b"]}))
    assert (answer["kind"], job.all["layer"]) == ("tree", [sha(data)])
    assert job.files() == sorted(["config.json", sha(data) + ".tar"]) and (job.folder / (sha(data) + ".tar")).read_bytes() == data
    assert (job.folder / (sha(data) + ".tar")).stat().st_blocks * 512 < 1 << 16
    config = (job.folder / "config.json").read_bytes()
    assert sha(config) == answer["id"] and json.loads(config) == {
        "created": "2026-01-02T03:04:05Z", "architecture": "amd64", "os": "linux", "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"]},
        "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(data)]},
        "history": [{"created": "2026-01-02T03:04:05Z", "created_by": "fcm image import"}]}


def make_ext4(path, size="64M", *options):
    subprocess.run(["mke2fs", "-q", "-t", "ext4", *options, path, size], check=True, stdout=subprocess.DEVNULL)
    return path.read_bytes()


@pytest.mark.parametrize("options", [[], ["-b", "1024"], ["-O", "^64bit"], ["-O", "^extent,^64bit,^has_journal"]], ids=str)
def test_ext4(tmp_path, options):
    data = make_ext4(tmp_path / "fs", "64M", *options)
    job, answer = take(tmp_path, data)
    assert (answer["kind"], answer["id"], job.files()) == ("ext4", sha(data), []) and "layer" not in job.all
    assert job.out.read_bytes() == data and job.out.stat().st_blocks <= (tmp_path / "fs").stat().st_blocks + 64


def test_compressed_ext4(tmp_path):
    data = make_ext4(tmp_path / "fs")
    job, answer = take(tmp_path, zstd(data))
    assert answer["id"] == sha(data) and job.out.stat().st_size == 64 << 20


def test_layer_that_is_here(tmp_path):
    _, data = oci_archive(tmp_path, [ONE, TWO])
    job, _ = take(tmp_path, data, here={sha(TWO) + ".tar": TWO})
    assert job.files() == sorted(["config.json", sha(ONE) + ".tar"]) and "exists" in job.progress


def edit(name, change):
    """Change a file of JSON of a layout; what names it by its digest isn't changed."""
    def work(folder):
        path = folder / name
        value = json.loads(path.read_text())
        path.write_text(json.dumps(change(value) or value))
    return work


def test_an_index_for_several_platforms(tmp_path):
    """As buildx and containerd write one: an index in the layout's own, with attestations beside."""
    image = layout(tmp_path / "layout", [ONE], CONFIG)
    path = tmp_path / "layout/index.json"
    manifest = json.loads(path.read_text())["manifests"][0]
    manifest.pop("annotations")
    nested = json.dumps({"schemaVersion": 2, "manifests": [
        {**manifest, "digest": "sha256:" + "1" * 64, "platform": {"os": "linux", "architecture": "arm64"}},
        {**manifest, "digest": "sha256:" + "2" * 64, "platform": {"os": "unknown", "architecture": "unknown"}},
        {**manifest, "platform": {"os": "linux", "architecture": "amd64"}}]}).encode()
    (tmp_path / "layout/blobs/sha256" / sha(nested)).write_bytes(nested)
    path.write_text(json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.index.v1+json", "digest": "sha256:" + sha(nested), "size": len(nested),
         "annotations": {"io.containerd.image.name": "docker.io/library/app:1", "org.opencontainers.image.ref.name": "1"}}]}))
    job, answer = take(tmp_path, pack(tmp_path / "layout"))
    assert answer["id"] == image and job.all["name"] == ["docker.io/library/app:1"]


# ---- what strangers send ----

@pytest.mark.parametrize("data, text", [
    (b"", "it is empty"), (b"hello", "no image"), (b"\0" * 4096, "no image"), (b"QFI\xfb" + bytes(5000), "no image"),
    (gzip.compress(b"hello" * 1000), "no image"), (gzip.compress(tar([("x", b"y" * 9000)]))[:-20], "not a good archive"),
    (gzip.compress(TWO)[:1000], "not a good archive"), (zstd(TWO)[:-9], "not a good archive")], ids=range(8))
def test_no_image(tmp_path, data, text):
    refused(tmp_path, data, "invalid", text)


@pytest.mark.parametrize("change, text", [
    (lambda d: d[:1 << 20], "KiB, and the file 1024"), (lambda d: d + bytes(4096), "and the file"),
    (lambda d: d[:1024 + 0x60] + bytes([d[1024 + 0x60] | 4]) + d[1024 + 0x61:], "wasn't unmounted"),
    (lambda d: d[:1024 + 0x18] + b"\x06" + d[1024 + 0x19:], "mount"), (lambda d: d[:2000], "no image")], ids=range(5))
def test_ext4_refused(tmp_path, change, text):
    refused(tmp_path, change(make_ext4(tmp_path / "fs", "8M")), "invalid", text)


def in_blob(kind, change):
    """Change the manifest or config of a layout and all that names it by its digest but, with "config", the manifest's layers."""
    def work(folder):
        index = json.loads((folder / "index.json").read_text())
        blobs = folder / "blobs/sha256"
        manifest = json.loads((blobs / index["manifests"][0]["digest"][7:]).read_text())
        if kind == "config":
            config = json.loads((blobs / manifest["config"]["digest"][7:]).read_text())
            change(config)
            data = json.dumps(config).encode()
            (blobs / sha(data)).write_bytes(data)
            manifest["config"].update(digest="sha256:" + sha(data), size=len(data))
        else:
            change(manifest)
        data = json.dumps(manifest).encode()
        (blobs / sha(data)).write_bytes(data)
        index["manifests"][0].update(digest="sha256:" + sha(data), size=len(data))
        (folder / "index.json").write_text(json.dumps(index))
    return work


def blob_with(change):
    """Change the bytes of the layer that is there."""
    def work(folder):
        path = folder / "blobs/sha256" / sha(TWO)
        path.write_bytes(change(path.read_bytes()))
    return work


LIES = {
    "manifest's digest": (edit("index.json", lambda v: v["manifests"][0].update(digest="sha256:" + sha(TWO))), "invalid", "another size"),
    "manifest's size": (edit("index.json", lambda v: v["manifests"][0].update(size=5)), "invalid", "another size"),
    "manifest that is missing": (edit("index.json", lambda v: v["manifests"][0].update(digest="sha256:" + "0" * 64)), "invalid", "isn't in the archive"),
    "manifest's name": (edit("index.json", lambda v: v["manifests"][0].update(digest="sha256:../../../../etc/shadow")), "invalid", "no good digest"),
    "no manifest": (edit("index.json", lambda v: v.update(manifests=[])), "no_image", "linux/amd64"),
    "another platform": (edit("index.json", lambda v: v["manifests"][0].update(platform={"os": "linux", "architecture": "s390x"})), "no_image", "linux/amd64"),
    "two images": (edit("index.json", lambda v: v["manifests"].append({**v["manifests"][0], "digest": "sha256:" + "1" * 64})), "invalid", "several images"),
    "index of no JSON": (lambda f: (f / "index.json").write_text("{"), "bad_json", "index.json"),
    "huge index": (lambda f: (f / "index.json").write_text(" " * (5 << 20)), "too_large", "index.json"),
    "index that is a directory": (lambda f: ((f / "index.json").unlink(), (f / "index.json").mkdir()), "invalid", "is no file"),
    "index that is a link out": (lambda f: ((f / "index.json").unlink(), (f / "index.json").symlink_to("../../etc/passwd")), "invalid", "leads out"),
    "index that is a link to the host": (lambda f: ((f / "index.json").unlink(), (f / "index.json").symlink_to("/etc/passwd")), "invalid", "'etc/passwd' isn't"),
    "index that is a link to itself": (lambda f: ((f / "index.json").unlink(), (f / "index.json").symlink_to("index.json")), "invalid", "link to a link"),
    "layer's bytes": (blob_with(lambda d: d[:-1] + b"\1"), "invalid", "another size or digest"),
    "layer's size": (blob_with(lambda d: d + b"\0"), "invalid", "another size or digest"),
    "layer that is cut": (blob_with(lambda d: d[:-512]), "invalid", "another size or digest"),
    "layer that is missing": (lambda f: (f / "blobs/sha256" / sha(TWO)).unlink(), "invalid", "isn't in the archive"),
    "layer's digest": (in_blob("manifest", lambda m: m["layers"][0].update(digest="sha256:" + "A" * 64)), "invalid", "no good digest"),
    "layer's type": (in_blob("manifest", lambda m: m["layers"][0].update(mediaType="application/vnd.oci.image.layer.nondistributable.v1.tar")), "invalid", "type"),
    "129 layers": (in_blob("manifest", lambda m: m.update(layers=m["layers"] * 129)), "too_large", "129 layers"),
    "huge layer": (in_blob("manifest", lambda m: m["layers"][0].update(size=1 << 40)), "too_large", "layer has"),
    "fewer layers": (in_blob("config", lambda c: c["rootfs"].update(diff_ids=c["rootfs"]["diff_ids"] * 2)), "invalid", "the config 2"),
    "another diff_id": (in_blob("config", lambda c: c["rootfs"].update(diff_ids=["sha256:" + "3" * 64])), "invalid", "its tar has the digest"),
    "diff_id that is a path": (in_blob("config", lambda c: c["rootfs"].update(diff_ids=["sha256:../../x"])), "invalid", "diff_id"),
    "config of another machine": (in_blob("config", lambda c: c.update(architecture="arm64")), "invalid", "linux/amd64"),
}


@pytest.mark.parametrize("name", LIES)
def test_lie(tmp_path, name):
    change, code, text = LIES[name]
    _, data = oci_archive(tmp_path, [TWO], change=change)
    refused(tmp_path, data, code, text)


def docker(manifest=None, config=None, members=()):
    config = config if config is not None else json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + sha(ONE)]}}).encode()
    first = {"Config": "c.json", "RepoTags": ["a:1"], "Layers": ["l/layer.tar"]}
    manifest = json.dumps(manifest if manifest is not None else [first]).encode()
    return tar([("c.json", config), ("manifest.json", manifest), *members, ("l/layer.tar", ONE)])


DOCKER = {
    "two images": (docker([{"Config": "c.json", "Layers": ["l"]}] * 2), "invalid", "several images"),
    "no list": (docker({}), "invalid", "no config"),
    "empty": (docker([]), "invalid", "no config"),
    "numbers": (docker([{"Config": 1, "Layers": [2]}]), "invalid", "no config"),
    "no layer": (docker([{"Config": "c.json", "Layers": []}]), "invalid", "no layers"),
    "names up": (docker([{"Config": "../../etc/passwd", "Layers": ["l"]}]), "invalid", "leads out"),
    "names of the host": (docker([{"Config": "/etc/passwd", "Layers": ["l"]}]), "invalid", "isn't in the archive"),
    "129 layers": (docker([{"Config": "c.json", "Layers": ["l"] * 129}]), "too_large", "129 layers"),
    "other layers": (docker([{"Config": "c.json", "Layers": ["l/layer.tar"] * 2}]), "invalid", "2 layers"),
    "link out": (docker(members=[("l/layer.tar", b"", symlink("../../../etc/passwd"))]), "invalid", "leads out"),
    "link to the host": (docker(members=[("l/layer.tar", b"", symlink("/etc/passwd"))]), "invalid", "isn't in the archive"),
    "link in a circle": (docker(members=[("l/layer.tar", b"", symlink("../m/layer.tar")), ("m/layer.tar", b"", symlink("../l/layer.tar"))]), "invalid", "link to a link"),
    "hard link out": (docker(members=[("l/layer.tar", b"", {"type": tarfile.LNKTYPE, "linkname": "../x"})]), "invalid", "leads out"),
    "a device": (docker(members=[("l/layer.tar", b"", {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 5})]), "invalid", "is no file"),
    "another layer first": (docker(members=[("l/layer.tar", TWO)]), "invalid", "its tar has the digest"),
    "config of no JSON": (docker(config=b"x"), "bad_json", "config"),
    "huge config": (docker(config=b" " * (9 << 20)), "too_large", "c.json"),
    "a name with escapes": (docker([{"Config": "\x1b[31m", "Layers": ["l"]}]), "invalid", "isn't in the archive"),
}


@pytest.mark.parametrize("name", DOCKER)
def test_docker_lie(tmp_path, name):
    data, code, text = DOCKER[name]
    refused(tmp_path, data, code, text)


def test_docker_names(tmp_path):
    """What isn't a reference is none; so many and no more."""
    names = ["UPPER:1", "", "a b", "../x", "good:1", "x@sha256:" + "1" * 64, *(f"n{i}:1" for i in range(50))]
    job, _ = take(tmp_path, docker([{"Config": "c.json", "RepoTags": names, "Layers": ["l/layer.tar"]}]))
    assert job.all["name"] == ["docker.io/library/good:1", *(f"docker.io/library/n{i}:1" for i in range(31))]


def test_names_that_go_up_are_no_members(tmp_path):
    """`../manifest.json` is none of the archive's; with others it is a file system that merge refuses later."""
    data = tar([("../manifest.json", b"[]"), ("..", b"", DIRECTORY)])
    assert take(tmp_path, data)[1]["kind"] == "tree"


def test_cut_archive(tmp_path):
    """The stream ends in the middle of a layer, which comes before what says that it is one."""
    _, data = docker_archive([TWO], CONFIG, ["a:1"])
    refused(tmp_path, data[:200_000], "invalid", "not a good archive")


def test_huge_member(tmp_path):
    """One that says that it is larger than the whole archive."""
    huge = tarfile.TarInfo("huge")
    huge.size = 1 << 45
    refused(tmp_path, tar([("x", b"y")])[:1024] + huge.tobuf(tarfile.GNU_FORMAT) + b"x" * 4096, "invalid", "not a good archive")


@pytest.mark.parametrize("packed", [gzip.compress, zstd], ids=["gzip", "zstd"])
def test_layers_of_a_docker_archive_may_be_compressed(tmp_path, packed):
    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(TWO)]}}).encode()
    data = tar([("manifest.json", json.dumps([{"Config": "c", "Layers": ["l"]}]).encode()), ("c", config), ("l", packed(TWO))])
    job, _ = take(tmp_path, data)
    assert job.files() == sorted(["config.json", sha(TWO) + ".tar"]) and (job.folder / (sha(TWO) + ".tar")).read_bytes() == TWO


def zero_bomb(size):
    """A tar with a file of zeros, as gzip: its header, and then a stream that repeats."""
    info = tarfile.TarInfo("zeros")
    info.size = size
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb", compresslevel=1) as f:
        f.write(info.tobuf(tarfile.PAX_FORMAT))
        for _ in range(size >> 20):
            f.write(bytes(1 << 20))
        f.write(bytes(1024))
    return out.getvalue()


def test_bomb(tmp_path):
    """A layer of 1 GiB of zeros costs the disk nothing."""
    job, _ = take(tmp_path, zero_bomb(1 << 30))
    layer = job.folder / (job.all["layer"][0] + ".tar")
    assert layer.stat().st_size > 1 << 30 and layer.stat().st_blocks * 512 < 1 << 17


def test_many_members(tmp_path):
    """Beyond so many nobody looks: it is a file system then."""
    data = tar([*((f"f{i}", b"") for i in range(17000)), ("manifest.json", b"[]")])
    assert take(tmp_path, data)[1]["kind"] == "tree"


def test_config_is_for_a_tree(tmp_path):
    _, data = docker_archive([ONE], CONFIG, ["a:1"])
    assert refused(tmp_path, data, "invalid", "says itself", config='{"Cmd":["x"]}')["field"] == "config"


def test_mutations(tmp_path):
    """What is damaged anywhere is refused, or still right; the program never crashes."""
    image, data = docker_archive([ONE], CONFIG, ["app:1"])
    rng = random.Random(int(os.environ.get("FCM_SEED", "1")))
    for turn in range(60):
        broken = bytearray(data)
        for _ in range(rng.choice((1, 2, 8))):
            broken[rng.randrange(len(broken))] = rng.randrange(256)
        folder = tmp_path / str(turn)
        folder.mkdir()
        job = Import(folder, bytes(broken))
        answer = job.answer()
        assert answer, f"turn {turn}: no answer"
        if answer.get("kind") == "docker":
            assert sha((job.folder / "config.json").read_bytes()) == answer["id"]
            assert sha((job.folder / (job.all["layer"][0] + ".tar")).read_bytes()) == job.all["layer"][0] == sha(ONE)


# ---- around it ----

def test_nobody_waits(tmp_path):
    """It ends when the daemon does."""
    job = Import(tmp_path, zero_bomb(600 << 20))
    job.socket.recv(65536)
    job.socket.close()
    assert job.process.wait(20) == 1


def test_disk_full(tmp_path):
    (tmp_path / "small").mkdir()
    shell = ["unshare", "-m", "sh", "-c",
             f"mount -t tmpfs -o size=1m,uid={UID} none {tmp_path}/small && exec 4<{tmp_path}/small && exec \"$0\""]
    answer = Import(tmp_path, tar([("big", random.Random(3).randbytes(4 << 20))]), shell=shell).answer()
    assert answer["code"] == "no_space", answer


def test_links_that_were_planted(tmp_path):
    """What lies in its directory already isn't followed or written through."""
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (tmp_path / "dir").mkdir()
    os.symlink(victim, tmp_path / "dir/stream")
    assert "error" in Import(tmp_path, ONE).answer() and victim.read_text() == "mine"
