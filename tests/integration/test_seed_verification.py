"""The user's own acceptance: shipped binaries, no config file, an ordinary user, real guests, a real Caddy."""
import re

from host import DASHED, USER

# The default for a site is a public certificate; here Caddy's own authority stands in, by the administrator's hand.
HOST = {"argv": ("fcm", "daemon"), "assets": ("kernel", "base"), "caddyfile": "{\n\tlocal_certs\n}\n"}

DOMAIN = f"test.{DASHED}.sslip.io"


def test_the_whole_life(host):
    host.start_caddy()
    assert not (host.work / "etc/fcmd.conf").exists()
    host.add_user_token()
    fcm = lambda *argv, **kwargs: host.fcm(*argv, user=USER, **kwargs)  # noqa: E731

    assert fcm("create", "--name", "test", "--expose", "8000").stdout == "test\n"

    row = next(line.split() for line in fcm("ls").stdout.splitlines() if line.startswith("test "))
    assert row[1] == "running" and row[2] == "base" and row[3] == "172.16.0.50"
    host.boot_id("test")

    versions = host.ssh("test", "ruby -v; python3 -V")
    assert re.search(r"^ruby \d+\.\d+", versions, re.M) and re.search(r"^Python 3\.\d+", versions, re.M)

    assert host.fetch(f"https://{DOMAIN}/").stdout.strip()

    assert fcm("destroy", "test").stdout == "test\n"
    assert "test" not in fcm("ls").stdout.split()
    assert host.fetch(f"https://{DOMAIN}/", check=False).returncode != 0


def test_base_has_what_it_promises(host):
    host.fcm("create", "--name", "tools", user=USER)
    host.boot_id("tools")
    host.ssh("tools", "set -e; for tool in ruby bundle python3 pip3 curl bash ip; do command -v $tool; done")
    assert host.ssh("tools", "curl -s http://127.0.0.1:8000/").strip()
    taken = host.ssh("tools", "cd /tmp; echo mine >index.html; "
                     "nohup python3 -m http.server 8000 >/dev/null 2>&1 & "
                     "for i in $(seq 60); do sleep 1; curl -s http://127.0.0.1:8000/ | grep -x mine && break; done")
    assert taken.strip() == "mine"
    assert "nobody:x" not in host.ssh("tools", "awk -F: '$2 !~ /^[!*]/ {print}' /etc/shadow")
    host.fcm("destroy", "tools", user=USER)
