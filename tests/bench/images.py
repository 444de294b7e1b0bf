"""What images cost: a pull against skopeo's, layers to a disk against umoci and mke2fs, a run from the key to the prompt against the VM alone."""
import hashlib
import os
import random
import shutil
import subprocess
from pathlib import Path

import oci
from registry import Registry
from table import by_turns, row, timed_ms

REGISTRY = "127.0.0.1:5000"
CONFIG = f"insecure_registries = {REGISTRY}\n"
MERGER = 64123  # whom fcm-oci becomes
SHARE, FILES_MIB = Path("/usr/share/doc"), 24  # many small files of this machine's
LARGE_MIB = 48  # and few that are large, and don't shrink


def layers():
    """One with a shell, one of many files, one of large ones."""
    members, left = [], FILES_MIB << 20
    for path in sorted(SHARE.rglob("*")):
        if path.is_file() and not path.is_symlink() and left > 0:
            members.append((str(path).lstrip("/"), path.read_bytes()))
            left -= len(members[-1][1]) + 1024
    large = [(f"srv/{n}", random.Random(n).randbytes(LARGE_MIB << 18)) for n in range(4)]
    return [oci.base(), oci.tar(members), oci.tar(large)]


def bench_pull(host, registry, rounds):
    """Each into a place that has nothing of it."""
    name, target = f"{REGISTRY}/large:1", host.work / "skopeo"

    def ours(_):
        taken = timed_ms(lambda: host.fcm("pull", "--quiet", name))
        host.fcm("rmi", name)
        return taken

    def theirs(_):
        taken = timed_ms(lambda: host.run("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", f"docker://{name}",
                                       f"oci:{target}:x"))
        shutil.rmtree(target)
        return taken

    assert registry.ids["large:1"]
    row("fcm pull / skopeo copy to a layout", *by_turns(rounds, ours, theirs), 0.9)


def bench_merge(host, registry, data, rounds):
    """Layers to one file system: the job of fcm-oci against umoci's unpack and mke2fs -d."""
    folder, layout = host.work / "layers", registry.path / "large-1"
    folder.mkdir()
    digests = [hashlib.sha256(x).hexdigest() for x in data]
    for digest, one in zip(digests, data):
        (folder / f"{digest}.tar").write_bytes(one)

    def ours(_):
        out = os.open(host.work / "merged", os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        job = [("job", "merge"), ("uid", MERGER), *(("layer", x) for x in digests)]
        fds = {oci.LAYERS: os.open(folder, os.O_RDONLY | os.O_DIRECTORY), oci.OUT: out}
        return timed_ms(lambda: check(oci.Job(job, fds).answer()))

    def check(answer):
        assert answer.get("ok"), answer

    def theirs(_):
        bundle, disk = host.work / "bundle", host.work / "made"

        def make():
            subprocess.run(["umoci", "unpack", "--image", f"{layout}:x", bundle], check=True, capture_output=True)
            subprocess.run(["mke2fs", "-q", "-F", "-t", "ext4", "-d", bundle / "rootfs", disk, "400M"], check=True, capture_output=True)

        taken = timed_ms(make)
        shutil.rmtree(bundle)
        disk.unlink()
        return taken

    row("layers to a disk / umoci unpack and mke2fs -d", *by_turns(rounds, ours, theirs), 0.1)


def bench_run(host, bare, rounds):
    """To the prompt again. The same VM by hand is up when its agent answers, and then ends at once; it runs no program."""
    def theirs(_):
        return (bare.start() + bare.boot() + bare.end()) * 1e3

    ours, base = by_turns(rounds, lambda _: timed_ms(lambda: host.fcm("run", "--rm", "tiny", "true")), theirs)
    row("fcm run --rm tiny true / the same VM by hand, up and gone", ours, base, 1.1)


def bench_images(host, rounds):
    registry = Registry(host, host.work / "registry", REGISTRY)
    data = layers()
    registry.fill("large:1", data, oci.CONFIG)
    bench_pull(host, registry, rounds)
    bench_merge(host, registry, data, rounds)
    registry.stop()
