"""A real guest by the API's public name: from another network, through Caddy, with the certificate of Caddy's own authority."""
import hashlib
import os
import re
import select
import subprocess
import time

import pytest
from host import DASHED, TOP, UPLINK, USER, wait_for

HOST = {"config": "tls = internal\napi_domain = api\n", "caddyfile": "{\n\tlocal_certs\n}\n", "assets": ("kernel", "base")}
DOMAIN = f"api.{DASHED}.sslip.io"
MIB = 1 << 20


@pytest.fixture(scope="module", autouse=True)
def web(host):
    host.start_caddy()
    wait_for("the API's site", lambda: host.api.get("/v1").ok()["remote"]["status"] == "active", 90)
    host.make_known(DOMAIN)
    token = host.fcm("token", "create").stdout
    afar(host, "connect", f"https://{DOMAIN}", "--name", "prod", input=token)
    done = afar(host, "create", "--name", "web", "base")
    assert done.stdout == "web\n"
    return host.vm("web")


def afar(host, *argv, **kwargs):
    return host.run("fcm", *argv, user=USER, ns=host.elsewhere, env={"SSL_CERT_FILE": host.CA}, **kwargs)


def begin(host, *argv, **popen):
    drop, env = host.as_user(USER, {"SSL_CERT_FILE": host.CA})
    return host.spawn([*drop, *argv], host.elsewhere, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, **popen)


def until(child, word, seconds=60):
    shown = b""
    while word not in shown:
        assert select.select([child.stdout], [], [], seconds)[0], f"{word} doesn't come: {shown[-400:]}"
        piece = os.read(child.stdout.fileno(), 4096)
        assert piece, shown[-400:]
        shown += piece
    return shown


def test_exec(host):
    done = afar(host, "exec", "web", "sh", "-c", "echo out; echo err >&2; exit 7", check=False)
    assert (done.returncode, done.stdout, done.stderr) == (7, "out\n", "err\n")


def test_much_both_ways(host):
    """8 MiB go there and come back at the same time: TLS hands out its bytes in pieces of its own."""
    text = os.urandom(4 * MIB).hex()
    done = afar(host, "exec", "-i", "web", "cat", input=text)
    assert hashlib.sha256(done.stdout.encode()).digest() == hashlib.sha256(text.encode()).digest()


def test_a_shell_on_a_terminal(host):
    child = begin(host, "script", "-qec", "stty rows 33 cols 99; fcm exec -it web sh; echo status $?", "/dev/null")
    until(child, b"# ")
    child.stdin.write(b"stty size; sleep 1000\r")
    child.stdin.flush()
    until(child, b"33 99")
    time.sleep(1)
    child.stdin.write(b"\x03echo after $((40 + 2))\r")
    child.stdin.flush()
    until(child, b"after 42")
    child.stdin.write(b"exit 3\r")
    child.stdin.flush()
    until(child, b"status 3")


def test_ssh(host):
    assert afar(host, "ssh", "web", "--", "cat /proc/sys/kernel/random/boot_id").stdout.strip() == host.vm("web")["boot_id"]
    assert afar(host, "ssh", "web", "--", "exit 9", check=False).returncode == 9
    text = "x" * MIB
    assert afar(host, "ssh", "web", "--", "cat", input=text).stdout == text


def test_plain_ssh(host):
    """The block of ssh-config says which context, whatever is in use when ssh is called."""
    afar(host, "--context", "prod", "ssh-config", "--install")
    afar(host, "context", "use", "local")
    try:
        done = host.run("ssh", "-o", "BatchMode=yes", "web.fcm", "hostname", user=USER, ns=host.elsewhere, env={"SSL_CERT_FILE": host.CA})
        assert done.stdout == "web\n"
    finally:
        afar(host, "context", "use", "prod")


def test_cp(host):
    host.run("sh", "-c", "rm -rf /var/tmp/tree /var/tmp/back; mkdir /var/tmp/tree; head -c 20000000 /dev/urandom >/var/tmp/tree/big; ln -s big /var/tmp/tree/link; "
             "chmod -R a+rX /var/tmp/tree; mkdir -m 777 /var/tmp/back")
    afar(host, "cp", "/var/tmp/tree", "web:/srv")
    afar(host, "cp", "web:/srv/tree", "/var/tmp/back")
    host.run("diff", "-r", "--no-dereference", "/var/tmp/tree", "/var/tmp/back/tree")


def test_logs_and_events_as_they_come(host):
    logs, events = begin(host, "fcm", "logs", "-f", "web"), begin(host, "fcm", "events", "-f")
    time.sleep(1)
    afar(host, "exec", "web", "sh", "-c", "echo line $((70 + 7)) >/dev/console")
    until(logs, b"line 77", 10)
    afar(host, "restart", "web")
    until(events, b"running", 30)
    for child in (logs, events):
        child.kill()


def test_console(host):
    done = afar(host, "console", "web", input="\necho script $((40 + 4))\n")
    assert "script 44" in done.stdout


def test_a_port(host):
    afar(host, "exec", "-d", "web", "python3", "-m", "http.server", "--directory", "/etc", "8000")
    wait_for("its server", lambda: "web" in afar(host, "proxy", "web", "8000", input="GET /hostname HTTP/1.0\r\n\r\n").stdout, 30, 0.5)


def block(language, containing):
    """The block of docs/REMOTE.md in that language which has these words."""
    blocks = re.findall(rf"^```{language}\n(.*?)^```", (TOP / "docs/REMOTE.md").read_text(), re.M | re.S)
    return next(b for b in blocks if containing in b)


def test_the_examples_for_curl(host):
    """As they stand there, but for the machine's name, which is taken here, and the events, which come without end."""
    text = block("sh", "api=").replace("/web", "/other").replace('"name":"web"', '"name":"other"').replace("curl -sSN", "timeout 3 curl -sSN")
    text = text.replace("since=10m\"", "since=10m\" || [ $? = 124 ]")
    host.run("sh", "-c", "mkdir -p /var/tmp/curl/site; echo hello >/var/tmp/curl/site/index.html")
    token = host.fcm("token", "create").stdout
    host.run("sh", "-c", f"umask 077; cat >/home/{USER}/prod-token; chown {USER} /home/{USER}/prod-token", input=token)
    done = host.run("sh", "-exc", f"cd /var/tmp/curl\n{text}", user=USER, ns=host.elsewhere, env={"CURL_CA_BUNDLE": host.CA})
    assert '"name":"other"' in done.stdout and '"exit":0' in done.stdout and '"entries":2' in done.stdout and "event: running" in done.stdout


def test_the_example_for_python(host):
    if host.run("python3", "-c", "import requests", check=False).returncode:
        pytest.skip("python3-requests isn't installed")
    token = host.fcm("token", "create").stdout.strip()
    env = {"FCM_URL": f"https://{DOMAIN}", "FCM_TOKEN": token, "REQUESTS_CA_BUNDLE": host.CA}
    before = host.api.get("/v1/vms").ok()["vms"]
    done = host.run("python3", "-c", block("python", "requests"), user=USER, ns=host.elsewhere, env=env)
    assert done.stdout.startswith("Linux ") and len(host.api.get("/v1/vms").ok()["vms"]) == len(before)
    env["FCM_TOKEN"] = "wrong"
    done = host.run("python3", "-c", block("python", "requests"), user=USER, ns=host.elsewhere, env=env, check=False)
    assert done.returncode == 1 and done.stderr.startswith("unauthorized: ")


ASK = """
import socket, ssl, sys
address, name = sys.argv[1:]
context = ssl._create_unverified_context()
try:
    with context.wrap_socket(socket.create_connection((address, 443), 10), server_hostname=name) as s:
        s.sendall(f"GET /healthz HTTP/1.1\\r\\nHost: {name}\\r\\nConnection: close\\r\\n\\r\\n".encode())
        print(s.recv(100)[:12].decode() or "closed")
except OSError as error:
    print("closed", error)
"""


def test_a_guest_does_not_reach_the_api(host, api):
    """It gets at Caddy, for the sites of VMs; the API's drops it, token or not. The world does reach it."""
    api.put("/v1/vms/web/expose", {"port": 8000}).ok()

    def ask(name):
        return host.fcm("exec", "web", "python3", "-c", ASK, UPLINK, name).stdout

    wait_for("Caddy", lambda: ask(f"web.{DASHED}.sslip.io").startswith("HTTP/1.1"), 30, 0.5)
    assert ask(DOMAIN).startswith("closed")
    assert host.fetch(f"https://{DOMAIN}/healthz").stdout == '{"status":"ok"}\n'
