"""GET and PUT files, and fcm cp, against the scripted agent (tests/fake/exec.c): what a path names is what it does."""
import http.client
import os
import re
import resource
import signal
import subprocess
import time

import pytest
from host import wait_for

HOST = {"fake": True}

MIB = 1 << 20
TAR = {"Content-Type": "application/x-tar"}


@pytest.fixture(scope="module", autouse=True)
def web(host):
    return host.create("web")


def files(path, vm="web"):
    return f"/v1/vms/{vm}/files?path={path}"


def opened(api):
    """(streams that the agent has open beside the asking one, streams that were closed in all)."""
    text = api.post("/v1/vms/web/exec", {"cmd": ["show"]}).ok()["stdout"].splitlines()[-1]
    numbers = [int(word.split("=")[1]) for word in text.split()]
    return numbers[0] - 1, numbers[1]


def expect_cancelled(api, closed):
    wait_for("it was cancelled", lambda: opened(api) == (0, closed + 1), 5)


class TestRoutes:
    def test_get(self, api):
        answer = api.get(files("/flood/1000000"))
        assert answer.status == 200 and answer.headers["Content-Type"] == "application/x-tar"
        assert len(answer.body) == 1000000

    def test_put(self, api):
        assert api.put(files("/sips"), bytes(3 * MIB), headers=TAR).ok() == {"entries": 3, "bytes": 4711}

    @pytest.mark.parametrize("code, status, wire", [
        ("not_found", 404, "not_found"), ("invalid", 400, "invalid"), ("no_space", 507, "no_space"),
        ("unavailable", 400, "bad_request"), ("host", 500, "guest"), ("unauthorized", 500, "guest"), ("nonsense", 500, "guest")])
    @pytest.mark.parametrize("method", ["get", "put"])
    def test_the_guests_error(self, api, method, code, status, wire):
        answer = api.get(files(f"/fail/{code}")) if method == "get" else api.put(files(f"/fail/{code}"), bytes(MIB), headers=TAR)
        error = answer.error
        assert (answer.status, error["code"]) == (status, wire)
        assert "no such thing" in error["message"] and "web" in error["message"] and "\x1b" not in error["message"]

    @pytest.mark.parametrize("query", ["", "?path=", "?path=etc", "?path=/" + "a" * 4096])
    def test_a_wrong_path(self, api, query):
        for answer in (api.get(f"/v1/vms/web/files{query}"), api.put(f"/v1/vms/web/files{query}", b"x", headers=TAR)):
            assert answer.status in (400, 414) and (answer.status == 414 or answer.error["field"] == "path")

    def test_an_agent_that_does_not_know_it(self, api):
        answer = api.get(files("/old"))
        assert (answer.status, answer.code) == (500, "guest") and "not known" in answer.error["message"]

    def test_it_breaks_in_the_middle(self, api):
        """The answer is cut off, and no end is made up."""
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            api.get(files("/cut"))

    def test_a_stopped_vm(self, host, api):
        host.create("off")
        api.post("/v1/vms/off/kill").ok()
        assert api.get(files("/x", "off")).code == "wrong_state"
        assert api.put(files("/x", "off"), b"x", headers=TAR).code == "wrong_state"

    def test_the_client_goes(self, host, api):
        _, closed = opened(api)
        child = host.spawn(["curl", "-s", "--unix-socket", "/run/fcm/fcmd.sock", "http://localhost" + files("/hang")])
        wait_for("it is open", lambda: opened(api)[0] == 1, 5)
        child.kill()
        expect_cancelled(api, closed)
        _, closed = opened(api)
        child = host.spawn(["curl", "-s", "--unix-socket", "/run/fcm/fcmd.sock", "-T", "-", "http://localhost" + files("/sip")],
                           stdin=subprocess.PIPE)
        child.stdin.write(bytes(MIB))
        child.stdin.flush()
        wait_for("it is open", lambda: opened(api)[0] == 1, 5)
        child.kill()
        expect_cancelled(api, closed)

    def test_neither_side_is_kept(self, host, api):
        """Megabytes against one who reads nothing: the daemon's memory doesn't grow."""
        before = rss(host)
        _, closed = opened(api)
        curl = ["curl", "-s", "--unix-socket", "/run/fcm/fcmd.sock", "-o", "/dev/null"]
        child = host.spawn([*curl, "--limit-rate", "1k", f"http://localhost{files(f'/flood/{200 * MIB}')}"])
        time.sleep(1)
        assert rss(host) - before < 8 * MIB
        child.kill()
        expect_cancelled(api, closed)
        _, closed = opened(api)
        with open("/dev/zero", "rb") as zeros:
            child = host.spawn([*curl, "-T", "-", f"http://localhost{files('/hang')}"], stdin=zeros)
        time.sleep(1)
        assert rss(host) - before < 8 * MIB
        child.kill()
        expect_cancelled(api, closed)


def rss(host):
    with open(f"/proc/{host.daemon.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * resource.getpagesize()


class TestClient:
    def cp(self, host, *argv, status=0):
        done = host.run("fcm", "cp", *argv, check=False)
        assert done.returncode == status, done
        return done

    def test_to_stdout(self, host):
        assert host.run("bash", "-c", "fcm cp web:/flood/5000000 - | wc -c").stdout == "5000000\n"

    def test_what_comes_is_no_archive(self, host):
        done = self.cp(host, "web:/flood/5000000", "/root/x", status=2)
        assert "no tar archive" in done.stderr
        assert host.run("ls", "-A", "/root/x", check=False).returncode != 0

    @pytest.mark.parametrize("name, asked, taken", [("good", "good", True), ("good", ".", True), (".bashrc", "good", False),
                                                    (".", "good", False)])
    def test_a_guest_chooses_no_name(self, host, name, asked, taken):
        host.run("bash", "-c", "rm -rf /root/here; mkdir /root/here")
        path, status = f"web:/named/{name}/{asked}", 0 if taken else 2
        for to in ("/root/here", "web:/sips"):
            done = self.cp(host, path, to, status=status)
            assert taken or f"is called '{name.strip('.') and name}', and 'good' was asked for" in done.stderr, done
        assert host.run("ls", "-A", "/root/here").stdout == (name + "\n" if taken else "")

    def test_up(self, host):
        host.run("mkdir", "-p", "/root/tree")
        host.run("bash", "-c", "echo x >/root/tree/f")
        done = self.cp(host, "/root/tree", "web:/sips")
        assert (done.stdout, done.stderr) == ("", "")

    def test_at_a_terminal(self, host):
        """How far it is, and what it came to; elsewhere it is silent."""
        done = host.run("script", "-qec", "fcm cp /etc/hostname web:/sips", "/dev/null")
        assert "copied 3 files, 4.7 kB in " in done.stdout
        done = host.run("script", "-qec", "timeout 2 fcm cp web:/hang /root/none", "/dev/null", check=False)
        assert "copy web:/hang" in done.stdout
        host.run("mkdir", "-p", "/root/large")
        host.run("bash", "-c", "head -c 300000000 /dev/zero >/root/large/f")
        done = host.run("script", "-qec", "fcm cp /root/large web:/sips", "/dev/null")
        assert re.search(r"copy /root/large  \[=+ *\] {1,2}\d+%  \d+ MB of 300 MB", done.stdout), done.stdout
        done = host.run("script", "-qec", "fcm cp web:/flood/300000000 - | { head -c 50000000 >/dev/null; sleep 2; cat >/dev/null; }", "/dev/null")
        assert re.search(r"copy web:/flood/300000000  \d+ MB  \d+ MB/s", done.stdout), done.stdout

    @pytest.mark.parametrize("path, status, words", [
        ("/fail/not_found", 3, ("no such thing", "fcm exec web ls")), ("/fail/no_space", 7, ("in the VM",)),
        ("/fail/invalid", 2, ("do this",)), ("/fail/host", 1, ("no such thing",))])
    def test_errors(self, host, path, status, words):
        for argv in (("/etc/hostname", f"web:{path}"), (f"web:{path}", "/root/none"), (f"web:{path}", "web:/sips")):
            done = self.cp(host, *argv, status=status)
            assert all(word in done.stderr for word in words), done
            assert done.stderr.startswith("fcm: ") and "\x1b" not in done.stderr

    def test_the_agent_is_lost(self, host):
        assert "web" in self.cp(host, "web:/lose", "/root/none", status=1).stderr
        wait_for("the session again", lambda: host.fcm("exec", "web", "echo", check=False).returncode == 0, 30)

    def test_it_is_cut_off(self, host):
        done = self.cp(host, "web:/cut", "/root/none", status=6)
        assert "closed the connection" in done.stderr

    def test_a_missing_file_of_ours(self, host):
        done = self.cp(host, "/root/nothing", "web:/sips", status=3)
        assert "/root/nothing" in done.stderr

    @pytest.mark.parametrize("argv", [("a", "b"), ("-", "-"), (":/a", "b"), ("web:/a", "web:/a/b"), ("web:/a",), ("a", "web:/b", "c")])
    def test_usage(self, host, argv):
        assert self.cp(host, *argv, status=2).stderr.startswith("fcm: ")

    @pytest.mark.parametrize("sig", [signal.SIGINT, signal.SIGKILL])
    def test_killed(self, host, api, sig):
        _, closed = opened(api)
        child = host.spawn(["fcm", "cp", "web:/hang", "/root/none"])
        wait_for("it is open", lambda: opened(api)[0] == 1, 5)
        os.kill(child.pid, sig)
        child.wait(10)
        expect_cancelled(api, closed)

    @pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGKILL])
    def test_the_daemon_ends(self, host, api, sig):
        child = host.spawn(["fcm", "cp", "web:/hang", "/root/none"], stderr=subprocess.PIPE)
        wait_for("it is open", lambda: opened(api)[0] == 1, 5)
        host.stop_daemon(sig)
        assert child.wait(20) == 6
        assert child.stderr.read().startswith(b"fcm: ")
        host.start_daemon()
        wait_for("the session again", lambda: host.fcm("exec", "web", "echo", check=False).returncode == 0, 10)
