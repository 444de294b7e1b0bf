"""What a published port costs: requests by HTTP to a server in a guest, by the host's port and by the VM's own address."""
import re

from host import UPLINK, wait_for
from table import by_turns, row

SECONDS, CONNECTIONS = 3, 8


def rate(host, url):
    """Answers a second that wrk got, all of them good ones."""
    said = host.run("wrk", "-t1", f"-c{CONNECTIONS}", f"-d{SECONDS}s", url).stdout
    assert "Non-2xx" not in said and "Socket errors" not in said, said
    return float(re.search(r"^Requests/sec:\s+([\d.]+)", said, re.M)[1])


def bench_ports(host, rounds):
    host.fcm("run", "-d", "--name", "served", "-p", "8080:80", "tiny", "httpd", "-f", "-p", "80", "-h", "/etc")
    direct = f"http://{host.vm('served')['ip']}/passwd"
    published = f"http://{UPLINK}:8080/passwd"
    wait_for("its server", lambda: host.run("curl", "-sf", direct).stdout)
    ours, bare = by_turns(rounds, lambda _: rate(host, published), lambda _: rate(host, direct))
    host.fcm("destroy", "-f", "served")
    row("wrk by a published port / by the VM's address", ours, bare, 0.9, "/s", lower=False)
