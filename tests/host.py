"""A whole host for one test, the demo or the bench: namespaces, a world outside, private directories, a daemon, a user.

A Host is a network and a mount namespace, held by a process that sleeps; with that process it is gone, so nothing of it
can be left on the real host. Inside, /etc /home /root /run /usr/local /var are overlays whose upper part is a tmpfs,
/var/lib/firecracker and /run/fcm are directories of the test's own folder, and the shipped binaries are installed to
/usr/local as `./bootstrap install` does. A veth leads to a second namespace, the world: it holds the default route, the
"internet" (10.98.0.1), a cloud's metadata address (169.254.169.254) and a web server on all of them.
"""
import contextlib
import ctypes
import http.client
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
UPLINK = "203.0.113.10"  # RFC 5737: public in form, nobody's in fact
DASHED = UPLINK.replace(".", "-")
WORLD = "203.0.113.1"
INTERNET = "10.98.0.1"
METADATA = "169.254.169.254"
USER, USER_ID = "ada", 61000
CLONE_NEWNET = 0x40000000

# Method, pattern, what a token must be good for, what it is about.
ROUTE_TABLE = re.findall(r'^X\("(\w+)",\s*"([^"]+)",\s*\w+,\s*(\w+),\s*(\w+),', (TOP / "common/routes.def").read_text(), re.M)
ROUTES = [(method, pattern) for method, pattern, _, _ in ROUTE_TABLE]

SETUP = r"""
set -eu
work=$1 build=$2
mount -t tmpfs -o mode=755 host "$work/host"
cd "$work/host"
for name in state run etc caddy; do
    mkdir "$name"
    mount --bind "$work/$name" "$name"
done
mkdir cgroup
mount --rbind /sys/fs/cgroup cgroup
mount -t sysfs sysfs /sys
mount --rbind cgroup /sys/fs/cgroup
for folder in etc home root run usr/local var; do
    mkdir -p "upper/$folder" "work/$folder"
    mount -t overlay -o "lowerdir=/$folder,upperdir=upper/$folder,workdir=work/$folder" host "/$folder"
done
mkdir -p /var/lib/firecracker /run/fcm /etc/fcm /etc/caddy
mount --bind state /var/lib/firecracker
mount --bind run /run/fcm
mount --bind etc /etc/fcm
mount --bind caddy /etc/caddy
rm -f /etc/resolv.conf
echo "nameserver $3" >/etc/resolv.conf
grep -q ^fcm: /etc/group || echo fcm:x:61001: >>/etc/group
echo "$4:x:$5:$5::/home/$4:/bin/bash" >>/etc/passwd
echo "$4:x:$5:" >>/etc/group
mkdir -p "/home/$4"
chown "$5:$5" "/home/$4"
ip link set lo up
# In the test host the product is installed already.
if [ -e "$build/cmake_install.cmake" ]; then
    cmake --install "$build" --prefix /usr/local >/dev/null
fi
"""

WEB = """
import http.server, sys
class Hello(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = ("hello " + self.client_address[0]).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args):
        pass
http.server.ThreadingHTTPServer(("0.0.0.0", 80), Hello).serve_forever()
"""


class Failed(AssertionError):
    """A command or a wait that didn't end well."""


def counter(path, every):
    """A shell command for a guest of busybox: a number in a line of its own each `every` seconds, from 1 on, in the background. The
    shell waits by itself: a sleep(1) each time would be more work than all else in a guest."""
    return (f"mkfifo /run/tick; (exec 3<>/run/tick; n=0; while :; do read -t {every} x <&3; n=$((n + 1)); echo $n >>{path}; done) "
            ">/dev/null 2>&1 </dev/null &")


def wait_for(what, probe, timeout=30.0, every=0.05):
    """Call probe() until it returns something true, and return that. `what` names it in the error."""
    deadline = time.monotonic() + timeout
    last = None
    while time.monotonic() < deadline:
        try:
            value = probe()
            if value:
                return value
        except (OSError, Failed, http.client.HTTPException) as error:
            last = error
        time.sleep(every)
    raise Failed(f"not within {timeout:g} s: {what}" + (f" (last: {last})" if last else ""))


def end(child, sig=signal.SIGTERM, grace=10):
    """End a process that we started, by its pid; SIGKILL after the grace."""
    if child is None or child.poll() is not None:
        return
    child.send_signal(sig)
    try:
        child.wait(grace)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


class Groups:
    """A cgroup of our own in each hierarchy, below the one that we are in: what a daemon makes is below its own group,
    so the cgroups of two hosts are never taken for each other's. On v2 it is the delegated group that fcmd wants."""

    def __init__(self, name):
        self.name, self.paths = name, []
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            mount = self.mount_of(controllers)
            if mount:
                group = mount / path.strip("/") / name
                with contextlib.suppress(OSError):
                    group.mkdir()
                    self.paths.append(group)

    @staticmethod
    def mount_of(controllers):
        for line in Path("/proc/self/mounts").read_text().splitlines():
            _, where, kind, options = line.split()[:4]
            if kind == "cgroup2" and not controllers:
                return Path(where)
            if kind == "cgroup" and controllers and set(controllers.split(",")) <= set(options.split(",")):
                return Path(where)
        return None

    def enter(self, argv):
        """The command line that runs argv in the groups; one that takes nobody (cpuset) is left out."""
        files = " ".join(f"{path}/cgroup.procs" for path in self.paths)
        return ["sh", "-c", f'for f in {files}; do echo $$ 2>/dev/null >$f; done; exec "$@"', "sh", *argv]

    def pids(self):
        """All that lives in the groups and below: also a VM whose daemon is gone and whose namespace is its own."""
        for path in self.paths:
            for procs in path.rglob("cgroup.procs"):
                with contextlib.suppress(OSError):
                    yield from map(int, procs.read_text().split())

    def remove(self):
        for path in self.paths:
            for folder, _, _ in os.walk(path, topdown=False):
                with contextlib.suppress(OSError):
                    os.rmdir(folder)


class Namespace:
    """A network namespace (and a mount namespace with it), alive as long as its keeper sleeps."""

    def __init__(self, mount=False):
        flags = ["--net"] + (["--mount", "--propagation", "private"] if mount else [])
        own = os.stat("/proc/self/ns/net").st_ino
        self.keeper = subprocess.Popen(["unshare", *flags, "sleep", "infinity"])  # pylint: disable=consider-using-with
        wait_for("a namespace", lambda: os.stat(f"/proc/{self.pid}/ns/net").st_ino != own
                 and os.readlink(f"/proc/{self.pid}/exe").endswith("sleep"), 5, 0.005)
        self.enter = ["nsenter", "-t", str(self.pid), "--net"] + (["--mount", "--wd=/"] if mount else [])

    @property
    def pid(self):
        return self.keeper.pid

    def run(self, *argv, check=True, **kwargs):
        done = subprocess.run([*self.enter, *map(str, argv)], capture_output=True, text=True, errors="replace",
                              check=False, **kwargs)
        if check and done.returncode != 0:
            raise Failed(f"{' '.join(map(str, argv))}: status {done.returncode}: {done.stdout}{done.stderr}")
        return done

    def connect(self, address, timeout=10):
        """A TCP connection made inside the namespace."""
        return self.inside(lambda: socket.create_connection(address, timeout))

    def inside(self, make):
        """Call make() in the network namespace: setns(2) is per thread, and what is opened there keeps it."""
        result = []

        def work():
            try:
                with open(f"/proc/{self.pid}/ns/net", encoding="ascii") as ns:
                    if ctypes.CDLL(None, use_errno=True).setns(ns.fileno(), CLONE_NEWNET) != 0:
                        raise OSError(ctypes.get_errno(), "setns")
                result.append(make())
            except OSError as error:
                result.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
        if isinstance(result[0], OSError):
            raise result[0]
        return result[0]

    def close(self):
        end(self.keeper, signal.SIGKILL)


class Elsewhere(Namespace):
    """The files of one namespace and the network of another: another machine where the same is installed."""

    def __init__(self, files, network):  # pylint: disable=super-init-not-called
        self.keeper = network.keeper
        self.enter = ["nsenter", "-t", str(files.pid), "--mount", "--wd=/", f"--net=/proc/{network.pid}/ns/net"]


class Answer:
    """One answer of the API."""

    def __init__(self, status, headers, body):
        self.status, self.headers, self.body = status, headers, body

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The error object; {} when the answer isn't one."""
        with contextlib.suppress(ValueError):
            return self.json.get("error", {})
        return {}

    @property
    def code(self):
        return self.error.get("code", "")

    def ok(self, *statuses):
        if self.status not in (statuses or (200, 201)):
            raise Failed(f"status {self.status}: {self.body[:2000]!r}")
        return self.json

    def __repr__(self):
        return f"<Answer {self.status} {self.body[:300]!r}>"


def route_of(method, path):
    """The row of common/routes.def that a request meets, for the record of what was seen."""
    path = path.split("?")[0]
    for route_method, pattern in ROUTES:
        regex = re.sub(r"\{\w+\}", "[^/]+", pattern)
        if route_method == method and re.fullmatch(regex, path):
            return f"{method} {pattern}"
    return f"{method} (no route)"


class Api:
    """Calls over the unix socket or over TCP inside the host, each recorded as (route, status, code), and held to `contract`
    (tests/openapi.py) where there is one."""

    seen = set()
    contract = None

    def __init__(self, host):
        self.host = host
        self.token = None

    def connect(self, tcp, timeout):
        if tcp:
            return self.host.ns.connect(("127.0.0.1", 7777), timeout)
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        sock.settimeout(timeout)
        folder = os.open(self.host.run_dir, os.O_PATH)  # sun_path holds 108 bytes
        try:
            sock.connect(f"/proc/self/fd/{folder}/fcmd.sock")
        except OSError:
            sock.close()
            raise
        finally:
            os.close(folder)
        return sock

    def call(self, method, path, body=None, *, token=..., headers=None, tcp=False, timeout=120):
        """`body`: bytes or a file go as they are, anything else as JSON. `token=None` sends none."""
        head = {"Host": "localhost"}
        token = self.token if token is ... else token
        if token is not None:
            head["Authorization"] = f"Bearer {token}"
        if body is not None and not isinstance(body, (bytes, str)) and not hasattr(body, "read"):
            body = json.dumps(body).encode()
            head["Content-Type"] = "application/json"
        head.update(headers or {})
        connection = http.client.HTTPConnection("localhost", timeout=timeout)
        connection.sock = self.connect(tcp, timeout)
        try:
            connection.request(method, path, body, {k: v for k, v in head.items() if v is not None})
            response = connection.getresponse()
            answer = Answer(response.status, response.headers, response.read())
        finally:
            connection.close()
        self.note(route_of(method, path), answer)
        return answer

    def note(self, route, answer):
        self.seen.add((route, answer.status, answer.code))
        if self.contract and (wrong := self.contract.complaint(route, answer)):
            raise Failed(wrong)

    def get(self, path, **kwargs):
        return self.call("GET", path, **kwargs)

    def post(self, path, body=None, **kwargs):
        return self.call("POST", path, body, **kwargs)

    def put(self, path, body=None, **kwargs):
        return self.call("PUT", path, body, **kwargs)

    def delete(self, path, **kwargs):
        return self.call("DELETE", path, **kwargs)

    def raw(self, data, tcp=True, timeout=10):
        """Send bytes as they are and return all that comes back."""
        with contextlib.closing(self.connect(tcp, timeout)) as sock:
            answer = b""
            with contextlib.suppress(OSError):
                sock.sendall(data)
                while chunk := sock.recv(65536):
                    answer += chunk
        self.note_raw(data, answer)
        return answer

    def note_raw(self, data, answer):
        """The same of bytes; one that isn't HTTP, or has no body of ours, isn't noted."""
        asked = re.match(rb"([A-Z]+) (/\S*) HTTP/1", data)
        head, _, body = answer.partition(b"\r\n\r\n")
        if status := re.match(rb"HTTP/1\.1 (\d+) ", head):
            headers = http.client.parse_headers(io.BytesIO(head.partition(b"\r\n")[2] + b"\r\n\r\n"))
            route = route_of(*(word.decode() for word in asked.groups())) if asked else "(no route)"
            self.note(route, Answer(int(status[1]), headers, body))


class Host:
    """See the head of this file. `config` is the text of fcmd.conf; None: there is no config file. Without `kvm` the
    daemon finds none and needs no second to try it."""

    def __init__(self, work, build, config=None, caddyfile=None, kvm=True):
        self.work, self.build, self.config = Path(work), Path(build), config
        self.state_dir, self.run_dir = self.work / "state", self.work / "run"
        self.caddy_dir, self.log_path = self.work / "caddy", self.work / "fcmd.log"
        for name in ("host", "state", "run", "etc", "caddy"):
            (self.work / name).mkdir(parents=True)
        if config is not None:
            (self.work / "etc/fcmd.conf").write_text(config)
        if caddyfile is not None:
            (self.caddy_dir / "Caddyfile").write_text(caddyfile)
        self.real = kvm
        self.daemon = self.caddy = self.watcher = None
        self.children, self.boot_ids = [], []
        self.api = Api(self)
        self.groups = Groups(f"host-{os.getpid()}-{time.monotonic_ns()}")
        self.ns, self.world = Namespace(mount=True), Namespace()
        self.elsewhere = Elsewhere(self.ns, self.world)
        try:
            self.ns.run("sh", "-c", SETUP, "setup", self.work, self.build, WORLD, USER, USER_ID)
            if not kvm and os.path.exists("/dev/kvm"):
                self.ns.run("mount", "--bind", "/dev/null", "/dev/kvm")
            self.make_uplink()
        except BaseException:
            self.close()
            raise

    # ---- what is around the daemon ----

    def make_uplink(self):
        run, world = self.ns.run, self.world.run
        run("ip", "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", self.world.pid)
        run("sysctl", "-qw", "net.ipv6.conf.up0.disable_ipv6=1")
        run("ip", "addr", "add", f"{UPLINK}/24", "dev", "up0")
        run("ip", "link", "set", "up0", "up")
        run("ip", "route", "add", "default", "via", WORLD)
        for address, device in ((f"{WORLD}/24", "eth0"), (f"{INTERNET}/32", "lo"), (f"{METADATA}/32", "lo")):
            world("ip", "addr", "add", address, "dev", device)
        world("ip", "link", "set", "lo", "up")
        world("ip", "link", "set", "eth0", "up")
        self.spawn([sys.executable, "-c", WEB], self.world)
        wait_for("the world's web server", lambda: self.world.connect((WORLD, 80), 1).close() is None)

    def spawn(self, argv, ns=None, **popen):
        """Start a process in the host (or in the world) that close() ends."""
        child = subprocess.Popen([*(ns or self.ns).enter, *map(str, argv)], **popen)
        self.children.append(child)
        return child

    @staticmethod
    def as_user(user, env=None):
        """What stands before a command line of root's or the user's, and its environment."""
        base = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME": f"/home/{user}" if user else "/root",
                "LANG": "C.UTF-8", "USER": user or "root", **(env or {})}
        return ["setpriv", f"--reuid={USER_ID}", f"--regid={USER_ID}", "--init-groups"] if user else [], base

    def run(self, *argv, user=None, check=True, timeout=180, env=None, ns=None, **kwargs):
        """Run a program in the host (or `elsewhere`), as root or as `user`."""
        drop, base = self.as_user(user, env)
        if "input" not in kwargs:
            kwargs["stdin"] = subprocess.DEVNULL
        return (ns or self.ns).run(*drop, *argv, check=check, timeout=timeout, env=base, **kwargs)

    def fcm(self, *argv, user=None, **kwargs):
        """The shipped client."""
        return self.run("fcm", *argv, user=user, **kwargs)

    def start_caddy(self):
        """A real Caddy as its own user, as Debian's unit runs it."""
        shutil.chown(self.caddy_dir, "caddy", "caddy")
        self.run("sh", "-c", "mkdir -p /var/lib/caddy /var/log/caddy; chown caddy: /var/lib/caddy /var/log/caddy")
        with open(self.work / "caddy.log", "ab") as log:
            self.caddy = self.spawn(["setpriv", "--reuid=caddy", "--regid=caddy", "--init-groups",
                                     "--inh-caps=+net_bind_service", "--ambient-caps=+net_bind_service",
                                     "env", "HOME=/var/lib/caddy", "caddy", "run", "--config", "/etc/caddy/Caddyfile"],
                                    stdout=log, stderr=log)
        wait_for("Caddy", lambda: self.ns.connect(("127.0.0.1", 2019), 1).close() is None, 15)

    def stop_caddy(self):
        end(self.caddy)
        self.caddy = None

    def caddy_ca(self):
        """A copy of the certificate of Caddy's own authority, as an administrator would hand it out."""
        path = "/var/lib/caddy/.local/share/caddy/pki/authorities/local/root.crt"
        text = wait_for("Caddy's own authority", lambda: self.run("cat", path, check=False).stdout, 20)
        copy = self.work / "ca.crt"
        copy.write_text(text)
        return copy

    CA = "/etc/caddy-ca.crt"

    def make_known(self, domain):
        """Programs find that name at this host's public address, and those that look at CA find Caddy's authority."""
        self.run("sh", "-c", f"echo {UPLINK} {domain} >>/etc/hosts; install -m 644 {self.caddy_ca()} {self.CA}")

    def fetch(self, url, *options, check=True, timeout=20):
        """curl from the world, which finds every name of ours at this host's public address."""
        domain = url.split("/")[2]
        return self.world.run("curl", "-sS", "--fail", "--max-time", "15", "--cacert", self.caddy_ca(), *options,
                              "--resolve", f"{domain}:443:{UPLINK}", url, check=check, timeout=timeout)

    # ---- the daemon ----

    def start_daemon(self, env=None, argv=("fcmd",), wait=True):
        with open(self.log_path, "ab") as log:
            self.daemon = self.spawn(self.groups.enter(argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                     env={**os.environ, "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
                                          **(env or {})})
        if wait:
            self.wait_daemon()
        return self.daemon

    def wait_daemon(self, timeout=20):
        def healthy():
            if self.daemon.poll() is not None:
                raise SystemExit(f"fcmd ended with status {self.daemon.returncode}:\n{self.log_tail()}")
            return self.api.get("/healthz", token=None, timeout=5).status == 200
        wait_for("fcmd", healthy, timeout)
        self.api.token = (self.state_dir / ".token").read_text().strip()

    def stop_daemon(self, sig=signal.SIGTERM):
        """SIGTERM drains; SIGKILL is the crash. The VMs run on in both cases."""
        end(self.daemon, sig, 30)
        status, self.daemon = self.daemon.returncode, None
        return status

    def restart_daemon(self, sig=signal.SIGTERM, **kwargs):
        self.stop_daemon(sig)
        return self.start_daemon(**kwargs)

    def log_tail(self, lines=40):
        with contextlib.suppress(OSError):
            return "\n".join(self.log_path.read_text(errors="replace").splitlines()[-lines:])
        return ""

    def add_user_token(self):
        """What root does for an ordinary user."""
        self.fcm("token", "create", "--for", USER)

    def add_assets(self, *names):
        """Hand cached images and the kernel (FCM_ASSETS/<name>.tar) to the daemon, as `fcm image build` does."""
        for name in names:
            with open(Path(os.environ["FCM_ASSETS"]) / f"{name}.tar", "rb") as file:
                method, path = ("PUT", "/v1/kernels/default") if name == "kernel" else ("POST", f"/v1/images/import?name={name}")
                size = os.fstat(file.fileno()).st_size
                self.api.call(method, path, file, headers={"Content-Type": "application/octet-stream", "Content-Length": str(size)}).ok()

    def layers(self):
        """The layers that are kept for other images than tiny."""
        own = {f"{s['layer']}.tar" for s in self.api.get("/v1/image/history?ref=tiny").ok()["history"]}
        return sorted({p.name for p in (self.state_dir / "layers").iterdir()} - own)

    # ---- VMs ----

    def vm(self, name):
        return self.api.get(f"/v1/vms/{name}").ok()

    def create(self, name, **spec):
        if spec.get("image") == "debian":  # systemd takes its time where others are at work
            spec.setdefault("ready", {"timeout": 200})
        vm = self.api.post("/v1/vms", {"name": name, "image": "tiny", **spec}, timeout=240).ok(201)
        if self.real:
            self.boot_ids.append((name, vm["boot_id"]))
        return vm

    def wait_state(self, name, state, timeout=60):
        return wait_for(f"{name} is {state}", lambda: (vm := self.vm(name))["state"] == state and vm, timeout)

    def ssh(self, name, command, user=USER, check=True, timeout=60, **kwargs):
        """A command in the guest through `fcm ssh`; its output."""
        done = self.fcm("ssh", name, "--", command, user=user, check=check, timeout=timeout, **kwargs)
        return done.stdout if check else done

    def boot_id(self, name):
        """The guest's boot id, read through ssh; the agent told the daemon the same one."""
        through_ssh = self.ssh(name, "cat /proc/sys/kernel/random/boot_id").strip()
        through_agent = self.vm(name)["boot_id"]
        if through_ssh != through_agent:
            raise Failed(f"{name}: boot id {through_ssh} by ssh, {through_agent} by the agent")
        self.boot_ids.append((name, through_ssh))
        return through_ssh

    def destroy_all(self):
        for vm in self.api.get("/v1/vms").ok()["vms"]:
            self.api.delete(f"/v1/vms/{vm['id']}?force=1")

    def remove_all(self):
        """VMs, snapshots and volumes."""
        self.destroy_all()
        for one in self.api.get("/v1/snapshots").ok()["snapshots"]:
            wait_for("nobody holds it", lambda one=one: self.api.delete(f"/v1/snapshots/{one['id']}").status == 200)
        for volume in self.api.get("/v1/volumes").ok()["volumes"]:
            self.api.delete(f"/v1/volumes/{volume['name']}").ok()

    # ---- the end ----

    # The daemon keeps these for the next VM: disk templates, what happened, Caddy's import folder with its own site, its log and
    # socket.
    KEPT = re.compile(r"^path (/var/lib/firecracker/(templates|events\.jsonl)\S*|/etc/caddy/fcm\.d(/fcmd-api\.caddy)?) |^process fcmd ")

    def residue(self):
        """What residue.py sees in this host, as a list of lines. It stays, for half of its work would be to start."""
        if not self.watcher:
            self.watcher = self.spawn(["/usr/bin/python3", "-B", TOP / "tests/residue.py", "--each-line", "--state", "/var/lib/firecracker",
                                       "--run", "/run/fcm", "--caddy", "/etc/caddy", "--cgroup", self.groups.name],
                                      stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        print(file=self.watcher.stdin, flush=True)
        lines = []
        while (line := self.watcher.stdout.readline()) != "\n":
            if not line:
                raise Failed("residue.py has ended")
            lines.append(line.rstrip("\n"))
        return sorted(line for line in lines if not self.KEPT.search(line))

    def check_residue(self, before, timeout=5):
        """Fail unless residue.py sees what it saw before; a deleted TAP needs some milliseconds to go."""
        def same():
            return self.residue() == before
        try:
            wait_for("nothing left", same, timeout, 0.2)
        except Failed:
            now = self.residue()
            left = [f"+ {line}" for line in now if line not in before] + [f"- {line}" for line in before if line not in now]
            raise Failed("left behind:\n" + "\n".join(left)) from None

    def close(self):
        """End everything that was started in the host, by pid, then the host itself."""
        if self.daemon:
            with contextlib.suppress(Exception):
                self.destroy_all()
            with contextlib.suppress(Exception):
                self.stop_daemon()
        for child in reversed(self.children):
            end(child)
        for pid in {*self.strangers(), *self.groups.pids()}:
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self.world.close()
        self.ns.close()
        self.groups.remove()
        for name in ("state", "run"):
            shutil.rmtree(self.work / name, ignore_errors=True)

    def strangers(self):
        """Processes that live on in this host's network namespace: VMs after a failed test."""
        netns = os.stat(f"/proc/{self.ns.pid}/ns/net").st_ino
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            with contextlib.suppress(OSError):
                if os.stat(f"/proc/{pid}/ns/net").st_ino == netns and pid != self.ns.pid:
                    yield pid
