"""fcm assets: releases from an HTTPS server that is good, broken or evil, into a state directory of the test's own.

Needs root, as the command does. The server's CA is made here and named in SSL_CERT_FILE.
"""
import contextlib
import fcntl
import hashlib
import http.server
import io
import json
import os
import pty
import random
import re
import signal
import ssl
import subprocess
import tarfile
import threading
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
FCM = Path(os.environ.get("FCM_BUILD", TOP / "build")) / "client/fcm"
VERSION = re.search(r'FIRECRACKER_VERSION "([^"]+)"', (TOP / "client/fetch.h").read_text())[1]
NAME = f"firecracker-v{VERSION}-x86_64.tgz"

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")


# ---- archives ----

def member(name, data=b"", **kind):
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.uid = len(data), 0o4777, 1234
    for key, value in kind.items():
        setattr(info, key, value)
    return info, data


def archive(version, firecracker=None, jailer=None, extra=()):
    """A release as the project packs it: a directory, the programs, and what we don't need."""
    top = f"release-v{version}-x86_64"
    noise = random.Random(version).randbytes(300_000)
    members = [
        member(top, type=tarfile.DIRTYPE), member(f"{top}/SHA256SUMS", b"theirs"), *extra,
        firecracker or member(f"{top}/firecracker-v{version}-x86_64", b"\x7fELF firecracker " + version.encode() + noise),
        jailer or member(f"{top}/jailer-v{version}-x86_64", b"\x7fELF jailer " + version.encode()),
        member(f"{top}/firecracker-v{version}-x86_64.debug", noise),
    ]
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        for info, data in members:
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# ---- the server ----

@pytest.fixture(scope="module")
def ca(tmp_path_factory):
    """A CA of the test's own and a certificate of it for localhost and 127.0.0.1."""
    folder = tmp_path_factory.mktemp("ca")

    def openssl(*argv):
        subprocess.run(["openssl", *argv], cwd=folder, check=True, capture_output=True)
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-subj", "/CN=test CA", "-days", "2")
    openssl("req", *curve, "-keyout", "key.pem", "-out", "request.pem", "-subj", "/CN=localhost")
    (folder / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\n")
    openssl("x509", "-req", "-in", "request.pem", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "names", "-out", "cert.pem")
    return folder


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        site = self.server.site
        wanted = self.headers["Range"]
        site.seen.append((self.path, wanted))
        act = site.acts.get(self.path)
        if callable(act):
            act = act(self)
        data = site.files.get(self.path) if act is None else act
        if data is None:
            self.answer(404, b"not here, but with <html> of its own" * 100)
        elif data != b"answered":
            self.send_file(data, int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and site.ranges else None)

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)
        return b"answered"

    def send_file(self, data, start):
        if start is None:
            self.answer(200, data)
        elif start >= len(data):
            self.answer(416, Content_Range=f"bytes */{len(data)}")
        else:
            self.answer(206, data[start:], Content_Range=f"bytes {start}-{len(data) - 1}/{len(data)}")

    def cut(self, data, n):
        """Promise all of what was asked for, send n bytes of it, close."""
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        rest = data[start:]
        self.send_response(206 if start else 200)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        self.wfile.write(rest[:n])
        self.close_connection = True
        return b"answered"

    def log_message(self, *_):
        pass


class Site:
    """files: path -> bytes; acts: path -> what to do instead; seen: the requests as (path, Range)."""

    def __init__(self, ca):
        self.files, self.acts, self.seen, self.ranges = {}, {}, [], True
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(ca / "cert.pem", ca / "key.pem")
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.site, self.server.daemon_threads = self, True
        self.server.handle_error = lambda *_: None
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.url = f"https://localhost:{self.server.server_port}/dl"

    def publish(self, version=VERSION, data=None, digest=None):
        data = archive(version) if data is None else data
        path = self.path(version)
        self.files[path] = data
        self.files[path + ".sha256.txt"] = f"{digest or sha256(data)}  {path.rsplit('/', 1)[1]}\n".encode()
        return data

    @staticmethod
    def path(version=VERSION):
        return f"/dl/v{version}/firecracker-v{version}-x86_64.tgz"

    def ranges_of(self, path=None):
        return [r for p, r in self.seen if p == (path or self.path())]

    def close(self):
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def site(ca):
    server = Site(ca)
    yield server
    server.close()


@pytest.fixture
def mirror(ca):
    server = Site(ca)
    yield server
    server.close()


# ---- the client ----

class Done:
    def __init__(self, status, out, err):
        self.status, self.out, self.err = status, out, err


class Client:
    def __init__(self, folder, ca, *mirrors):
        self.state, self.config = folder / "state", folder / "fcmd.conf"
        self.env = {"PATH": os.environ["PATH"], "HOME": str(folder), "LC_ALL": "C.UTF-8", "TERM": "xterm",
                    "SSL_CERT_FILE": str(ca / "ca.pem"),
                    **{k: v for k, v in os.environ.items() if k.startswith(("ASAN", "UBSAN", "LSAN"))}}
        self.set_mirrors(*mirrors)

    def set_mirrors(self, *urls):
        self.config.write_text(f"state_dir = {self.state}\nassets_mirror = {' '.join(urls)}\n")

    def argv(self, *argv):
        return [str(FCM), *map(str, argv), "--config", str(self.config)]

    def __call__(self, *argv, **env):
        done = subprocess.run(self.argv(*argv), env=self.env | env, capture_output=True, timeout=60)
        assert b"Sanitizer" not in done.stderr, done.stderr.decode()
        return Done(done.returncode, done.stdout.decode(), done.stderr.decode())

    def fails(self, *argv, status=1, **env):
        """The error, which is two lines: the cause, and what to do."""
        done = self("assets", *argv, **env)
        assert (done.status, done.out) == (status, ""), (done.status, done.out, done.err)
        cause, hint = done.err.splitlines()[-2:]
        assert cause.startswith("fcm: ") and re.match("     [a-zF-]", hint), done.err
        assert "fcm doctor" not in hint
        return done.err

    @property
    def folder(self):
        return self.state / "firecracker"

    def installed(self, version=VERSION):
        return self.folder / version / "firecracker"

    def parts(self):
        return sorted(p.name for p in (self.state / "assets").iterdir())

    def assert_nothing_installed(self):
        assert list(self.folder.iterdir()) == [] if self.folder.exists() else True


@pytest.fixture
def fcm(tmp_path, ca, site):
    if not os.access(FCM, os.X_OK):
        pytest.skip(f"no fcm at {FCM}: build it first")
    return Client(tmp_path, ca, site.url)


# ---- good ----

def test_download(fcm, site):
    site.publish()
    done = fcm("assets", "download", "firecracker")
    assert (done.status, done.out, done.err) == (0, f"firecracker {VERSION}\n", "")
    for program in ("firecracker", "jailer"):
        path = fcm.folder / VERSION / program
        st = path.lstat()
        assert (st.st_mode, st.st_uid, st.st_gid) == (0o100755, 0, 0)
        assert path.read_bytes().startswith(f"\x7fELF {program} {VERSION}".encode())
    assert sorted(p.name for p in (fcm.folder / VERSION).iterdir()) == ["SHA256SUMS", "firecracker", "jailer"]
    assert sorted(p.name for p in fcm.folder.iterdir()) == [VERSION, "current"]
    assert os.readlink(fcm.folder / "current") == VERSION
    assert (fcm.folder / VERSION).stat().st_mode & 0o7777 == 0o755
    subprocess.run(["sha256sum", "--strict", "-c", "SHA256SUMS"], cwd=fcm.folder / VERSION, check=True, capture_output=True)
    assert fcm.parts() == []


def test_umask(fcm, site):
    site.publish()
    subprocess.run(fcm.argv("assets", "download"), env=fcm.env, check=True, capture_output=True, umask=0o077)
    assert fcm.installed().stat().st_mode == 0o100755 and fcm.installed().parent.stat().st_mode & 0o777 == 0o755


def test_json_and_alias(fcm, site):
    site.publish()
    done = fcm("download-assets", "--json")
    assert done.status == 0 and json.loads(done.out) == {
        "name": "firecracker", "version": VERSION, "path": str(fcm.installed())}


def test_again_is_no_work(fcm, site):
    site.publish()
    fcm("assets", "download")
    os.unlink(fcm.folder / "current")
    site.seen.clear()
    assert fcm("assets", "download", "firecracker", f"v{VERSION}").status == 0
    assert site.seen == [] and os.readlink(fcm.folder / "current") == VERSION


def test_changed_one_is_mended_while_it_is_used(fcm, site):
    site.publish()
    fcm("assets", "download")
    whole = fcm.installed().read_bytes()
    with open(fcm.installed(), "r+b", buffering=0) as used:
        used.write(b"X")
        assert fcm("assets", "verify").status == 1
        assert fcm("assets", "download").status == 0
        assert os.pread(used.fileno(), 1, 0) == b"X"  # who runs it keeps it
    assert fcm.installed().read_bytes() == whole and fcm("assets", "verify").status == 0
    assert sorted(p.name for p in fcm.folder.iterdir()) == [VERSION, "current"]


def test_two_versions(fcm, site):
    for version in ("1.9.1", "1.13.0"):
        site.publish(version)
        assert fcm("assets", "download", "firecracker", version).status == 0
    rows = json.loads(fcm("assets", "ls", "--json").out)
    assert [(r["version"], r["current"]) for r in rows] == [("1.9.1", False), ("1.13.0", True)]
    assert rows[0]["sha256"] == sha256(fcm.installed("1.9.1").read_bytes())
    assert fcm("assets", "ls", "-q").out == "1.9.1\n1.13.0\n"
    assert fcm("assets", "download", "firecracker", "1.9.1").status == 0
    assert os.readlink(fcm.folder / "current") == "1.9.1"


def test_redirect_to_another_host(fcm, site, mirror):
    data = mirror.publish()
    port = mirror.server.server_port
    for path in (site.path(), site.path() + ".sha256.txt"):
        site.acts[path] = lambda h: h.answer(302, b"<a>", Location=f"https://127.0.0.1:{port}{h.path}")
    mirror.acts[mirror.path()] = lambda h, seen=[]: seen.append(1) or (h.cut(data, 100_000) if len(seen) == 1 else None)
    assert fcm("assets", "download").status == 0
    assert mirror.ranges_of() == [None, "bytes=100000-"]


def test_second_mirror(fcm, site, mirror):
    mirror.publish()
    fcm.set_mirrors("https://localhost:1/dl", site.url, mirror.url + "/")
    done = fcm("assets", "download")
    assert done.status == 0 and fcm.installed().exists()
    assert re.search(r"fcm: https://localhost:1/dl/\S+: .*\n     trying the next mirror", done.err)
    assert re.search(rf"fcm: {site.url}/\S+: there is no such file \(404\)\n     trying", done.err)


def test_progress_on_a_terminal(fcm, site):
    data = site.publish()

    def slowly(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        for at in range(0, len(data), 60_000):
            h.wfile.write(data[at:at + 60_000])
            time.sleep(0.15)
        return b"answered"
    site.acts[site.path()] = slowly
    master, slave = pty.openpty()
    child = subprocess.Popen(fcm.argv("assets", "download"), env=fcm.env, stdout=slave, stderr=slave, stdin=subprocess.DEVNULL)
    os.close(slave)
    shown = b""
    with contextlib.suppress(OSError):
        while piece := os.read(master, 65536):
            shown += piece
    os.close(master)
    assert child.wait(20) == 0
    assert re.search(rb"download firecracker \S+  \[=+ +\] +\d+%%  \d+ kB of %d kB" % round(len(data) / 1000), shown), shown
    assert shown.split(b"\x1b[K")[-1].startswith(b"firecracker " + VERSION.encode())


# ---- resuming ----

def test_cut_connection_is_resumed(fcm, site):
    data = site.publish()
    cuts = [50_000, 70_000, 1]
    site.acts[site.path()] = lambda h: h.cut(data, cuts.pop(0)) if cuts else None
    assert fcm("assets", "download").status == 0
    assert site.ranges_of() == [None, "bytes=50000-", "bytes=120000-", "bytes=120001-"]


def test_next_run_goes_on(fcm, site):
    data = site.publish()
    site.acts[site.path()] = lambda h: h.cut(data, 10_000)
    err = fcm.fails("download")
    assert "the connection broke" in err and "--file FILE" in err
    assert fcm.parts() == [NAME + ".part"] and len(site.ranges_of()) == 5
    fcm.assert_nothing_installed()
    site.acts.clear()
    site.seen.clear()
    assert fcm("assets", "download").status == 0
    assert site.ranges_of() == ["bytes=50000-"] and fcm.parts() == []


def test_killed_and_resumed(fcm, site):
    data = site.publish()
    half = threading.Event()

    def hang(h):
        h.send_response(200)
        h.send_header("Content-Length", str(len(data)))
        h.end_headers()
        h.wfile.write(data[:200_000])
        half.set()
        time.sleep(5)
        return b"answered"
    site.acts[site.path()] = hang
    child = subprocess.Popen(fcm.argv("assets", "download"), env=fcm.env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    part = fcm.state / "assets" / (NAME + ".part")
    assert half.wait(10)
    end = time.monotonic() + 10
    while time.monotonic() < end and (not part.exists() or part.stat().st_size < 200_000):
        time.sleep(0.01)
    second = fcm.fails("download", status=4)
    assert "another fcm assets download is at work" in second
    child.send_signal(signal.SIGKILL)
    child.wait(5)
    site.acts.clear()
    site.seen.clear()
    assert fcm("assets", "download").status == 0
    assert site.ranges_of() == ["bytes=200000-"]


@pytest.mark.parametrize("ranges", [True, False])
def test_part_of_something_else(fcm, site, ranges):
    """The whole is wrong, so it begins anew, once; a server that doesn't resume sends all of it at once."""
    site.publish()
    site.ranges = ranges
    (fcm.state / "assets").mkdir(parents=True)
    (fcm.state / "assets" / (NAME + ".part")).write_bytes(b"?" * 1000)
    assert fcm("assets", "download").status == 0
    assert site.ranges_of() == (["bytes=1000-", None] if ranges else ["bytes=1000-"])


def test_part_is_all_of_it(fcm, site):
    data = site.publish()
    (fcm.state / "assets").mkdir(parents=True)
    (fcm.state / "assets" / (NAME + ".part")).write_bytes(data)
    assert fcm("assets", "download").status == 0 and site.ranges_of() == []


def test_part_is_longer(fcm, site):
    data = site.publish()
    (fcm.state / "assets").mkdir(parents=True)
    (fcm.state / "assets" / (NAME + ".part")).write_bytes(data + b"more")
    assert fcm("assets", "download").status == 0
    assert site.ranges_of() == [f"bytes={len(data) + 4}-", None]


def test_wrong_range(fcm, site):
    data = site.publish()
    (fcm.state / "assets").mkdir(parents=True)
    (fcm.state / "assets" / (NAME + ".part")).write_bytes(data[:1000])
    site.acts[site.path()] = lambda h: h.answer(206, data[5:], Content_Range=f"bytes 5-{len(data) - 1}/{len(data)}")
    assert "another part than it was asked for" in fcm.fails("download")
    fcm.assert_nothing_installed()


def test_busy_server(fcm, site):
    site.publish()
    times = [0, 0]
    site.acts[site.path()] = lambda h: h.answer(503, b"later") if times and times.pop() == 0 else None
    assert fcm("assets", "download").status == 0 and len(site.ranges_of()) == 3


# ---- evil and broken ----

def test_tampered(fcm, site):
    data = bytearray(site.publish())
    data[1000] ^= 1
    site.files[site.path()] = bytes(data)
    err = fcm.fails("download")
    assert sha256(data) in err and "isn't what was published" in err and "nothing was installed" in err
    fcm.assert_nothing_installed()
    assert (fcm.state / "assets" / (NAME + ".part")).stat().st_size == 0
    assert len(site.ranges_of()) == 1


def test_tampered_mirror_then_a_good_one(fcm, site, mirror):
    mirror.publish()
    site.publish(digest="0" * 64)
    fcm.set_mirrors(site.url, mirror.url)
    done = fcm("assets", "download")
    assert done.status == 0 and "isn't what was published" in done.err


def test_truncated_without_a_length(fcm, site):
    data = site.publish()

    def close_early(h):
        h.send_response(200)
        h.end_headers()
        h.wfile.write(data[:-7])
        h.close_connection = True
        return b"answered"
    site.acts[site.path()] = close_early
    assert "isn't what was published" in fcm.fails("download")
    fcm.assert_nothing_installed()


def test_oversized(fcm, site):
    """A body without an end is left at 256 MiB; a digest that is none at 4 KiB."""
    data = site.publish()
    site.files[site.path() + ".sha256.txt"] += b"x" * 5000
    assert "is larger than 4096 bytes" in fcm.fails("download")
    site.publish(data=data)
    sent = []

    def endless(h):
        h.send_response(200)
        h.end_headers()
        for _ in range(400):
            h.wfile.write(bytes(1 << 20))
            sent.append(1)
        return b"answered"
    site.acts[site.path()] = endless
    assert "is larger than 268435456 bytes" in fcm.fails("download")
    assert len(sent) < 300 and (fcm.state / "assets" / (NAME + ".part")).stat().st_size == 0


@pytest.mark.parametrize("text", [b"", b"nothing", b"0" * 63 + b"  " + NAME.encode(), b"<html>" * 20,
                                  b"0" * 64 + b"  firecracker-v1.0.0-x86_64.tgz\n", b"0" * 64 + b"  " + NAME.encode() + b"x"])
def test_bad_digest_file(fcm, site, text):
    site.publish()
    site.files[site.path() + ".sha256.txt"] = text
    assert f"holds no sha256 of {NAME}" in fcm.fails("download")
    assert site.ranges_of() == []


def test_redirect_to_http_is_refused(fcm, site):
    site.publish()
    met = []

    class Plain(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            met.append(self.path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Plain) as plain:
        threading.Thread(target=plain.serve_forever, args=(0.05,), daemon=True).start()
        for path in (site.path(), site.path() + ".sha256.txt"):
            site.acts[path] = lambda h: h.answer(302, Location=f"http://127.0.0.1:{plain.server_port}{h.path}")
            assert "leads away from https, which is refused" in fcm.fails("download")
            del site.acts[path]
        plain.shutdown()
    assert met == []
    fcm.assert_nothing_installed()


def test_redirects_without_an_end(fcm, site):
    site.acts[site.path() + ".sha256.txt"] = lambda h: h.answer(302, Location=h.path)
    fcm.fails("download")
    assert len(site.seen) == 9


def test_unknown_version(fcm, site):
    err = fcm.fails("download", "firecracker", "1.99.0", status=3)
    assert f"cannot download firecracker 1.99.0: {site.url}/v1.99.0/" in err and "(404)" in err
    assert "versions are listed at https://github.com/" in err


def test_untrusted_certificate(fcm, site):
    site.publish()
    err = fcm.fails("download", SSL_CERT_FILE="/etc/ssl/certs/ca-certificates.crt")
    assert "the certificate isn't trusted" in err and "SSL_CERT_FILE" in err
    assert site.seen == []


def test_no_network(fcm, tmp_path, ca):
    """The project's own site, as the config has it, from where there is none."""
    fcm.config.write_text(f"state_dir = {fcm.state}\n")
    done = subprocess.run(["unshare", "-n", *fcm.argv("assets", "download", "firecracker")], env=fcm.env, capture_output=True,
                          timeout=60)
    cause, hint = done.stderr.decode().splitlines()
    assert done.returncode == 1
    assert cause.startswith(f"fcm: cannot download firecracker {VERSION}: https://github.com/firecracker-microvm/firecracker/"
                            f"releases/download/v{VERSION}/{NAME}.sha256.txt: ")
    assert hint == f"     or get {NAME} and its .sha256.txt on another machine, then: fcm assets download --file FILE"


TOP_DIR = f"release-v{VERSION}-x86_64"
PROGRAM = f"{TOP_DIR}/firecracker-v{VERSION}-x86_64"


@pytest.mark.parametrize("bad,words", [
    (member(PROGRAM, type=tarfile.SYMTYPE, linkname="/etc/shadow"), "isn't a file with something in it"),
    (member(PROGRAM, type=tarfile.LNKTYPE, linkname=f"{TOP_DIR}/SHA256SUMS"), "isn't a file with something in it"),
    (member(PROGRAM, type=tarfile.DIRTYPE), "isn't a file with something in it"),
    (member(PROGRAM, type=tarfile.CHRTYPE, devmajor=1, devminor=5), "isn't a file with something in it"),
    (member(PROGRAM), "isn't a file with something in it"),
    (member(f"{TOP_DIR}/other", b"x"), "Not found in archive"),
    (member(PROGRAM, bytes(65 << 20)), "is larger than 64 MiB"),
])
def test_bad_member(fcm, site, bad, words):
    site.publish(data=archive(VERSION, firecracker=bad))
    assert words in fcm.fails("download")
    fcm.assert_nothing_installed()


def test_not_an_archive(fcm, site):
    site.publish(data=b"hello" * 1000)
    assert "not in gzip format" in fcm.fails("download")
    fcm.assert_nothing_installed()


def test_other_members_are_never_made(fcm, site, tmp_path):
    target = tmp_path / "planted"
    extra = [member(f"../../../../../../{target}", b"x"), member(str(target), b"x"),
             member(f"{TOP_DIR}/firecracker", type=tarfile.SYMTYPE, linkname=str(target))]
    site.publish(data=archive(VERSION, extra=extra))
    assert fcm("assets", "download", TAR_OPTIONS="--exclude=*").status == 0  # isn't heard
    assert not target.exists()
    assert sorted(p.name for p in (fcm.folder / VERSION).iterdir()) == ["SHA256SUMS", "firecracker", "jailer"]


# ---- by hand ----

@pytest.fixture
def carried(tmp_path):
    folder = tmp_path / "usb"
    folder.mkdir()
    data = archive(VERSION)
    (folder / NAME).write_bytes(data)
    (folder / (NAME + ".sha256.txt")).write_text(f"{sha256(data)}  {NAME}\n")
    return folder / NAME


def test_file(fcm, site, carried):
    done = fcm("assets", "download", "firecracker", "--file", carried)
    assert done.status == 0, done.err
    assert fcm.installed().exists() and site.seen == [] and fcm.parts() == [] and carried.exists()


def test_file_names_its_version(fcm, tmp_path):
    other = tmp_path / "firecracker-v1.9.0-x86_64.tgz"
    data = archive("1.9.0")
    other.write_bytes(data)
    assert fcm("assets", "download", "--file", other, "--sha256", sha256(data).upper()).status == 0
    assert fcm.installed("1.9.0").exists()


def test_file_of_another_version(fcm, carried):
    err = fcm.fails("download", "firecracker", "1.9.0", "--file", carried, "--sha256", sha256(carried.read_bytes()))
    assert "Not found in archive" in err
    fcm.assert_nothing_installed()


def test_file_is_tampered(fcm, carried):
    carried.write_bytes(carried.read_bytes() + b"x")
    assert "isn't what was published" in fcm.fails("download", "--file", carried)
    fcm.assert_nothing_installed()
    assert fcm.parts() == []


def test_file_without_its_digest(fcm, carried):
    os.unlink(f"{carried}.sha256.txt")
    err = fcm.fails("download", "--file", carried)
    assert f"{carried}.sha256.txt: no such file" in err and "--sha256 HEX" in err


def test_file_is_not_there(fcm):
    assert "open /nonexistent: No such file" in fcm.fails("download", "--file", "/nonexistent")


def test_digest_given_counts(fcm, site):
    site.publish()
    assert "isn't what was published" in fcm.fails("download", "--sha256", "1" * 64)
    fcm.assert_nothing_installed()
    assert not [p for p, _ in site.seen if p.endswith(".txt")]


# ---- verify and ls ----

def statuses(fcm, *argv):
    done = fcm("assets", "verify", *argv, "--json")
    return done.status, {r["file"]: r["status"] for r in json.loads(done.out)}


def test_verify(fcm, site):
    site.publish()
    fcm("assets", "download")
    home = fcm.folder / VERSION
    assert statuses(fcm) == (0, {"firecracker": "ok", "jailer": "ok"})
    assert re.fullmatch(rf"FILE +VERSION +STATUS\nfirecracker +{VERSION} +ok\njailer +{VERSION} +ok\n", fcm("assets", "verify").out)
    whole = (home / "firecracker").read_bytes()
    (home / "firecracker").write_bytes(whole[:-1])
    (home / "jailer").unlink()
    assert statuses(fcm, "firecracker", VERSION) == (1, {"firecracker": "changed", "jailer": "missing"})
    (home / "firecracker").unlink()
    (home / "firecracker").symlink_to("/bin/true")
    assert statuses(fcm)[1]["firecracker"] == "changed"
    (home / "firecracker").unlink()
    os.mkfifo(home / "firecracker")
    assert statuses(fcm)[1]["firecracker"] == "changed"
    (home / "SHA256SUMS").unlink()
    assert statuses(fcm)[1]["SHA256SUMS"] == "missing"


def test_verify_what_is_not_there(fcm, site):
    assert "sudo fcm assets download firecracker" in fcm.fails("verify", status=3)
    site.publish()
    fcm("assets", "download")
    assert "firecracker 1.8.0 is not installed" in fcm.fails("verify", "firecracker", "1.8.0", status=3)


def test_ls(fcm, site):
    done = fcm("assets", "ls")
    assert (done.status, done.out.split()) == (0, [])
    site.publish()
    fcm("assets", "download")
    (fcm.folder / "stray").write_text("")
    (fcm.folder / "1.2").mkdir()
    assert fcm("assets", "ls").out.split() == ["VERSION", "CURRENT", "SHA256", VERSION, "yes", sha256(fcm.installed().read_bytes())]


# ---- refusals ----

def test_not_root(fcm, tmp_path, site):
    site.publish()
    tmp_path.chmod(0o755)
    done = subprocess.run(["setpriv", "--reuid=65534", "--clear-groups", *fcm.argv("assets", "download")], env=fcm.env,
                          capture_output=True, timeout=20)
    if done.returncode in (126, 127):
        pytest.skip("the build isn't readable for others")
    assert done.returncode == 5
    assert done.stderr.decode().splitlines() == ["fcm: only root may install firecracker",
                                                 "     sudo fcm assets download firecracker"]


@pytest.mark.parametrize("version", ["latest", "1.12", "1.12.1.1", "v", "../../etc", "1.7.0", "2.0.0", "01.12.1", "1.12.1 ", "-1.2.3", "+1.12.1"])
def test_bad_version(fcm, site, version):
    fcm.fails("download", "--", "firecracker", version, status=2)
    assert site.seen == []


@pytest.mark.parametrize("argv", [["nonsense"], ["download", "caddy"], ["download", "firecracker", VERSION, "more"],
                                  ["ls", "firecracker"], ["verify", "--file", "/x"], ["download", "--sha256", "12"],
                                  ["download", "--sha256", "g" * 64]])
def test_usage(fcm, argv):
    fcm.fails(*argv, status=2)


@pytest.mark.parametrize("url", ["http://localhost/dl", "https://", "ftp://x/", "https://a\"b/", "https:///etc"])
def test_bad_mirror(fcm, url):
    fcm.set_mirrors(url)
    assert "assets_mirror" in fcm.fails("download", status=2)


def test_state_dir_of_somebody_else(fcm, site):
    site.publish()
    fcm.state.mkdir()
    for spoil in (lambda: fcm.state.chmod(0o777), lambda: os.chown(fcm.state, 1234, 1234)):
        spoil()
        assert "others than root could change what is in it" in fcm.fails("download")
        fcm.state.chmod(0o755)
    assert list(fcm.state.iterdir()) == []


def test_link_in_the_way(fcm, site, tmp_path):
    """Where a link stands instead of the part, nothing is written through it."""
    site.publish()
    (fcm.state / "assets").mkdir(parents=True)
    (tmp_path / "victim").write_text("mine")
    (fcm.state / "assets" / (NAME + ".part")).symlink_to(tmp_path / "victim")
    fcm.fails("download")
    assert (tmp_path / "victim").read_text() == "mine"


def test_lock_is_let_go(fcm, site):
    site.publish()
    (fcm.state / "assets").mkdir(parents=True)
    fd = os.open(fcm.state / "assets", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    fcm.fails("download", status=4)
    os.close(fd)
    assert fcm("assets", "download").status == 0
