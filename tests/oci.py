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
from pathlib import Path

OCI = Path(os.environ.get("FCM_BUILD", Path(__file__).resolve().parents[1] / "build")) / "daemon/oci/fcm-oci"
SOCKET, DIR, LAYERS, IN, OUT = 3, 4, 5, 6, 7


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
    """A tar of [(name, bytes or {what a TarInfo has})]."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, what in members:
            info = tarfile.TarInfo(name)
            data = what if isinstance(what, bytes) else b""
            info.size, info.mode = len(data), 0o644
            for key, value in what.items() if isinstance(what, dict) else ():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def docker_archive(layers, config, tags, link=False):
    """What docker save of before 25 writes; with `link` a layer that comes twice is a link the second time."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": config,
                         "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(x) for x in layers]}}).encode()
    names, members, seen = [], [], {}
    for i, data in enumerate(layers):
        names.append(f"{i:064x}/layer.tar")
        first = seen.setdefault(sha(data), i)
        again = link and first != i
        members.append((names[-1], {"type": tarfile.SYMTYPE, "linkname": f"../{first:064x}/layer.tar"} if again else data))
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
