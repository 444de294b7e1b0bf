"""Images made here, as umoci, skopeo and docker write them, and one run of fcm-oci."""
import contextlib
import fcntl
import hashlib
import io
import json
import os
import socket
import subprocess
import tarfile
import tempfile
from pathlib import Path

OCI = Path(os.environ.get("FCM_BUILD", Path(__file__).resolve().parents[1] / "build")) / "daemon/oci/fcm-oci"
SOCKET, DIR, LAYERS, IN, OUT = 3, 4, 5, 6, 7


def send(fd, data):
    """All of it into a pipe of ours, unless nobody reads any more."""
    with os.fdopen(fd, "wb") as pipe:
        try:
            pipe.write(data)
        except BrokenPipeError:
            pass


class Job:
    """One run of the program: `plan` is a list of (key, value), `fds` {number: descriptor of ours}, which are closed here."""

    def __init__(self, plan, fds, shell=()):
        self.socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.send(b"".join(f"{k}={v}".encode() + b"\0" for k, v in plan))
        fds = {SOCKET: theirs.detach(), **fds}

        def place():
            high = {number: fcntl.fcntl(fd, fcntl.F_DUPFD, 64) for number, fd in fds.items()}
            for number, fd in high.items():
                os.dup2(fd, number)

        self.process = subprocess.Popen([*shell, OCI], preexec_fn=place, close_fds=False, stderr=subprocess.PIPE)
        for fd in fds.values():
            os.close(fd)

    def answer(self, timeout=60):
        """Its last word, a dict; {} when it ended without one. What it says several times is in .all, the rest in .progress and .said."""
        self.socket.settimeout(timeout)
        self.all, self.progress, self.said, last = {}, [], [], {}
        with contextlib.suppress(ConnectionError):
            while packet := self.socket.recv(65536):
                rows = [x.split("=", 1) for x in packet.decode(errors="surrogateescape").split("\0") if x]
                last = dict(rows)
                if "progress" in last:
                    self.progress.append(last["progress"])
                if "said" in last:
                    self.said.append(last["said"])
                if "ok" in last or "error" in last:
                    for key, value in rows:
                        self.all.setdefault(key, []).append(value)
                    break
        self.socket.close()
        self.process.wait(timeout)
        said = self.process.stderr.read().decode()
        assert "Sanitizer" not in said and "runtime error" not in said, said
        assert self.process.returncode in (0, 1), (self.process.returncode, said)
        return last if "ok" in last or "error" in last else {}


def sha(data):
    return hashlib.sha256(data).hexdigest()


def tar(members):
    """A tar of (name, bytes) or (name, bytes, {what a TarInfo has})."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, data, *more in members:
            info = tarfile.TarInfo(name)
            info.size, info.mode, info.mtime = len(data), 0o644, 1700000000
            for key, value in (more[0] if more else {}).items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def symlink(to):
    return {"type": tarfile.SYMTYPE, "linkname": to}


DIRECTORY, PROGRAM = {"type": tarfile.DIRTYPE, "mode": 0o755}, {"mode": 0o755}


def docker_archive(layers, config, tags, link=False):
    """What docker save of before 25 writes; with `link` a layer that comes twice is a link the second time."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": config,
                         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(x) for x in layers]}}).encode()
    names, members, seen = [], [], {}
    for i, data in enumerate(layers):
        names.append(f"{i:064x}/layer.tar")
        first = seen.setdefault(sha(data), i)
        again = link and first != i
        members.append((names[-1], b"", symlink(f"../{first:064x}/layer.tar")) if again else (names[-1], data))
    manifest = [{"Config": f"{sha(config)}.json", "RepoTags": tags, "Layers": names}]
    return sha(config), tar([*members, (f"{sha(config)}.json", config), ("manifest.json", json.dumps(manifest).encode())])


def layout(path, layers, config):
    """Make one with one image, named x; the image's id."""
    blobs = path / "blobs/sha256"
    blobs.mkdir(parents=True)

    def put(kind, data):
        digest = sha(data)
        (blobs / digest).write_bytes(data)
        return {"mediaType": f"application/vnd.oci.image.{kind}", "digest": "sha256:" + digest, "size": len(data)}

    tars = [put("layer.v1.tar", data) for data in layers]
    made = put("config.v1+json", json.dumps({"architecture": "amd64", "os": "linux", "config": config,
                                             "rootfs": {"type": "layers", "diff_ids": [t["digest"] for t in tars]}}).encode())
    manifest = put("manifest.v1+json", json.dumps({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
                                                   "config": made, "layers": tars}).encode())
    manifest["annotations"] = {"org.opencontainers.image.ref.name": "x"}
    (path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [manifest]}))
    (path / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    return made["digest"].removeprefix("sha256:")


def ext4_of(archive, path, size="32M"):
    """Make an ext4 of what images/*/build wrote: an OCI archive of one layer."""
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["tar", "-xf", archive, "-C", folder], check=True)
        blobs = Path(folder) / "blobs/sha256"

        def blob(descriptor):
            return blobs / descriptor["digest"].removeprefix("sha256:")

        index = json.loads((Path(folder) / "index.json").read_text())
        layer, = json.loads(blob(index["manifests"][0]).read_text())["layers"]
        (Path(folder) / "root").mkdir()
        subprocess.run(["tar", "-xf", blob(layer), "-C", f"{folder}/root", "--xattrs", "--xattrs-include=security.*"], check=True)
        subprocess.run(["mke2fs", "-q", "-t", "ext4", "-d", f"{folder}/root", path, size], check=True, capture_output=True)


# ---- an image with a shell, to be run ----

APP = b'#!/bin/sh\n[ "$1" = sleep ] && { trap "echo stopped; exit 3" INT; echo ready; while :; do sleep 0.1; done; }\necho "$GREETING $* $(pwd) $(id -u):$(id -g)"\n'
CONFIG = {"Entrypoint": ["/bin/app"], "Cmd": ["hello"], "Env": ["GREETING=hi", "PATH=/bin"], "WorkingDir": "/srv", "User": "web", "StopSignal": "SIGINT"}


def busybox():
    return Path("/bin/busybox").read_bytes()


def base():
    """Its lower layer."""
    return tar([("bin/busybox", busybox(), PROGRAM), *((f"bin/{x}", b"", symlink("busybox")) for x in ("sh", "id", "sleep", "cat", "ls")),
                ("etc/passwd", b"root:x:0:0::/:/bin/sh\nweb:x:1000:1001::/:/bin/sh\n"), ("etc/old", b"x")])


def change():
    """Its upper layer."""
    return tar([("bin/app", APP, PROGRAM), ("etc/.wh.old", b""), ("srv/f", b"content\n")])
