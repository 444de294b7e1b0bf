"""images/alpine: its init in real guests, as fcm's image and alone. The languages come from registries, so the root file system is
that of `tiny`, busybox and dropbear, with the image's own files over it."""
import os
import re
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest
from host import TOP, end, wait_for
from oci import ext4_of

HOST = {"assets": ("kernel", "tiny")}

FILES = TOP / "images/alpine/files"
ASSETS = Path(os.environ.get("FCM_ASSETS", ""))
MACHINE = ["qemu-system-x86_64", "-M", "microvm", "-cpu", "max", "-m", "256", "-nodefaults", "-no-user-config", "-display", "none",
           "-no-reboot", "-device", "virtio-net-device,netdev=n", "-device", "virtio-blk-device,drive=d"]
# A kernel whose drivers are modules needs somebody to load them; what comes then is the image's own.
BEFORE = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
while read -r m; do /bin/busybox insmod /modules/$m; done </modules/order
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] && break; /bin/busybox sleep 0.2; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /init
"""


def debugfs(image, *commands):
    done = subprocess.run(["debugfs", "-w", "-f", "-", image], input="\n".join(commands) + "\n", capture_output=True, text=True, check=True)
    assert not re.search(r"(?i)no such|error|could not|not found", done.stderr), done.stderr


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """An ext4 with tiny's programs and this image's files."""
    folder = tmp_path_factory.mktemp("alpine")
    image = folder / "image.ext4"
    ext4_of(ASSETS / "tiny.tar", image, "48M")
    commands = ["rm /etc/fcm/rc", "rm /etc/shells", "symlink /etc/fcm/rc ../../init", "symlink /sbin/init /bin/busybox",
                "symlink /sbin/getty /bin/busybox", "symlink /sbin/reboot /bin/busybox", "symlink /sbin/poweroff /bin/busybox",
                "mkdir /usr/local", "mkdir /usr/local/sbin", "mkdir /usr/share", "mkdir /usr/share/placeholder",
                *(f"symlink /usr/local/sbin/{link.name} {os.readlink(link)}" for link in (FILES / "usr/local/sbin").iterdir()),
                f"write {FILES}/init /init", "sif /init mode 0100755", f"write {FILES}/etc/inittab /etc/inittab",
                f"write {FILES}/usr/share/placeholder/index.html /usr/share/placeholder/index.html"]
    debugfs(image, *commands)
    return image


def test_links(root):
    """What the Dockerfile copies is what is tried here."""
    assert os.readlink(FILES / "etc/fcm/rc") == "../../init" and os.access(FILES / "init", os.X_OK)
    assert {path.name for path in FILES.rglob("*") if path.is_file() and not path.is_symlink()} == {"init", "inittab", "sshd_config", "index.html"}


def test_in_fcm(host, root):
    host.fcm("image", "import", "--name", "alpine", root)
    host.add_user_token()
    vm = host.create("web", image="alpine", memory=256)
    assert host.ssh("web", "echo $$; readlink /etc/fcm/rc; hostname").split()[1:] == ["../../init", "web"]
    page = wait_for("the placeholder", lambda: host.fcm("exec", "web", "wget", "-qO-", "http://127.0.0.1:8000", check=False).stdout)
    assert "web" in page or "8000" in page
    assert "getty" in host.fcm("exec", "web", "ps").stdout
    # what is typed there means what it says
    host.ssh("web", "poweroff", check=False)
    assert host.wait_state("web", "stopped")["reason"] is None
    host.api.post("/v1/vms/web/start").ok()
    assert host.ssh("web", "hostname").strip() == "web" and host.vm("web")["host_key"] == vm["host_key"]
    host.destroy_all()
    host.fcm("rmi", "alpine")


def initramfs(folder):
    """busybox, the kernel's modules, and BEFORE as init."""
    tree = folder / "tree"
    (tree / "bin").mkdir(parents=True)
    for name in ("dev", "root"):
        (tree / name).mkdir()
    with tarfile.open(ASSETS / "kernel.tar") as tar:
        for name in ("vmlinux", "initrd"):
            tar.extract(name, folder)
    theirs = folder / "theirs"
    theirs.mkdir()
    with open(folder / "initrd", "rb") as file:
        subprocess.run(["cpio", "--extract", "--quiet", "--make-directories"], stdin=file, cwd=theirs, check=True, stderr=subprocess.DEVNULL)
    shutil.copytree(theirs / "modules", tree / "modules")
    shutil.copy("/bin/busybox", tree / "bin")
    (tree / "init").write_text(BEFORE)
    (tree / "init").chmod(0o755)
    names = "\n".join(str(path.relative_to(tree)) for path in sorted(tree.rglob("*"))) + "\n"
    with open(folder / "initramfs", "wb") as out:
        subprocess.run(["cpio", "--create", "--format=newc", "--quiet"], input=names.encode(), cwd=tree, stdout=out, check=True)


def test_alone(host, root, tmp_path):
    """By a kernel that knows nothing of fcm: ip= of its command line, sshd, the page, and a reboot that ends it."""
    disk, console = tmp_path / "disk", tmp_path / "console"
    shutil.copy(root, disk)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", tmp_path / "key"], check=True)
    debugfs(disk, f"write {tmp_path}/key.pub /root/.ssh/authorized_keys", "sif /root/.ssh/authorized_keys mode 0100600")
    initramfs(tmp_path)
    words = "console=ttyS0 ip=10.0.2.15::10.0.2.2:255.255.254.0:nova:eth0:off:10.0.2.3:10.0.2.4 reboot=t panic=-1 " \
        "tsc_early_khz=2500000 tsc=reliable no_timer_check"  # a machine that is slow can't be measured
    child = host.spawn([*MACHINE, "-kernel", tmp_path / "vmlinux", "-initrd", tmp_path / "initramfs", "-append", words,
                        "-serial", f"file:{console}", "-drive", f"id=d,file={disk},format=raw,if=none",
                        "-netdev", "user,id=n,net=10.0.2.0/23,hostfwd=tcp:127.0.0.1:8022-:22,hostfwd=tcp:127.0.0.1:8000-:8000"])
    ssh = ["ssh", "-q", "-F", "none", "-i", tmp_path / "key", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
           "-o", "BatchMode=yes", "-p", "8022", "root@127.0.0.1"]
    try:
        page = wait_for("the page", lambda: host.run("curl", "-sf", "-m", "5", "http://127.0.0.1:8000/", check=False).stdout, 90, 0.5)
        assert "This machine runs" in page
        said = wait_for("sshd", lambda: host.run(*ssh, "hostname; cat /etc/hosts /etc/resolv.conf; ip addr; ip route; cat /proc/1/comm",
                                                 check=False).stdout, 60, 0.5)
        for words in ("nova\n127.0.0.1", "10.0.2.15\tnova", "nameserver 10.0.2.3\nnameserver 10.0.2.4", "inet 10.0.2.15/23",
                      "default via 10.0.2.2", "\ninit\n"):
            assert words in said, said
        host.run(*ssh, "reboot", check=False)
        assert child.wait(30) == 0
        assert "reboot: " in console.read_text(errors="replace")
    except AssertionError:
        print(console.read_text(errors="replace")[-3000:] if console.exists() else "")
        raise
    finally:
        end(child)


def test_build_says_what_it_lacks(tmp_path):
    """Without an engine; with one that is none."""
    (tmp_path / "bin").mkdir()
    for program in ("bash", "dirname", "readlink", "id", "tar", "env", "true", "sh"):
        (tmp_path / "bin" / program).symlink_to(shutil.which(program) or f"/sbin/{program}")
    script, output = TOP / "images/alpine/build", tmp_path / "out.tar"
    text = script.read_text().replace('$(dirname "$0")', str(script.parent)).replace('export PATH="$PATH', 'export PATH="$PATH')
    (tmp_path / "build").write_text(text)
    library = (TOP / "images/lib.sh").read_text()
    assert 'export PATH="$PATH:/usr/sbin:/sbin"' in library  # so only engines of /usr/bin are hidden
    done = subprocess.run(["bash", tmp_path / "build", output], env={"PATH": str(tmp_path / "bin")}, capture_output=True, text=True, check=False)
    assert done.returncode == 1 and "podman" in done.stderr and not output.exists()


ENGINE = """#!/bin/sh
echo "$0 $*" >>{log}
case $1 in
build) echo "building" ;;
create | from) echo made ;;
export) cat {root} ;;
mount) echo {tree} ;;
esac
"""


@pytest.mark.parametrize("engine", ["docker", "podman", "buildah"])
def test_build(tmp_path, engine):
    """An engine that has built and exports: the archive is one that the daemon takes."""
    tree = tmp_path / "tree"
    (tree / "etc").mkdir(parents=True)
    (tree / "etc/os-release").write_text("ID=alpine\nVERSION_ID=3.22.1\n")
    (tree / ".dockerenv").touch()
    shutil.copy(FILES / "init", tree / "init")
    with tarfile.open(tmp_path / "root.tar", "w") as tar:
        tar.add(tree, ".")
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / engine
    fake.write_text(ENGINE.format(log=tmp_path / "log", root=tmp_path / "root.tar", tree=tree))
    fake.chmod(0o755)
    env = {"PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "FCM_ENGINE": engine, "FCM_ROOT_KEY": "ssh-ed25519 AAAA me", "TMPDIR": str(tmp_path)}
    subprocess.run([TOP / "images/alpine/build", tmp_path / "out.tar"], env=env, check=True, capture_output=True)
    ext4_of(tmp_path / "out.tar", tmp_path / "image.ext4", "4M")
    with tarfile.open(tmp_path / "out.tar") as tar:
        texts = b"".join(tar.extractfile(m).read() for m in tar if m.isfile() and m.size < 10_000)
    assert b'"org.opencontainers.image.version": "3.22.1"' in texts
    listed = subprocess.run(["debugfs", "-R", "ls -p /", tmp_path / "image.ext4"], capture_output=True, text=True, check=True).stdout
    assert "/init/" in listed and ".dockerenv" not in listed and "/proc/" in listed
    log = (tmp_path / "log").read_text()
    assert "ROOT_KEY=ssh-ed25519 AAAA me" in log and re.search(r" rm \w+$", log, re.M)
