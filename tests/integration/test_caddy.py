"""Sites: Caddy absent, down, broken by hand, refusing; the VM is never harmed, the site is pending and mends itself."""
import os

import pytest
from host import DASHED, wait_for

MINE = "{\n\tlocal_certs\n}\n\nmine.example.org {\n\tlog {\n\t\toutput file /var/log/caddy/mine.log\n\t}\n\trespond \"mine\"\n}"
HOST = {"fake": True, "caddyfile": MINE}
# What a site answers: Caddy itself, for a scripted VM that nobody serves in; the placeholder of a real one.
SERVED = 200 if os.environ.get("FCM_REAL") else 502


@pytest.fixture(autouse=True)
def caddy(host):
    """Each test begins with a running Caddy and the hand-written file (which has no newline at its end)."""
    path = host.caddy_dir / "Caddyfile"
    path.write_text(MINE)
    if host.caddy is None:
        host.start_caddy()
    else:
        host.run("caddy", "reload", "--config", "/etc/caddy/Caddyfile", "--force")
    yield path
    for vm in host.api.get("/v1/vms").ok()["vms"]:
        host.api.delete(f"/v1/vms/{vm['id']}?force=1")


def expose(host, name="web"):
    host.create(name)
    return host.api.put(f"/v1/vms/{name}/expose", {"port": 8000}).ok()["expose"]


def active(host, name="web", timeout=30):
    return wait_for(f"{name}'s site is active", lambda: host.vm(name)["expose"]["status"] == "active", timeout)


def serves(host, domain, status):
    done = host.fetch(f"https://{domain}/", "-o", "/dev/null", "-w", "%{http_code}", check=False)
    return done.stdout == str(status)


def test_site_comes_and_goes(host, caddy):
    site = expose(host)
    assert site["domain"] == f"web.{DASHED}.sslip.io" and site["status"] == "active"
    wait_for("the site answers", lambda: serves(host, site["domain"], SERVED), 10)
    assert serves(host, "mine.example.org", 200)
    assert caddy.read_text().startswith(MINE) and caddy.read_text().count("fcm.d") == 1
    host.api.delete("/v1/vms/web/expose").ok()
    assert host.vm("web")["expose"] is None
    wait_for("the site is gone", lambda: not serves(host, site["domain"], SERVED), 10)
    assert not list((host.caddy_dir / "fcm.d").glob("*.caddy"))


def test_log_files_stay_caddys(host):
    host.run("sh", "-c", "rm -f /var/log/caddy/*")
    expose(host)
    owners = host.run("sh", "-c", "stat -c %U /var/log/caddy/* 2>/dev/null || true").stdout.split()
    assert set(owners) <= {"caddy"}


def test_down_then_up(host):
    host.stop_caddy()
    site = expose(host)
    assert site["status"] == "pending" and site["reason"]
    assert host.vm("web")["state"] == "running"
    host.start_caddy()
    active(host, timeout=60)


def test_broken_by_hand(host, caddy):
    first = expose(host, "first")
    caddy.write_text(caddy.read_text() + "\nthis is { not a Caddyfile\n")
    broken = caddy.read_text()
    site = expose(host, "second")
    assert site["status"] == "pending" and site["reason"]
    assert caddy.read_text() == broken, "somebody else's file was changed"
    assert serves(host, first["domain"], SERVED), "the old site was lost"
    caddy.write_text(broken.replace("\nthis is { not a Caddyfile\n", "\n"))
    active(host, "second", 60)


def test_brace_less_file_is_left_alone(host, caddy):
    text = "localhost:8088\nrespond \"single\"\n"
    caddy.write_text(text)
    site = expose(host)
    assert site["status"] == "pending" and site["reason"]
    assert caddy.read_text() == text


def test_reload_refused(host, caddy):
    """A valid file that the running Caddy can't take: its port belongs to somebody else."""
    server = host.spawn(["/usr/bin/python3", "-m", "http.server", "8099"])
    wait_for("the other server", lambda: host.ns.connect(("127.0.0.1", 8099), 1).close() is None, 20)
    caddy.write_text(MINE + "\nhttp://127.0.0.1:8099 {\n\trespond hello\n}\n")
    site = expose(host)
    assert site["status"] == "pending" and site["reason"]
    # Caddy 2.6 leaves a half-started listener behind then: about every other connection to :443 meets it.
    wait_for("the old site", lambda: serves(host, "mine.example.org", 200), 5)
    server.kill()
    server.wait()
    active(host, timeout=60)


def test_a_reload_that_the_last_daemon_owed(host, caddy):
    """Else Caddy would go on sending the name to an address that another VM gets."""
    site = expose(host)
    wait_for("the site answers", lambda: serves(host, site["domain"], SERVED), 10)
    whole = caddy.read_text()
    caddy.write_text(whole + "\nthis is { not a Caddyfile\n")
    host.api.delete("/v1/vms/web/expose")
    assert serves(host, site["domain"], SERVED), "the control failed"
    host.stop_daemon()
    caddy.write_text(whole)
    host.start_daemon()
    wait_for("the site is gone", lambda: not serves(host, site["domain"], SERVED), 20)


def test_a_taken_domain_is_refused(host):
    host.create("a")
    host.create("b")
    host.api.put("/v1/vms/a/expose", {"port": 8000, "domain": "one.example.org"}).ok()
    for domain in ("one.example.org", "mine.example.org"):
        answer = host.api.put("/v1/vms/b/expose", {"port": 8000, "domain": domain})
        assert (answer.status, answer.code) == (409, "domain_taken"), answer


def test_destroy_while_caddy_is_down(host):
    expose(host)
    host.stop_caddy()
    assert host.api.delete("/v1/vms/web").ok()["left"] == []
    assert not list((host.caddy_dir / "fcm.d").glob("*.caddy"))


def test_absent(host):
    """No caddy program at all: the VM works and says what is missing."""
    host.stop_caddy()
    (host.work / "etc/fcmd.conf").write_text((host.config or "") + "caddy = /nonexistent/caddy\n")
    host.restart_daemon()
    site = expose(host)
    assert site["status"] == "pending" and "caddy" in site["reason"]
    host.api.delete("/v1/vms/web").ok()
    (host.work / "etc/fcmd.conf").write_text(host.config or "")
    host.restart_daemon()
