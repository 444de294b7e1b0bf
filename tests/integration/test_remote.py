"""The API from elsewhere: its own name by Caddy, where a token is needed whoever asks, and the client's contexts."""
import http.client
import json
import os
import socket
import ssl
import subprocess
import time

import pytest
from host import DASHED, UPLINK, USER, wait_for

MINE = "{\n\tlocal_certs\n}\n\nmine.example.org {\n\trespond \"mine\"\n}\n"
CONFIG = "tls = internal\napi_domain = api\n"
HOST = {"fake": True, "config": CONFIG, "caddyfile": MINE}
DOMAIN = f"api.{DASHED}.sslip.io"
URL = f"https://{DOMAIN}"


@pytest.fixture(scope="module", autouse=True)
def caddy(host):
    host.start_caddy()
    wait_active(host)
    host.make_known(DOMAIN)


@pytest.fixture(autouse=True)
def nothing_left(host):
    yield
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        host.api.delete(f"/v1/vms/{vm['id']}?force=1")


def remote(host):
    return host.api.get("/v1").ok()["remote"]


def wait_active(host, timeout=60):
    wait_for("the API's site", lambda: remote(host)["status"] == "active", timeout)


def restart(host, config):
    """The daemon with another config, below what the fixture begins it with."""
    (host.work / "etc/fcmd.conf").write_text(host.config.replace(CONFIG, config))
    host.restart_daemon()


def ask(host, path, *options):
    """Status and JSON of a request from the world through Caddy."""
    done = host.fetch(URL + path, "--no-fail", "-w", "\n%{http_code}", *options, check=False)
    body, _, status = done.stdout.rpartition("\n")
    return int(status), json.loads(body) if body else None


def bearer(host):
    return ["-H", f"Authorization: Bearer {host.api.token}"]


def afar(host, *argv, env=None, **kwargs):
    return host.fcm(*argv, user=USER, ns=host.elsewhere, env={"SSL_CERT_FILE": host.CA, **(env or {})}, **kwargs)


def sites(host):
    return sorted(p.name for p in (host.caddy_dir / "fcm.d").glob("*"))


# ---- the site ----

def test_the_site(host):
    assert remote(host) == {"url": URL, "status": "active"}
    assert sites(host) == ["fcmd-api.caddy"]
    assert "reverse_proxy unix//run/fcm/proxy.sock" in (host.caddy_dir / "fcm.d/fcmd-api.caddy").read_text()
    status, info = ask(host, "/v1", *bearer(host))
    assert status == 200 and info["api"] == "v1" and info["remote"]["url"] == URL
    assert ask(host, "/healthz") == (200, {"status": "ok"})
    assert host.fetch("https://mine.example.org/").stdout == "mine"
    assert f"remote      {URL}\n" in host.fcm("info").stdout
    checks = {c["name"]: c for c in host.api.get("/v1/doctor").ok()["checks"]}
    assert checks["remote"]["status"] == "ok" and DOMAIN in checks["remote"]["message"]
    # the program by itself doesn't know the daemon's site, and says so
    assert "fcm doctor says" in host.run("fcmd", "--check", check=False).stdout


@pytest.mark.parametrize("options, status", [
    ([], 401), (["-H", "Authorization: Bearer fcm_wrong"], 401), (["-H", "Authorization: Basic cm9vdDpyb290"], 401),
    (["-H", "X-Forwarded-For: 127.0.0.1"], 401), (["-H", "Forwarded: for=127.0.0.1"], 401), (["-H", "Origin: https://evil.example"], 403),
    (["-H", "Sec-Fetch-Site: same-origin"], 403), (["--http1.1"], 401), (["--http2"], 401)], ids=str)
def test_a_token_is_needed(host, options, status):
    """Whatever Caddy's socket may be on the host, what came through it is nobody in particular."""
    got, body = ask(host, "/v1/vms", *options)
    assert got == status and body["error"]["code"] in ("unauthorized", "forbidden", "throttled")


def at_proxy(host, head):
    """An answer to a request at the socket itself, as root of this host."""
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(10)
    folder = os.open(host.run_dir, os.O_PATH)
    sock.connect(f"/proc/self/fd/{folder}/proxy.sock")
    os.close(folder)
    sock.sendall(f"GET /v1/vms HTTP/1.1\r\n{head}\r\n".encode())
    response = http.client.HTTPResponse(sock)
    response.begin()
    sock.close()
    return response.status


def test_the_socket_itself(host):
    token = f"Authorization: Bearer {host.api.token}\r\n"
    assert at_proxy(host, f"Host: {DOMAIN}\r\n") == 401
    assert at_proxy(host, f"Host: {DOMAIN}\r\n{token}") == 200
    assert at_proxy(host, f"Host: {DOMAIN.upper()}\r\n{token}") == 200
    assert at_proxy(host, f"Host: web.{DASHED}.sslip.io\r\n{token}") == 421
    # and Caddy's user can use no other way in
    script = ("import socket, sys\ns = socket.socket(socket.AF_UNIX)\ntry:\n    s.connect('/run/fcm/' + sys.argv[1])\n    print('open')\n"
              "except PermissionError:\n    print('closed')\n")
    for name, answer in (("fcmd.sock", "closed"), ("proxy.sock", "open")):
        done = host.run("setpriv", "--reuid=caddy", "--regid=caddy", "--init-groups", "python3", "-c", script, name)
        assert done.stdout.strip() == answer


def test_guesses_stop_nobody(host):
    """Wrong tokens are braked; a good one of the same Caddy isn't."""
    context = ssl.create_default_context(cafile=str(host.caddy_ca()))
    seen = set()
    for _ in range(40):
        with context.wrap_socket(host.world.connect((UPLINK, 443)), server_hostname=DOMAIN) as sock:
            sock.sendall(f"GET /v1/vms HTTP/1.1\r\nHost: {DOMAIN}\r\nAuthorization: Bearer guess\r\nConnection: close\r\n\r\n".encode())
            seen.add(sock.recv(12)[9:])
    assert b"429" in seen, seen
    assert ask(host, "/v1/vms", *bearer(host))[0] == 200


def test_its_name_is_nobody_elses(host, api):
    answer = api.post("/v1/vms", {"name": "api", "image": "tiny"})
    assert (answer.status, answer.code, answer.error["field"]) == (409, "name_taken", "name") and DOMAIN in answer.error["message"]
    assert api.post("/v1/vms", {"name": "api", "image": "tiny", "dry_run": True}).code == "name_taken"
    host.create("web")
    answer = api.put("/v1/vms/web/expose", {"port": 80, "domain": DOMAIN})
    assert (answer.status, answer.code, answer.error["field"]) == (409, "domain_taken", "domain") and "API" in answer.error["message"]
    assert api.get("/v1/vms/web").ok()["expose"] is None
    answer = api.call("PATCH", "/v1/vms/web", {"name": "api"})
    assert (answer.status, answer.code, answer.error["field"]) == (409, "name_taken", "name") and DOMAIN in answer.error["message"]
    assert host.vm("web")["name"] == "web"
    done = host.fcm("create", "--name", "api", check=False)
    assert done.returncode == 4 and "is the name of this host's API" in done.stderr and "api_domain" in done.stderr


def test_beside_the_sites_of_vms(host, api):
    host.create("web")
    assert api.put("/v1/vms/web/expose", {"port": 80}).ok()["expose"]["status"] == "active"
    assert len(sites(host)) == 2 and ask(host, "/v1", *bearer(host))[0] == 200
    api.delete("/v1/vms/web").ok()
    assert sites(host) == ["fcmd-api.caddy"] and ask(host, "/v1", *bearer(host))[0] == 200


def test_a_restarted_daemon_changes_nothing(host):
    """It asks Caddy for what the last one may have owed, and Caddy has it all: no connection of anybody ends."""
    log = host.work / "caddy.log"
    log.write_text("")
    host.restart_daemon()
    wait_active(host)
    assert log.read_text().count('"/load"') == log.read_text().count("config is unchanged")
    assert ask(host, "/v1", *bearer(host))[0] == 200


def test_a_killed_daemon_leaves_a_socket_that_the_next_one_takes(host):
    host.restart_daemon(sig=9)
    wait_active(host)
    assert ask(host, "/v1", *bearer(host))[0] == 200


def test_no_daemon(host):
    host.stop_daemon()
    assert not (host.run_dir / "proxy.sock").exists()
    status, _ = ask(host, "/healthz")
    assert status == 502
    done = afar(host, "--url", URL, "ls", env={"FCM_TOKEN": host.api.token}, check=False)
    assert done.returncode == 6 and f"no daemon behind {URL}" in done.stderr
    host.start_daemon()


def test_caddy_comes_later(host):
    restart(host, "tls = internal\n")
    wait_for("no site", lambda: not sites(host))
    host.stop_caddy()
    restart(host, CONFIG)
    wait_for("pending", lambda: remote(host)["status"] == "pending" and "reason" in remote(host))
    done = host.fcm("doctor", check=False)
    assert f"warn remote {URL} isn't served" in " ".join(done.stdout.split()) and "(pending: " in host.fcm("info").stdout
    host.start_caddy()
    wait_active(host)
    assert ask(host, "/v1", *bearer(host))[0] == 200


def test_taken_by_a_site_of_the_users(host):
    """Theirs was there before: it stays, ours is pending, and comes when theirs goes."""
    file = host.caddy_dir / "Caddyfile"
    restart(host, "tls = internal\n")
    wait_for("no site", lambda: not sites(host))
    text = file.read_text()
    file.write_text(text + f"\n{DOMAIN} {{\n\trespond \"theirs\"\n}}\n")
    host.run("caddy", "reload", "--config", "/etc/caddy/Caddyfile")
    restart(host, CONFIG)
    wait_for("pending", lambda: remote(host)["status"] == "pending" and "has the domain" in remote(host).get("reason", ""))
    assert host.fetch(URL).stdout == "theirs"
    file.write_text(text)
    wait_active(host)
    wait_for("ours", lambda: ask(host, "/healthz") == (200, {"status": "ok"}))


def test_the_key_goes_and_another_comes(host, api):
    host.create("api2")
    api.put("/v1/vms/api2/expose", {"port": 80}).ok()
    restart(host, "tls = internal\n")
    assert remote(host) is None and not (host.run_dir / "proxy.sock").exists()
    wait_for("the site is gone", lambda: len(sites(host)) == 1)
    assert api.get("/v1", tcp=True, headers={"Host": DOMAIN}).status == 421
    host.create("api")
    assert "remote" not in host.fcm("info").stdout
    # a name that a VM has already: the API is served, the VM's site waits for another name
    restart(host, "tls = internal\napi_domain = api2\n")
    wait_active(host)
    wait_for("pending", lambda: host.vm("api2")["expose"]["status"] == "pending")
    assert "API's own name" in host.vm("api2")["expose"]["reason"] and sites(host) == ["fcmd-api.caddy"]
    assert api.get("/v1", tcp=True, headers={"Host": f"api2.{DASHED}.sslip.io"}).status == 200
    # a whole name, and one below a domain
    for config, domain in (("api_domain = fcm.example.org\n", "fcm.example.org"), ("api_domain = api\ndomain = vms.example.org\n", "api.vms.example.org")):
        restart(host, "tls = internal\n" + config)
        assert remote(host)["url"] == f"https://{domain}"
        wait_active(host)
        done = host.fetch(f"https://{domain}/healthz")
        assert done.stdout == '{"status":"ok"}\n'
    restart(host, CONFIG)
    wait_active(host)


# ---- plain HTTP off loopback ----

def test_insecure_bind(host, api):
    done = host.run("fcmd", "--set", f"listen={UPLINK}:7777", check=False)
    assert done.returncode == 2 and "listen: " in done.stderr and "insecure_bind = yes" in done.stderr
    restart(host, CONFIG + f"listen = {UPLINK}:7777\ninsecure_bind = yes\n")
    assert "insecure_bind: " in host.log_tail(10) and f"{UPLINK}:7777" in host.log_tail(10)
    sock = host.world.connect((UPLINK, 7777))
    sock.sendall(f"GET /v1 HTTP/1.1\r\nHost: {UPLINK}:7777\r\nAuthorization: Bearer {api.token}\r\n\r\n".encode())
    assert sock.recv(100).startswith(b"HTTP/1.1 200 ")
    sock.close()
    done = host.fcm("doctor", check=False)
    assert f"warn remote plain HTTP at {UPLINK}:7777" in " ".join(done.stdout.split())
    # the client sends nothing there
    done = afar(host, "--url", f"http://{UPLINK}:7777", "ls", env={"FCM_TOKEN": api.token}, check=False)
    assert done.returncode == 5 and "plain http" in done.stderr
    restart(host, CONFIG)
    wait_active(host)
    assert "insecure_bind" not in host.log_tail(3)


# ---- the client, from another network ----

@pytest.fixture(scope="module")
def connected(host, caddy):
    token = host.fcm("token", "create").stdout
    assert afar(host, "connect", URL, "--name", "prod", input=token).stdout == "prod\n"


def test_context(host, connected):
    host.create("web")
    assert afar(host, "ls", "-q").stdout == "web\n"
    assert host.run("stat", "-c", "%a %U", f"/home/{USER}/.config/fcm/contexts/prod.json").stdout == f"600 {USER}\n"
    done = afar(host, "--context", "local", "ls", check=False)
    assert done.returncode == 5 and "no token for http://127.0.0.1:7777" in done.stderr
    assert afar(host, "ls", env={"SSL_CERT_FILE": "/dev/null"}, check=False).returncode == 1


def test_streams(host, connected):
    """exec with its three streams, a terminal, and both ways at once."""
    host.create("web")
    done = afar(host, "exec", "web", "echo", "hello")
    assert (done.returncode, done.stdout) == (0, "hello\n")
    text = "0123456789abcdef" * 65536
    assert afar(host, "exec", "-i", "web", "cat", input=text).stdout == text
    assert afar(host, "exec", "web", "nosuch", check=False).returncode in (126, 127)
    line = next(x for x in afar(host, "events", "--since", "5m").stdout.splitlines() if "running" in x)
    assert "web" in line


def connections(host):
    """What Caddy has open at the API's socket."""
    return [x for x in host.run("ss", "-xH", "state", "established").stdout.splitlines() if "/proxy.sock" in x]


@pytest.mark.parametrize("argv", [["events", "-f"], ["logs", "-f", "web"], ["exec", "web", "sleep", "1000"], ["console", "web"]],
                         ids=lambda a: a[0])
def test_who_leaves_is_gone_here_as_well(host, connected, argv):
    """A client that is killed, through Caddy: the daemon hears of it and keeps nothing."""
    host.create("web")
    wait_for("quiet", lambda: not connections(host))
    drop, env = host.as_user(USER, {"SSL_CERT_FILE": host.CA})
    child = host.spawn([*drop, "fcm", *argv], host.elsewhere, env=env, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL)
    wait_for("its stream", lambda: connections(host), 15)
    child.kill()
    child.wait()
    wait_for("nothing", lambda: not connections(host), 20)


def test_events_come_at_once(host, connected):
    """Server-sent events aren't kept back by Caddy."""
    drop, env = host.as_user(USER, {"SSL_CERT_FILE": host.CA})
    child = host.spawn([*drop, "fcm", "events", "-f"], host.elsewhere, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    wait_for("its stream", lambda: connections(host), 15)
    host.create("web")
    begun, text = time.monotonic(), b""
    while b"running" not in text:
        text += os.read(child.stdout.fileno(), 4096)
    assert time.monotonic() - begun < 3
    child.kill()


def test_a_reload_of_caddy(host, connected, api):
    """docs/REMOTE.md says so: another site ends what Caddy passes on as a stream. An answer under way comes to its end."""
    host.create("web")
    drop, env = host.as_user(USER, {"SSL_CERT_FILE": host.CA})
    child = host.spawn([*drop, "fcm", "exec", "web", "sleep", "1000"], host.elsewhere, env=env, stdin=subprocess.DEVNULL,
                       stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    wait_for("its stream", lambda: connections(host), 15)
    api.put("/v1/vms/web/expose", {"port": 80}).ok()
    assert child.wait(20) == 125 and "went away" in child.stderr.read()
    assert afar(host, "expose", "web", "81").stdout == f"https://web.{DASHED}.sslip.io\n"
