"""fcm-oci's job `pull` against a registry on loopback that is made here and can misbehave.

Needs root, as the program does.
"""
import base64
import contextlib
import gzip
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests"))
import oci  # noqa: E402
from oci import sha  # noqa: E402

UID = 64124
IMAGE = "application/vnd.oci.image.manifest.v1+json"
GZIP = "application/vnd.oci.image.layer.v1.tar+gzip"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


def tar(name, data):
    return oci.tar([(name, data)])


def zstd(data):
    return subprocess.run(["zstd", "-c"], input=data, capture_output=True, check=True).stdout


def packed(data):
    return gzip.compress(data, mtime=0)


class Registry(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.host = f"127.0.0.1:{self.server_port}"
        self.manifests, self.blobs, self.seen, self.served = {}, {}, [], {}
        self.auth = None       # the Authorization that it wants
        self.challenge = ""
        self.redirect = {}     # digest -> URL
        self.cuts = {}         # digest -> bytes of each answer until it cuts; then whole ones
        self.ill = []          # statuses of the next answers
        self.ranges = True
        self.answers = True    # at /v2/
        self.hold = None       # called with the digest before a blob is sent
        threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True).start()

    def handle_error(self, *args):
        pass  # who is refused closes in the middle

    def blob(self, data):
        self.blobs[sha(data)] = data
        return {"digest": "sha256:" + sha(data), "size": len(data)}

    def image(self, *layers, tag="latest", arch="amd64", kind=GZIP, pack=packed, change=None):
        """Push one; returns its manifest's bytes. `layers` are tars."""
        config = {"os": "linux", "architecture": arch, "config": {"Cmd": ["/x"]},
                  "rootfs": {"type": "layers", "diff_ids": ["sha256:" + sha(x) for x in layers]}}
        manifest = {"schemaVersion": 2, "mediaType": IMAGE, "config": self.blob(json.dumps(config).encode()),
                    "layers": [{"mediaType": kind, **self.blob(pack(x))} for x in layers]}
        if change:
            change(manifest)
        data = json.dumps(manifest).encode()
        self.manifests[tag] = self.manifests["sha256:" + sha(data)] = data
        return data


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(key.replace("_", "-"), value)
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        r, auth = self.server, self.headers.get("Authorization")
        r.seen.append((self.path, auth))
        if self.path.startswith("/token"):
            want = "Basic " + base64.b64encode(b"ann:secret").decode()
            return self.answer(200, b'{"token":"t0ken"}') if auth == want else self.answer(401)
        if r.ill:
            return self.answer(r.ill.pop(0))
        if r.auth and auth != r.auth:
            return self.answer(401, WWW_Authenticate=r.challenge)
        if self.path == "/v2/":
            return self.answer(200 if r.answers else 404, b"{}")
        kind, name = self.path.split("/")[-2:]
        if kind == "manifests":
            data = r.manifests.get(name)
            return self.answer(200, data, Content_Type=IMAGE) if data is not None else self.answer(404)
        return self.blob(name.removeprefix("sha256:"))

    def blob(self, digest):
        r = self.server
        if digest in r.redirect:
            return self.answer(307, Location=r.redirect[digest])
        data, begin, status = r.blobs.get(digest), 0, 200
        if data is None:
            return self.answer(404)
        if r.hold:
            r.hold(digest)
        if r.ranges and (wanted := self.headers.get("Range")):
            begin, status = int(wanted.removeprefix("bytes=").rstrip("-")), 206
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - begin))
        self.end_headers()
        end = len(data)
        if r.cuts.get(digest):
            end = min(end, begin + r.cuts[digest].pop(0))
            self.close_connection = True
        self.wfile.write(data[begin:end])
        r.served[digest] = r.served.get(digest, 0) + end - begin


class Pull(oci.Job):
    """One run of the job."""

    def __init__(self, path, ref, here=None, insecure=(), mirrors=(), **plan):
        self.folder, layers = path / "dir", path / "layers"
        self.folder.mkdir()
        layers.mkdir(exist_ok=True)
        for name, data in (here or {}).items():
            (layers / name).write_bytes(data)
        os.chown(self.folder, UID, UID)
        rows = {"job": "pull", "uid": UID, "ref": ref, "platform": "linux/amd64", **plan}
        super().__init__([*rows.items(), *(("insecure", x) for x in insecure), *(("mirror", x) for x in mirrors)],
                         {oci.DIR: os.open(self.folder, os.O_RDONLY), oci.LAYERS: os.open(layers, os.O_RDONLY)})

    def files(self):
        return sorted(x.name for x in self.folder.iterdir())


@contextlib.contextmanager
def serving():
    one = Registry()
    yield one
    one.shutdown()
    one.server_close()


@pytest.fixture
def registry():
    with serving() as one:
        yield one


@pytest.fixture
def mirror():
    with serving() as one:
        yield one


ONE, TWO = tar("one", b"1" * 5000), tar("two", os.urandom(300000))


def pull(path, registry, name="a/b", **plan):
    job = Pull(path, f"{registry.host}/{name}", insecure=[registry.host], **plan)
    return job, job.answer()


def until(probe):
    deadline = time.monotonic() + 10
    while not probe() and time.monotonic() < deadline:
        time.sleep(0.02)


def refused(answer, code, text):
    assert answer.get("code") == code and text in answer["error"], answer


@pytest.mark.parametrize("pack", [packed, zstd, bytes])
def test_image(tmp_path, registry, pack):
    manifest = registry.image(ONE, TWO, ONE, pack=pack)
    job, answer = pull(tmp_path, registry)
    assert "ok" in answer, answer
    assert answer["digest"] == sha(manifest) and job.all["layer"] == [sha(ONE), sha(TWO), sha(ONE)]
    assert (job.folder / "manifest.json").read_bytes() == manifest
    assert sha((job.folder / "config.json").read_bytes()) == answer["id"]
    assert job.files() == sorted(["manifest.json", "config.json", sha(ONE) + ".tar", sha(TWO) + ".tar"])
    assert (job.folder / (sha(TWO) + ".tar")).read_bytes() == TWO
    assert {"waiting", "downloading", "extracted"} == set(job.progress) and job.progress.count("extracted") == 2


def test_index_and_digest(tmp_path, registry):
    other, mine = registry.image(ONE, arch="arm64"), registry.image(TWO)
    index = json.dumps({"schemaVersion": 2, "manifests": [
        {"mediaType": IMAGE, "digest": "sha256:" + sha(x), "size": len(x), "platform": {"os": "linux", "architecture": arch}}
        for x, arch in ((other, "arm64"), (mine, "amd64"))]}).encode()
    registry.manifests = {"sha256:" + sha(x): x for x in (other, mine, index)}
    job, answer = pull(tmp_path, registry, f"a/b@sha256:{sha(index)}")
    assert answer["digest"] == sha(index) and job.all["layer"] == [sha(TWO)]
    assert (job.folder / "manifest.json").read_bytes() == mine


def test_layer_that_is_here(tmp_path, registry):
    registry.image(ONE, TWO)
    job, answer = pull(tmp_path, registry, here={sha(TWO) + ".tar": TWO})
    assert "ok" in answer and sha(TWO) + ".tar" not in job.files() and "exists" in job.progress
    assert sha(packed(TWO)) not in registry.served


def test_three_layers_at_a_time(tmp_path, registry):
    """Nobody gets an answer before three have asked, and a fourth doesn't ask before one has it."""
    layers = [tar(f"f{i}", os.urandom(20000)) for i in range(9)]
    three, asking, most = threading.Barrier(3), [], []

    def hold(digest):
        asking.append(digest)
        three.wait(10)
        most.append(len(asking))
        asking.remove(digest)

    registry.image(*layers)
    config = json.loads(registry.manifests["latest"])["config"]["digest"].removeprefix("sha256:")
    registry.hold = lambda digest: digest == config or hold(digest)
    job, answer = pull(tmp_path, registry)
    assert "ok" in answer, answer
    assert job.all["layer"] == [sha(x) for x in layers] and max(most) == 3 and len(registry.served) == 10
    for layer in layers:
        assert (job.folder / (sha(layer) + ".tar")).read_bytes() == layer


def test_first_failure_ends_the_others(tmp_path, registry):
    """A registry that is slow with one layer delays no word about another."""
    registry.image(ONE, TWO)
    bad, slow, over = sha(packed(ONE)), sha(packed(TWO)), threading.Event()
    registry.blobs[bad] = registry.blobs[bad][:-1] + b"\1"
    registry.hold = lambda digest: digest == slow and over.wait(50)
    begun = time.monotonic()
    job, answer = pull(tmp_path, registry)
    refused(answer, "invalid", "layer " + bad[:12])
    assert time.monotonic() - begun < 20 and job.files() == ["config.json", "manifest.json"]
    over.set()


@pytest.mark.parametrize("ranges", [True, False])
def test_cut_goes_on(tmp_path, registry, ranges):
    registry.image(TWO)
    registry.ranges = ranges
    data = packed(TWO)
    registry.cuts[sha(data)] = [70001, 1, 90000]
    job, answer = pull(tmp_path, registry)
    assert "ok" in answer and (job.folder / (sha(TWO) + ".tar")).read_bytes() == TWO
    again = registry.served[sha(data)] - len(data)
    assert again == 0 if ranges else again == 160002


def test_ill_for_a_while(tmp_path, registry):
    registry.image(ONE)
    registry.ill = [503, 429, 500]
    assert "ok" in pull(tmp_path, registry)[1]


def test_ill_for_ever(tmp_path, registry):
    registry.image(ONE)
    registry.ill = [503] * 99
    refused(pull(tmp_path, registry)[1], "unavailable", "answered 503")
    assert len(registry.seen) == 5


def test_basic(tmp_path, registry):
    registry.image(ONE)
    registry.auth, registry.challenge = "Basic " + base64.b64encode(b"ann:secret").decode(), 'Basic realm="x"'
    assert "ok" in pull(tmp_path, registry, user="ann", password="secret")[1]


@pytest.mark.parametrize("plan", [{}, {"user": "ann", "password": "wrong"}])
def test_basic_refused(tmp_path, registry, plan):
    registry.image(ONE)
    registry.auth, registry.challenge = "Basic " + base64.b64encode(b"ann:secret").decode(), 'Basic realm="x"'
    refused(pull(tmp_path, registry, **plan)[1], "forbidden", "credentials")


def test_bearer(tmp_path, registry):
    registry.image(ONE)
    registry.auth = "Bearer t0ken"
    registry.challenge = f'Bearer realm="http://{registry.host}/token",service="reg",scope="x"'
    assert "ok" in pull(tmp_path, registry, user="ann", password="secret")[1]
    asked = [path for path, _ in registry.seen if path.startswith("/token")]
    assert asked == ["/token?service=reg&scope=repository%3Aa%2Fb%3Apull"]


def test_token_server_elsewhere(tmp_path, registry):
    """A registry can't have credentials sent to an address of its choice."""
    registry.image(ONE)
    registry.auth, registry.challenge = "Bearer t", 'Bearer realm="https://127.0.0.1:1/token"'
    refused(pull(tmp_path, registry, user="ann", password="secret")[1], "forbidden", "isn't allowed")


def test_redirect_drops_credentials(tmp_path, registry, mirror):
    registry.image(ONE)
    registry.auth, registry.challenge = "Basic " + base64.b64encode(b"ann:secret").decode(), 'Basic realm="x"'
    digest = sha(packed(ONE))
    mirror.blob(packed(ONE))
    registry.redirect[digest] = f"http://{mirror.host}/elsewhere/sha256:{digest}"
    job = Pull(tmp_path, f"{registry.host}/a/b", insecure=[registry.host, mirror.host], user="ann", password="secret")
    assert "ok" in job.answer()
    assert mirror.seen == [(f"/elsewhere/sha256:{digest}", None)]


@pytest.mark.parametrize("challenge", ['Bearer realm="http://{}/token",service="s"', 'Basic realm="x"'])
def test_redirect_asks_for_credentials(tmp_path, registry, mirror, challenge):
    """Only the registry itself says where they go."""
    registry.image(ONE)
    digest = sha(packed(ONE))
    mirror.auth, mirror.challenge = "never", challenge.format(mirror.host)
    registry.redirect[digest] = f"http://{mirror.host}/elsewhere/sha256:{digest}"
    job = Pull(tmp_path, f"{registry.host}/a/b", insecure=[registry.host, mirror.host], user="ann", password="secret")
    refused(job.answer(), "forbidden", "doesn't give it to us (401)")
    assert mirror.seen == [(f"/elsewhere/sha256:{digest}", None)]
    assert {auth for _, auth in registry.seen} == {None}


@pytest.mark.parametrize("to", ["https://127.0.0.1:1/x", "https://localhost:1/x", "https://169.254.169.254/x", "https://[::1]/x",
                                "https://172.16.0.9/x", "http://127.0.0.1:1/x", "file:///etc/shadow"])
def test_redirect_refused(tmp_path, registry, to):
    registry.image(ONE)
    registry.redirect[sha(packed(ONE))] = to
    refused(pull(tmp_path, registry, pool="172.16.0.0/24")[1], "forbidden", "leads to an address")


def test_not_insecure(tmp_path, registry):
    registry.image(ONE)
    refused(Pull(tmp_path, f"{registry.host}/a/b").answer(), "forbidden", "isn't allowed")
    assert registry.seen == []


def change_layer(**values):
    return lambda manifest: manifest["layers"][0].update(values)


LIES = {
    "short": (change_layer(size=10), "too_large", "more than it may"),
    "long": (change_layer(size=9999), "invalid", "shorter"),
    "foreign": (change_layer(mediaType="application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"), "invalid", "type"),
    "digest": (change_layer(digest="sha256:../../../etc"), "invalid", "digest"),
    "gone": (change_layer(digest="sha256:" + "0" * 64), "no_image", "no such"),
    "schema1": (lambda m: m.update(schemaVersion=1), "invalid", "schema 2"),
    "many": (lambda m: m.update(layers=m["layers"] * 129), "too_large", "129 layers"),
    "fewer": (lambda m: m.update(layers=m["layers"] * 2), "invalid", "the config 1"),
    "huge": (lambda m: m.update(x="y" * (5 << 20)), "too_large", "more than it may"),
}


@pytest.mark.parametrize("name", LIES)
def test_lie(tmp_path, registry, name):
    change, code, text = LIES[name]
    registry.image(ONE, change=change)
    refused(pull(tmp_path, registry)[1], code, text)


def test_other_bytes(tmp_path, registry):
    registry.image(ONE)
    digest = sha(packed(ONE))
    registry.blobs[digest] = registry.blobs[digest][:-1] + b"\1"
    refused(pull(tmp_path, registry)[1], "invalid", "layer")


def test_other_tar(tmp_path, registry):
    registry.image(ONE, pack=lambda x: packed(x + b"\0"))
    refused(pull(tmp_path, registry)[1], "invalid", "its tar has the digest")


def test_other_manifest(tmp_path, registry):
    registry.manifests["sha256:" + "1" * 64] = registry.image(ONE)
    refused(pull(tmp_path, registry, "a/b@sha256:" + "1" * 64)[1], "invalid", "another digest")


# ---- mirrors ----

BASIC = "Basic " + base64.b64encode(b"ann:secret").decode()


def through(path, registry, mirror, **plan):
    job = Pull(path, f"{registry.host}/a/b", insecure=[registry.host, mirror.host], mirrors=[f"http://{mirror.host}"], **plan)
    return job, job.answer()


def test_mirror(tmp_path, registry, mirror):
    """All comes from there, and no credentials go there, whatever it wants."""
    registry.image(ONE, TWO)
    mirror.image(ONE, TWO)
    job, answer = through(tmp_path, registry, mirror, user="ann", password="secret", token="t")
    assert "ok" in answer and job.all["layer"] == [sha(ONE), sha(TWO)] and job.said == []
    assert registry.seen == [] and {auth for _, auth in mirror.seen} == {None}


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{}/token",service="s"'])
def test_mirror_that_wants_credentials(tmp_path, registry, mirror, challenge):
    registry.image(ONE)
    mirror.image(ONE)
    registry.auth, registry.challenge = BASIC, 'Basic realm="x"'
    mirror.auth, mirror.challenge = BASIC, challenge.format(mirror.host)
    job, answer = through(tmp_path, registry, mirror, user="ann", password="secret")
    assert "ok" in answer and len(job.said) == 1 and "wants credentials" in job.said[0]
    assert mirror.seen and {auth for _, auth in mirror.seen} == {None}


def test_mirror_down(tmp_path, registry, mirror):
    registry.image(ONE)
    mirror.shutdown()
    mirror.server_close()
    job, answer = through(tmp_path, registry, mirror)
    assert "ok" in answer and job.said[0].startswith(f"mirror http://{mirror.host}: it can't be asked: ")


def test_mirror_without_the_image(tmp_path, registry, mirror):
    registry.image(ONE)
    job, answer = through(tmp_path, registry, mirror)
    assert "ok" in answer and "no such image" in job.said[0]


def test_mirror_with_other_bytes(tmp_path, registry, mirror):
    """What it has right isn't fetched again."""
    manifest = registry.image(ONE, TWO)
    mirror.image(ONE, TWO)
    one, two = sha(packed(ONE)), sha(packed(TWO))
    mirror.blobs[two] = mirror.blobs[two][:-1] + b"\1"
    job = Pull(tmp_path, f"{registry.host}/a/b", insecure=[registry.host, mirror.host], mirrors=[f"http://{mirror.host}"])
    mirror.hold = lambda digest: digest == two and until(lambda: "extracted" in job.progress)
    answer = job.answer()
    assert "ok" in answer, answer
    assert answer["digest"] == sha(manifest) and len(job.said) == 1 and f"layer {two[:12]}" in job.said[0]
    assert (job.folder / (sha(TWO) + ".tar")).read_bytes() == TWO
    assert one not in registry.served and two in registry.served


def test_mirror_with_another_manifest(tmp_path, registry, mirror):
    """A digest is a digest there, too."""
    manifest = registry.image(ONE)
    mirror.manifests["sha256:" + sha(manifest)] = mirror.image(TWO)
    job = Pull(tmp_path, f"{registry.host}/a/b@sha256:{sha(manifest)}", insecure=[registry.host, mirror.host],
               mirrors=[f"http://{mirror.host}"])
    assert "ok" in job.answer() and "another digest" in job.said[0] and job.all["layer"] == [sha(ONE)]


def test_mirror_isnt_insecure(tmp_path, registry, mirror):
    """Only the plan's list allows an address of this host."""
    registry.image(ONE)
    mirror.image(ONE)
    job = Pull(tmp_path, f"{registry.host}/a/b", insecure=[registry.host], mirrors=[f"http://{mirror.host}", "https://127.0.0.1:1"])
    assert "ok" in job.answer() and mirror.seen == []
    assert "isn't https" in job.said[0] and "isn't allowed" in job.said[1]


def test_mirror_and_registry_fail(tmp_path, registry, mirror):
    refused(through(tmp_path, registry, mirror)[1], "no_image", f"{registry.host} has no such image")


# ---- the job check ----

def check(path, registry, **plan):
    job = Pull(path, "", job="check", registry=registry.host, insecure=[registry.host], **plan)
    return job.answer()


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Bearer realm="http://{}/token",service="s"'])
@pytest.mark.parametrize("password, code", [("secret", None), ("wrong", "forbidden"), (None, "forbidden")])
def test_check(tmp_path, registry, challenge, password, code):
    registry.auth = BASIC if challenge.startswith("Basic") else "Bearer t0ken"
    registry.challenge = challenge.format(registry.host)
    answer = check(tmp_path, registry, **({"user": "ann", "password": password} if password else {}))
    if code is None:
        assert "ok" in answer, answer
        assert [path for path, _ in registry.seen if "token" in path] in ([], ["/token?service=s"])
    else:
        refused(answer, code, "take these credentials" if password else "wants credentials")


def test_check_of_what_is_no_registry(tmp_path, registry):
    registry.answers = False
    refused(check(tmp_path, registry), "invalid", "no registry of images")


def test_nobody_waits(tmp_path, registry):
    """It ends when the daemon does."""
    registry.image(TWO)
    registry.ill = [503] * 2
    job = Pull(tmp_path, f"{registry.host}/a/b", insecure=[registry.host])
    job.socket.close()
    assert job.process.wait(30) in (1, -signal.SIGPIPE)
