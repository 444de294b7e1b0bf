"""One Host (tests/host.py) for each test file.

A file says what it needs in a dict HOST:
    config     text of fcmd.conf (default: there is no file)
    caddyfile  text of /etc/caddy/Caddyfile (default: none)
    assets     what the daemon is given: ("kernel", "tiny") by default, made by ./bootstrap
    fake       True: the scripted VMM of tests/fake instead of QEMU, and assets of a few bytes
    daemon     False: the test starts it
    argv       how it is started (default: fcmd)
FCM_REAL=driver takes the real VMM in place of the scripted one, too, and fails unless it is that driver's, with KVM.
"""
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import host as hosts  # noqa: E402  pylint: disable=wrong-import-position

BUILD = Path(os.environ.get("FCM_BUILD", hosts.TOP / "build"))
WORK = Path(os.environ.get("FCM_TEST_WORK", BUILD / "test-work"))
FAKE_VMM = BUILD / "tests/fake/fake-vmm"
REAL = os.environ.get("FCM_REAL")
BOOT_IDS = []


def tar_of(files):
    """A tar of {name: bytes}."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return out.getvalue()


def add_fake_assets(host):
    """A kernel and an image that no machine would boot: enough for the scripted VMM."""
    image = host.work / "fake.ext4"
    subprocess.run(["mke2fs", "-q", "-t", "ext4", image, "4M"], check=True, stdout=subprocess.DEVNULL)
    elf = b"\x7fELF\x02\x01\x01" + bytes(4096)
    host.api.put("/v1/kernels/default", tar_of({"vmlinux": elf, "initrd": bytes(512), "release": b"fake\n"}),
                 headers={"Content-Type": "application/x-tar"}).ok()
    for name in ("tiny", "base"):
        host.api.post(f"/v1/images/import?name={name}", image.read_bytes(), headers={"Content-Type": "application/octet-stream"}).ok()


def add_assets(host, options):
    if not host.real:
        add_fake_assets(host)
        return
    host.add_assets(*options.get("assets", ("kernel", "tiny")))
    vmm = host.api.get("/v1").ok()["vmm"]
    assert not REAL or (vmm["driver"], vmm["accel"]) == (REAL, "kvm"), vmm


def pytest_addoption(parser):
    parser.addoption("--update", action="store_true", help="write tests/integration/golden anew")


def pytest_sessionstart():
    """A SIGTERM (of timeout(1), of run.py) ends like ^C: the hosts are taken down. All that the API answers is held to
    docs/openapi.yaml; only in the test host, which has no YAML, it isn't."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        from openapi import Contract
    except ImportError:
        if os.environ.get("FCM_SEEN"):
            raise
        return
    hosts.Api.contract = Contract()


@pytest.fixture(scope="module")
def host(request):
    options = getattr(request.module, "HOST", {})
    fake = options.get("fake", False) and not REAL
    config = options.get("config")
    if fake:
        config = f"qemu = {FAKE_VMM}\n" + (config or "")
    if REAL:  # where a guest within a guest takes its time
        config = "boot_seconds = 200\n" + (config or "")
    folder = WORK / f"{request.module.__name__}-{os.getpid()}"
    machine = hosts.Host(folder, BUILD, config, options.get("caddyfile"), kvm=not fake)
    request.module.__fcm_host__ = machine
    try:
        before = None
        if options.get("daemon", True):
            machine.start_daemon(argv=options.get("argv", ("fcmd",)))
            add_assets(machine, options)
            before = machine.residue()
        yield machine
        if before is not None:
            machine.destroy_all()
            machine.check_residue(before)
    finally:
        BOOT_IDS.extend((request.module.__name__, *pair) for pair in dict.fromkeys(machine.boot_ids))
        machine.close()


@pytest.fixture
def api(host):
    return host.api


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    machine = getattr(item.module, "__fcm_host__", None)
    if report.failed and machine:
        report.sections.append(("fcmd's log", machine.log_tail(60)))


def pytest_terminal_summary(terminalreporter):
    for module, name, boot_id in BOOT_IDS:
        terminalreporter.write_line(f"boot_id {boot_id} {module} {name}")


def pytest_sessionfinish():
    """What the API answered, for the check that it is what docs/openapi.yaml has (tests/run.py)."""
    seen = os.environ.get("FCM_SEEN")
    if seen:
        with open(seen, "a", encoding="utf-8") as file:
            for row in sorted(hosts.Api.seen):
                file.write(json.dumps(row) + "\n")
