"""Part 1's own integration tests, run in the test host: the same files, but a real Firecracker on KVM where QEMU or the
scripted VMM was. Each of their tests is one here; a file runs when its first test is asked for, with those that were
selected (-k).
"""
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

import pytest

import host as hosts

sys.path.append(str(hosts.TOP / "tests"))
import software  # noqa: E402  pylint: disable=wrong-import-position

TOP = "/srv/fcm"  # in the host
LIMIT = 1800  # seconds for a file
DRIVER = "firecracker"
UNDO = "test_undo.py::"
FILES = ("common/routes.def", "docs/REMOTE.md", "docs/TUTORIAL.md", "tests/host/by_hand.py")  # which the tests read, beside tests/*.py
# The scripted VMM fails and dies at every step; here are those where the real one answers something else.
UNDO_FAILS = ("fail-after-create/vmm", "fail-create/attach", "fail-after-create/boot", "fail-after-start/vmm", "fail-stop/vmm")
UNDO_KILLS = ("create/attach:kill", "create/boot:kill", "adopt/guest:kill", "stop/guest:kill")
# FCM_ACCEPTANCE=whole runs all of these, more than an hour of nested guests; without it the heart is run. README.md, which
# test_readme.py runs in a host, tells the story of test_seed_verification.py.
WHOLE = (
    "test_seed_verification.py", "test_guest_power.py", "test_isolation.py", "test_caddy.py", "test_park.py",
    "test_exec_guest.py", "test_cp_guest.py", "test_console_guest.py", "test_ready_guest.py", "test_stats_guest.py",
    "test_guest_facts.py", "test_debian_guest.py", "test_freeze_guest.py", "test_suspend_guest.py", "test_snapshot_guest.py",
    "test_main_guest.py", "test_publish_guest.py", "test_volumes_guest.py", "test_update_guest.py", "test_images_guest.py",
    "test_import_guest.py", "test_pull_guest.py", "test_build_guest.py", "test_software_guest.py", "test_remote_guest.py",
    "test_alpine_guest.py::test_in_fcm", "test_tutorial_guest.py",
    *(f"test_restart.py::{name}" for name in (
        "test_killed_at_random_times", "test_the_steady_one_never_noticed", "test_sigterm_leaves_the_vms_running",
        "test_a_vm_that_dies_while_nobody_looks", "test_a_second_daemon_is_refused", "test_steady_goes_in_the_end")),
    *(f"{UNDO}test_fails[{step}]" for step in UNDO_FAILS), *(f"{UNDO}test_killed[{fault}]" for fault in UNDO_KILLS),
)
HEART = (*(f"test_guest_power.py::{name}" for name in ("test_reboot", "test_panic")), "test_snapshot_guest.py::test_clones_are_others")
CHOSEN = WHOLE if hosts.WHOLE else HEART
# Firecracker and the guests are the same on trixie; test_package runs them there.
RELEASES = hosts.RELEASES if hosts.WHOLE else ("bookworm",)


def nodes():
    """The tests of CHOSEN, by the ids that pytest gives them."""
    folder = hosts.TOP / "tests/integration"
    env = {**os.environ, "FCM_SEEN": "", "FCM_BUILD": str(hosts.BUILD.resolve())}
    done = subprocess.run([sys.executable, "-B", "-m", "pytest", "-p", "no:cacheprovider", "--collect-only", "-q", *CHOSEN],
                          cwd=folder, capture_output=True, text=True, check=False, env=env)
    assert done.returncode == 0, done.stdout + done.stderr
    return re.findall(r"^test_\w+\.py::.*$", done.stdout, re.M)


def pytest_generate_tests(metafunc):
    if "node" in metafunc.fixturenames:
        metafunc.parametrize("node", nodes())


class Inside:
    """The test files in the host, each run once."""

    def __init__(self, host, selected, note_boot_id):
        self.host, self.selected, self.note_boot_id = host, selected, note_boot_id
        self.files = {}

    def result(self, node):
        """What became of a test: None for a pass, or (outcome, text)."""
        file = node.split("::")[0]
        if file not in self.files:
            self.files[file] = self._run(file)
        log, cases = self.files[file]
        return cases.get(node, ("failed", f"it didn't run; the end of {log}:\n{log.read_text()[-3000:]}"))

    def _run(self, file):
        log, cases = self.host.folder / f"{file}.log", {}
        chosen = [node for node in self.selected if node.startswith(file + "::")]
        env = (f"FCM_REAL={DRIVER} FCM_KILLS=4 FCM_BUILD={TOP}/build FCM_ASSETS={TOP}/assets FCM_TEST_WORK={TOP}/work "
               "PYTHONDONTWRITEBYTECODE=1 LC_ALL=C.UTF-8")
        pytest_argv = hosts.shlex.join(["python3", "-m", "pytest", "-p", "no:cacheprovider", "-q", "--tb=short",
                                        "--durations=0", "--junitxml=/srv/result.xml", *chosen])
        try:
            done = self.host.run(f"cd {TOP}/tests/integration; {env} {pytest_argv} 2>&1", timeout=LIMIT, check=False)
            log.write_bytes(done.out)
            for boot_id in re.findall(r"^boot_id (.*)$", done.text, re.M):
                self.note_boot_id(boot_id)
            cases = read_junit(self.host.get("/srv/result.xml"), file)
        except hosts.Failed as error:
            log.write_text(str(error))
        return log, cases


def read_junit(data, file):
    """{node: None or (outcome, text)}; an error of a fixture's end comes as a second case of the same name."""
    cases = {}
    for case in xml.fromstring(data).iter("testcase"):
        node, result = f"{file}::{case.get('name')}", None
        for child in case:
            if child.tag in ("failure", "error", "skipped"):
                result = ("skipped" if child.tag == "skipped" else "failed", child.text or child.get("message"))
        cases[node] = result or cases.get(node)
    return cases


def assets(request, files):
    """{name: path} of what these files give their daemons, as their HOST says (tests/integration/conftest.py)."""
    tars = {}
    for file in files:
        named = re.search(r'^HOST = .*"assets": \((.*?)\)', (hosts.TOP / "tests/integration" / file).read_text(), re.M)
        for name in re.findall(r"\w+", named[1]) if named else ("kernel", "tiny"):
            tars[f"{name}.tar"] = request.getfixturevalue(f"{name}_tar")
    if "test_software_guest.py" in files:
        tars[software.NAME] = software.path()
    return tars


@pytest.fixture(scope="module")
def inside(request, firecracker, boot_ids):
    """The product, its tests and what they need."""
    firecracker.install()
    selected = [item.callspec.params["node"] for item in request.session.items if "node" in getattr(item, "fixturenames", ())]
    for name, path in assets(request, {node.split("::")[0] for node in selected}).items():
        firecracker.put(f"{TOP}/assets/{name}", path.read_bytes())
    for path in (*hosts.TOP.glob("tests/*.py"), *(hosts.TOP / name for name in FILES)):
        firecracker.put(f"{TOP}/{path.relative_to(hosts.TOP)}", path.read_bytes())
    for name in ("tests/integration", "images/alpine/files"):
        firecracker.put_tree(hosts.TOP / name, f"{TOP}/{name}")
    firecracker.run(f"mkdir -p {TOP}/build/daemon {TOP}/work; ln -s \"$(command -v fcmd)\" {TOP}/build/daemon/")
    request.module.__fcm_host__ = None  # a test inside shows its own evidence
    return Inside(firecracker, selected, boot_ids.append)


def test_integration(inside, node):
    result = inside.result(node)
    if result and result[0] == "skipped":
        pytest.skip(result[1])
    if result:
        pytest.fail(result[1], pytrace=False)
