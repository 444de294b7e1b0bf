"""Software that people run, in real guests: nginx, redis and postgresql of this Debian's packages, as images that are made here
in the manner of the well-known ones, with their ports, volumes, users, stop signals and health checks."""
import subprocess
import time

import pytest
import software
from host import wait_for
from oci import PROGRAM, layout, tar

HOST = {"assets": ("kernel", "tiny")}

REDIS = b"""#!/bin/sh
chown redis: /data
exec setpriv --reuid=redis --regid=redis --init-groups redis-server --bind 0.0.0.0 --protected-mode no --dir /data --appendonly yes
"""
POSTGRES = b"""#!/bin/sh
set -e
PATH=$(echo /usr/lib/postgresql/*/bin):$PATH
data=/var/lib/postgresql/data
mkdir -p /run/postgresql
chown postgres: $data /run/postgresql
as="setpriv --reuid=postgres --regid=postgres --init-groups"
[ -s $data/PG_VERSION ] || $as initdb -D $data -A trust >/dev/null
echo "host all all all trust" >>$data/pg_hba.conf
exec $as postgres -D $data -c listen_addresses='*'
"""
ENV = ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
IMAGES = {
    "nginx": (b"", {"Entrypoint": ["nginx", "-g", "daemon off;"], "ExposedPorts": {"80/tcp": {}}, "StopSignal": "SIGQUIT"}),
    "redis": (REDIS, {"Entrypoint": ["/entrypoint"], "ExposedPorts": {"6379/tcp": {}}, "Volumes": {"/data": {}}}),
    "postgres": (POSTGRES, {"Entrypoint": ["/entrypoint"], "ExposedPorts": {"5432/tcp": {}}, "StopSignal": "SIGINT",
                            "Volumes": {"/var/lib/postgresql/data": {}}}),
}
# Row after row, each told once it is committed.
WRITER = """(i=0; while :; do i=$((i + 1)); echo "insert into r values ($i) returning n;"; done |
stdbuf -oL psql -qtA -U postgres >/run/told) 2>/run/writer.err </dev/null &"""


@pytest.fixture(scope="module", autouse=True)
def images(host, tmp_path_factory):
    root = software.path().read_bytes()
    for name, (entry, config) in IMAGES.items():
        folder = tmp_path_factory.mktemp(name)
        top = tar([("entrypoint", entry, PROGRAM), ("data/.keep", b"")])
        layout(folder, [root, top], {"Env": ENV, **config})
        host.fcm("image", "import", "--name", name, folder)
        subprocess.run(["rm", "-r", folder], check=True)
    yield
    host.destroy_all()
    host.fcm("volume", "prune", "-f", check=False)
    for name in IMAGES:
        host.fcm("rmi", name)
    assert host.layers() == []


def run(host, name, *options):
    host.fcm("run", "-d", "--name", name, "--mem", "256", *options)


def inside(host, vm, line):
    done = host.fcm("exec", vm, "sh", "-c", line, check=False, timeout=120)
    assert done.returncode == 0, done
    return done.stdout.strip()


def rows(host, vm):
    """(how many, the last one's number)"""
    n, last = inside(host, vm, "psql -qtA -F' ' -U postgres -c 'select count(*), coalesce(max(n), 0) from r'").split()
    return int(n), int(last)


def told(host, vm):
    return int(inside(host, vm, "tail -n 1 /run/told | grep . || echo 0"))


def test_nginx(host):
    run(host, "web", "-p", "8080:80", "--wait-ready", "http=http://127.0.0.1/", "--health-http", "http://127.0.0.1/", "nginx")
    address = host.vm("web")["ip"]
    assert "Welcome to nginx" in host.run("curl", "-sf", f"http://{address}/").stdout
    assert "Welcome to nginx" in host.run("curl", "-sf", "http://127.0.0.1:8080/").stdout
    inside(host, "web", "echo mine >/var/www/html/index.html")
    wait_for("it is healthy", lambda: host.vm("web")["health"]["status"] == "healthy", 60)
    host.fcm("stop", "web")
    # SIGQUIT lets it finish what it serves, and it says so by its status
    assert host.vm("web")["exited"]["code"] == 0, host.vm("web")
    host.fcm("start", "web")
    wait_for("the page of before", lambda: host.run("curl", "-sf", "http://127.0.0.1:8080/", check=False).stdout == "mine\n", 30)
    host.fcm("destroy", "web")


def test_redis(host):
    """What it was told survives a stop, in the volume that the image asks for."""
    run(host, "cache", "-p", "6379", "--wait-ready", "tcp=6379", "redis")
    port = host.fcm("port", "cache", "6379").stdout.strip().rpartition(":")[2]

    def redis(*argv):
        return inside(host, "cache", "redis-cli " + " ".join(argv))
    assert redis("set", "k", "v") == "OK" and redis("incr", "n") == "1"
    assert "redis" in inside(host, "cache", "stat -c %U /data/appendonlydir /proc/1; ps -o user= 1 || true")
    host.fcm("stop", "cache")
    assert host.vm("cache")["exited"]["code"] == 0, host.vm("cache")
    host.fcm("start", "cache")
    wait_for("it answers", lambda: redis("get", "k") == "v", 30)
    assert redis("incr", "n") == "2"
    host.fcm("destroy", "cache")


def test_postgres_cloned_under_load(host):
    """Each row that was told as committed is in a clone that goes on and in one that boots with the disk, which it finds as after a
    power cut; and each goes its own way."""
    run(host, "db", "--wait-ready", "tcp=5432", "--ready-timeout", "120s", "postgres")
    inside(host, "db", "psql -q -U postgres -c 'create table r (n int primary key)'")
    inside(host, "db", WRITER)
    wait_for("rows", lambda: told(host, "db") > 20, 60)
    before = told(host, "db")
    host.fcm("snapshot", "create", "db", "--name", "loaded")
    host.fcm("clone", "--name", "alive", "loaded")
    host.fcm("clone", "--name", "booted", "--disk-only", "--wait-ready", "tcp=5432", "--ready-timeout", "120s", "loaded")
    n, last = rows(host, "booted")
    assert n == last >= before
    n, last = rows(host, "alive")
    assert n == last >= before
    wait_for("its writer goes on", lambda: rows(host, "alive")[1] > last, 30)
    inside(host, "booted", "psql -q -U postgres -c 'truncate r'")
    assert rows(host, "booted") == (0, 0) and rows(host, "alive")[0] > 0 and rows(host, "db")[0] >= before
    begun = time.monotonic()
    host.fcm("stop", "booted")
    assert host.vm("booted")["exited"]["code"] == 0 and time.monotonic() - begun < 30, host.vm("booted")
    host.fcm("destroy", "-f", "alive", "booted", "db")
    host.fcm("snapshot", "rm", "loaded")
