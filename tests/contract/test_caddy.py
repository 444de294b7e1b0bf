"""daemon/caddy with a real Caddy: sites come and go, and whatever a user, a crash or Caddy itself does wrong, what was
served before is served after.

Needs root and the package caddy. The tests run in a network and a mount namespace of their own, with directories of
their own in place of /etc/caddy, /var/lib/caddy and /var/log/caddy.
"""
import ctypes
import http.server
import os
import pwd
import shutil
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import pytest

TOP = Path(__file__).resolve().parents[2]
BUILD = Path(os.environ.get("FCM_BUILD", TOP / "build"))
DRIVE = BUILD / "tests/contract/caddydrive"
CADDYFILE = Path("/etc/caddy/Caddyfile")
SITES = Path("/etc/caddy/fcm.d")
OWN = [Path("/etc/caddy"), Path("/var/lib/caddy"), Path("/var/log/caddy")]
ROOT_CA = Path("/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt")
CLONE_NEWNS, CLONE_NEWNET = 0x20000, 0x40000000

HAND = """{
	skip_install_trust
}
:8080 {
	respond "by hand {$GREETING}"
	log {
		output file /var/log/caddy/hand.log
	}
}
https://hand.example.com {
	tls internal
	respond "hand"
}
"""

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root"),
    pytest.mark.skipif(shutil.which("caddy") is None, reason="needs caddy"),
]


@pytest.fixture(scope="module", autouse=True)
def namespaces():
    libc = ctypes.CDLL(None, use_errno=True)
    before = [(os.open(f"/proc/self/ns/{name}", os.O_RDONLY | os.O_CLOEXEC), kind)
              for name, kind in (("net", CLONE_NEWNET), ("mnt", CLONE_NEWNS))]
    if libc.unshare(CLONE_NEWNS | CLONE_NEWNET):
        pytest.skip("can't make namespaces here")
    subprocess.run(["mount", "--make-rprivate", "/"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for directory in OWN:
        directory.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "fcm-test", directory], check=True)
    yield
    for fd, kind in before:
        libc.setns(fd, kind)
        os.close(fd)


class Upstream(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"vm {self.headers['Host']}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module", autouse=True)
def upstream(namespaces):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 8000), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield
    server.shutdown()
    server.server_close()


class UnixServer(http.server.ThreadingHTTPServer):
    address_family = socket.AF_UNIX

    def server_bind(self):
        self.socket.bind(self.server_address)
        os.chmod(self.server_address, 0o666)
        self.server_name, self.server_port = "localhost", 0

    def get_request(self):
        return super().get_request()[0], ("local", 0)


@pytest.fixture
def socket_path(caddy):
    """The same upstream at a unix socket that everybody may connect to."""
    path = Path("/var/lib/caddy/upstream.sock")
    server = UnixServer(str(path), Upstream)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield path
    server.shutdown()
    server.server_close()
    path.unlink()


class Caddy:
    """A Caddy that runs as its user, as the package's unit runs it."""

    def __init__(self):
        self.process = None

    def start(self):
        env = {"PATH": os.environ["PATH"], "HOME": "/var/lib/caddy", "GREETING": "hello world",
               "NOTIFY_SOCKET": "/nonexistent"}
        self.process = subprocess.Popen(
            ["setpriv", "--reuid=caddy", "--regid=caddy", "--clear-groups", "--inh-caps=+net_bind_service",
             "--ambient-caps=+net_bind_service", "caddy", "run", "--config", CADDYFILE, "--adapter", "caddyfile"],
            env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
            stderr=open("/var/log/caddy/stderr", "ab"))
        self.wait(lambda: curl("http://localhost:8080/") is not None)

    def wait(self, condition):
        end = time.monotonic() + 15
        while not condition():
            assert self.process.poll() is None, Path("/var/log/caddy/stderr").read_text()
            assert time.monotonic() < end
            time.sleep(0.02)

    def stop(self):
        if self.process:
            self.process.kill()
            self.process.wait()
            self.process = None


class Drive:
    def __init__(self, front=()):
        self.process = subprocess.Popen([*front, DRIVE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.lines = []

    def __call__(self, command):
        self.lines = []
        self.process.stdin.write(command + "\n")
        while True:
            line = self.process.stdout.readline().rstrip("\n")
            assert line, "caddydrive died"
            if not line.startswith("= "):
                return line
            self.lines.append(line[2:])

    def init(self, binary="caddy", caddyfile=CADDYFILE, user="caddy", tls="internal", acme_ca="-", admin="localhost:2019"):
        assert self(f"init {binary} {caddyfile} {user} {tls} {acme_ca} {admin}") == "ok"


@pytest.fixture
def drive():
    d = Drive()
    d.init()
    yield d
    d.process.stdin.close()
    assert d.process.wait(10) == 0  # a sanitizer would say otherwise


@pytest.fixture
def caddy():
    for directory in OWN:
        for entry in directory.iterdir():
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
    for directory in OWN[1:]:
        shutil.chown(directory, "caddy", "caddy")
    CADDYFILE.write_text(HAND)
    c = Caddy()
    c.start()
    yield c
    c.stop()
    uid = pwd.getpwnam("caddy").pw_uid
    strangers = [p for d in OWN[1:] for p in d.rglob("*") if p.lstat().st_uid != uid and p.name != "stderr"]
    assert strangers == [], "files that Caddy can't open at its next start"


def curl(url, *options):
    """The body, or None when there is no good answer."""
    r = subprocess.run(["curl", "-sf", "--max-time", "5", *options, url], capture_output=True, text=True)
    return r.stdout if r.returncode == 0 else None


def https(domain):
    return curl(f"https://{domain}/", "--cacert", ROOT_CA, "--resolve", f"{domain}:443:127.0.0.1")


def by_hand():
    """What the user's own Caddyfile serves, unharmed."""
    return (curl("http://localhost:8080/"), https("hand.example.com")) == ("by hand hello world", "hand")


A = "aaaaaaaa a.example.org 127.0.0.1 8000"
B = "bbbbbbbb b.example.org 127.0.0.1 8000"
IMPORT = "import /etc/caddy/fcm.d/*.caddy\n"


def tree():
    """All of /etc/caddy."""
    return {p: p.read_text() for p in Path("/etc/caddy").rglob("*") if p.is_file()}


def test_life(caddy, drive):
    assert by_hand() and https("a.example.org") is None
    assert drive(f"expose {A}") == "ok"
    assert https("a.example.org") == "vm a.example.org"
    assert by_hand()
    assert CADDYFILE.read_text() == HAND + "\n# The sites of fcm's VMs, one file each.\n" + IMPORT
    assert drive(f"expose {B}") == "ok"
    assert CADDYFILE.read_text().count("import") == 1
    assert https("a.example.org") == "vm a.example.org" and https("b.example.org") == "vm b.example.org"
    assert drive("unexpose aaaaaaaa") == "ok" and drive.lines == ["existed 1"]
    assert https("a.example.org") is None and https("b.example.org") == "vm b.example.org" and by_hand()
    assert drive("unexpose aaaaaaaa") == "ok" and drive.lines == ["existed 0"]
    assert drive("unexpose bbbbbbbb") == "ok"
    assert https("b.example.org") is None and list(SITES.iterdir()) == [] and by_hand()


def test_survives_restart_of_caddy(caddy, drive):
    assert drive(f"expose {A}") == "ok"
    caddy.stop()
    caddy.start()
    caddy.wait(lambda: https("a.example.org") == "vm a.example.org" and by_hand())


def test_same_again_does_nothing(caddy, drive):
    assert drive(f"expose {A}") == "ok"
    caddy.stop()  # a reload would fail
    assert drive(f"expose {A}") == "ok"
    assert drive(f"sync {A}") == "ok"


def test_another_caddy(caddy, drive):
    """A Caddy of the same user in another network isn't ours: its environment would empty the user's variables."""
    other = subprocess.Popen(["unshare", "-n", "setpriv", "--reuid=caddy", "--regid=caddy", "--clear-groups", "caddy", "run"],
                             env={"PATH": os.environ["PATH"], "HOME": "/var/lib/caddy", "GREETING": "of another"},
                             cwd="/", stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        caddy.stop()
        caddy.start()  # so that its pid is the later one
        assert drive(f"expose {A}") == "ok" and by_hand()
    finally:
        other.kill()
        other.wait()


def test_hidden_environment(caddy):
    """Without CAP_SYS_PTRACE a Caddyfile with variables is left alone; one without them works."""
    drive = Drive(["setpriv", "--bounding-set=-sys_ptrace"])
    drive.init()
    before = tree()
    assert drive(f"expose {A}").startswith("error config_invalid /etc/caddy/Caddyfile takes variables")
    assert tree() == before and by_hand()
    CADDYFILE.write_text(HAND.replace("{$GREETING}", "hello world"))
    assert drive(f"expose {A}") == "ok" and by_hand() and https("a.example.org")
    drive.process.stdin.close()
    assert drive.process.wait(10) == 0


def test_the_site_of_the_api(caddy, drive, socket_path):
    """A unix socket, beside the sites of VMs; some clients don't get through, which the second try shows to be the network's fault."""
    api = f"fcmd-api api.example.org {socket_path}"
    assert drive(f"expose {A}") == "ok" and drive(f"expose {api} 172.16.0.0/24") == "ok"
    assert https("api.example.org") == "vm api.example.org" and https("a.example.org") and by_hand()
    assert drive("expose bbbbbbbb api.example.org 127.0.0.1 8000").startswith("error domain_taken fcmd-api has the domain")
    assert drive(f"expose {api} 127.0.0.0/8") == "ok"
    assert https("api.example.org") is None and https("a.example.org")
    assert drive(f"sync {A} {api} 172.16.0.0/24") == "ok" and https("api.example.org")
    assert drive(f"sync {A}") == "ok"
    assert https("api.example.org") is None and sorted(p.name for p in SITES.iterdir()) == ["aaaaaaaa.caddy"]
    assert https("a.example.org") and by_hand()


def test_names_change_hands(caddy, drive):
    """In one go: what one gives up another may have."""
    assert drive(f"sync {A} {B}") == "ok"
    assert drive("sync aaaaaaaa b.example.org 127.0.0.1 8000 bbbbbbbb c.example.org 127.0.0.1 8000") == "ok"
    assert https("b.example.org") and https("c.example.org") and https("a.example.org") is None


def test_domain_taken(caddy, drive):
    assert drive(f"expose {A}") == "ok"
    before = tree()
    answer = drive("expose bbbbbbbb a.example.org 127.0.0.1 8000")
    assert answer.startswith("error domain_taken VM aaaaaaaa has the domain a.example.org")
    answer = drive("expose bbbbbbbb hand.example.com 127.0.0.1 8000")
    assert answer.startswith("error domain_taken a site of /etc/caddy/Caddyfile has the domain hand.example.com")
    assert tree() == before and by_hand()
    assert drive("expose aaaaaaaa other.example.org 127.0.0.1 8000") == "ok"
    assert https("other.example.org") and https("a.example.org") is None


def test_caddyfile_broken_by_hand(caddy, drive):
    assert drive(f"expose {A}") == "ok"
    good = CADDYFILE.read_text()
    CADDYFILE.write_text(good.replace("respond \"hand\"", "respnd \"hand\""))
    before = tree()
    answer = drive(f"expose {B}")
    assert answer.startswith("error host caddy adapt: ") and "respnd" in answer and "mend /etc/caddy/Caddyfile" in answer
    assert tree() == before
    assert https("a.example.org") and by_hand()
    assert drive("unexpose aaaaaaaa").startswith("error ")  # gone all the same, and Caddy hears of it later
    assert list(SITES.iterdir()) == [] and https("a.example.org")
    CADDYFILE.write_text(good)
    assert drive("sync") == "ok"
    assert https("a.example.org") is None and by_hand()
    assert drive(f"expose {B}") == "ok" and https("b.example.org")


def test_validate_says_no(caddy, drive):
    """`caddy adapt` takes a certificate that isn't there; `caddy validate` doesn't."""
    CADDYFILE.write_text(HAND + "cert.example.com {\n\ttls /nonexistent.pem /nonexistent.key\n}\n")
    before = tree()
    answer = drive(f"expose {A}")
    assert answer.startswith("error host caddy validate: ") and "nonexistent.pem" in answer
    assert tree() == before and by_hand()


def test_reload_refused(caddy, drive):
    """A port that another program has: nothing but the reload finds out. Caddy has begun the new servers by then: a
    connection that one of them took is lost when it goes back, and so, for a moment, are certificates (TLS alert 80)."""
    assert drive(f"expose {A}") == "ok"
    good = CADDYFILE.read_text()
    with socket.create_server(("127.0.0.1", 8099)):
        CADDYFILE.write_text("http://:8099 {\n\tbind 127.0.0.1\n\trespond x\n}\n" + good.replace(HAND.split("}\n")[0] + "}\n", ""))
        before = tree()
        answer = drive(f"expose {B}")
        assert answer.startswith("error host caddy reload: ") and "address already in use" in answer
        assert tree() == before
        caddy.wait(lambda: https("a.example.org") and by_hand())
        assert https("b.example.org") is None
        answer = drive("expose aaaaaaaa other.example.org 127.0.0.1 8000")
        assert answer.startswith("error host") and tree() == before
        caddy.wait(lambda: https("a.example.org"))
    CADDYFILE.write_text(good)
    assert drive(f"sync {A} {B}") == "ok"
    caddy.wait(lambda: https("a.example.org") and https("b.example.org") and by_hand())


def test_caddy_down(caddy, drive):
    caddy.stop()
    before = tree()
    answer = drive(f"expose {A}")
    assert answer.startswith("error host caddy reload: ") and "connection refused" in answer
    assert tree() == before
    caddy.start()
    assert drive(f"sync {A}") == "ok" and https("a.example.org") and by_hand()
    caddy.stop()
    assert drive("unexpose aaaaaaaa") == "ok" and drive.lines == ["existed 1"]
    caddy.start()
    assert https("a.example.org") is None and by_hand()


def test_new_log_file_is_caddys(caddy, drive):
    """`caddy validate` makes the log files of a configuration: by root they would be closed to Caddy at its next start."""
    caddy.stop()
    CADDYFILE.write_text(HAND.replace("hand.log", "new.log {\n\t\t\troll_disabled\n\t\t}"))
    assert "connection refused" in drive(f"expose {A}")
    assert Path("/var/log/caddy/new.log").owner() == "caddy"
    caddy.start()
    assert drive(f"expose {A}") == "ok" and by_hand()


def test_hanging_caddy(caddy, drive):
    caddy.process.send_signal(signal.SIGSTOP)
    before = tree()
    begun = time.monotonic()
    answer = drive(f"expose {A}")
    took = time.monotonic() - begun
    caddy.process.send_signal(signal.SIGCONT)
    assert answer.startswith("error timeout ") and 9 < took < 25
    assert tree() == before


def test_sync(caddy, drive):
    assert drive(f"sync {A} {B}") == "ok"
    assert https("a.example.org") and https("b.example.org")
    (SITES / "mine.caddy").write_text("mine.example.com {\n\ttls internal\n\trespond mine\n}\n")
    (SITES / "cccccccc.caddy.01234567.tmp").write_text("half")
    assert drive("sync bbbbbbbb c.example.org 127.0.0.1 8000") == "ok"
    assert sorted(p.name for p in SITES.iterdir()) == ["bbbbbbbb.caddy", "mine.caddy"]
    assert https("a.example.org") is None and https("b.example.org") is None
    assert https("c.example.org") and https("mine.example.com") == "mine" and by_hand()
    assert drive("sync") == "ok"
    assert https("c.example.org") is None and https("mine.example.com") == "mine" and by_hand()


def test_single_site_without_braces(caddy, drive):
    CADDYFILE.write_text("localhost\nrespond hi\n")
    before = tree()
    answer = drive(f"expose {A}")
    assert answer.startswith("error config_invalid ") and "without braces" in answer
    assert tree() == before and by_hand()


def test_admin_off(caddy, drive):
    CADDYFILE.write_text(HAND.replace("{\n", "{\n\tadmin off\n", 1))
    before = tree()
    answer = drive(f"expose {A}")
    assert answer.startswith("error config_invalid /etc/caddy/Caddyfile says 'admin off'")
    assert tree() == before


def test_admin_at_unix_socket(caddy, drive):
    caddy.stop()
    CADDYFILE.write_text(HAND.replace("{\n", "{\n\tadmin unix//var/lib/caddy/admin.sock\n", 1))
    caddy.start()
    assert drive(f"expose {A}") == "ok" and https("a.example.org") and by_hand()


def test_no_caddyfile(caddy, drive):
    CADDYFILE.unlink()
    assert drive(f"expose {A}") == "ok"
    assert CADDYFILE.read_text().endswith(IMPORT) and CADDYFILE.stat().st_mode & 0o777 == 0o644
    assert https("a.example.org") and curl("http://localhost:8080/") is None


def test_failure_removes_new_caddyfile(caddy, drive):
    caddy.stop()
    CADDYFILE.unlink()
    assert drive(f"expose {A}").startswith("error ")
    assert tree() == {}


def test_caddyfile_is_a_link_with_an_owner(caddy, drive):
    real = Path("/etc/caddy/real")
    real.mkdir(mode=0o755)
    CADDYFILE.rename(real / "Caddyfile")
    CADDYFILE.symlink_to("real/Caddyfile")
    os.chown(real / "Caddyfile", 0, pwd.getpwnam("caddy").pw_gid)
    (real / "Caddyfile").chmod(0o640)
    assert drive(f"expose {A}") == "ok" and https("a.example.org")
    st = (real / "Caddyfile").stat()
    assert CADDYFILE.is_symlink() and st.st_mode & 0o777 == 0o640 and st.st_gid == pwd.getpwnam("caddy").pw_gid


def test_absent(caddy, drive):
    before = tree()
    drive.init(binary="/usr/bin/no-such-caddy")
    answer = drive(f"expose {A}")
    assert answer.startswith("error unavailable Caddy is not installed") and "apt-get install caddy" in answer
    drive.init(binary="-")
    assert drive(f"expose {A}").startswith("error config_invalid public names are switched off")
    drive.init(user="no-such-user")
    answer = drive(f"expose {A}")
    assert answer.startswith("error config_invalid there is no user 'no-such-user'")
    assert tree() == before
    assert drive("unexpose aaaaaaaa") == "ok"


def test_bad_configuration(drive):
    for words in ("caddy /etc/caddy/Caddyfile caddy both - x", "caddy /etc/caddy/Caddyfile caddy - https://x{$Y} x",
                  "caddy Caddyfile caddy - - x"):
        assert drive(f"init {words}").startswith("error config_invalid ")


def test_describe_has_no_effect(caddy, drive):
    before = tree()
    assert drive(f"describe {A}") == "ok"
    assert drive.lines[0] == "write /etc/caddy/fcm.d/aaaaaaaa.caddy: a.example.org -> http://127.0.0.1:8000"
    assert tree() == before
