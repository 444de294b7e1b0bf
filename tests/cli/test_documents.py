"""The manual pages and the completion, made while building, name every command, option and config key."""
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_output import COMMANDS


@pytest.fixture
def built(binary):
    """A file that is made beside fcm, as text; of a manual page what a reader sees, in plain ASCII."""
    def read(name):
        path = Path(binary).parent / name
        text = path.read_text()
        if path.suffix != ".bash":
            text = re.sub(r"\\f[BIR]", "", text).replace(r"\-", "-").replace(r"\&", "")
        return text
    return read


def options_of(help_text):
    return set(re.findall(r"(?<![\w-])--?[a-z][a-z0-9-]*", "\n".join(re.findall(r"^  +(-.*?)(?:   |$)", help_text, re.M))))


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(fcm, built, command):
    text = fcm(command, "--help").out
    own = options_of(text.split("options of every command")[0])
    section = built("fcm.1").split(f".SS fcm {command} ")[1].split("\n.S")[0]
    assert own <= set(re.findall(r"--?[a-z][a-z0-9-]*", section)), "fcm.1"
    case = re.search(rf"^\t{command}( \|.*)?\) (.*) ;;$", built("fcm.bash"), re.M)[2]
    assert {o for o in own if o.startswith("--")} <= set(case.replace("'", " ").split()), "fcm.bash"
    for alias in re.findall(r"^also: +(.*)$", text, re.M):
        assert f"Also: {alias}." in section


def test_global_options(fcm, built):
    page = built("fcm.1").split(".SH COMMANDS")[0]
    for option in options_of(fcm("--help").out.split("options of every command")[1]):
        assert option in page and (not option.startswith("--") or option in built("fcm.bash")), option


def test_daemon(binary, built):
    fcmd = Path(binary).parent.parent / "daemon/fcmd"
    page = built("fcmd.8")
    for option in options_of(subprocess.run([fcmd, "--help"], capture_output=True, text=True, check=True).stdout):
        assert option in page, option
    page = built("fcmd.conf.5")
    for line in subprocess.run([fcmd, "--example-config"], capture_output=True, text=True, check=True).stdout.splitlines():
        if key := re.match(r"#(\w+) =", line):
            assert f"\n{key[1]}\n" in page, key[1]


@pytest.mark.skipif(not shutil.which("man"), reason="no man on this machine")
def test_pages_are_clean(binary):
    for page in Path(binary).parent.glob("*.[158]"):
        done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, check=False,
                              env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("line,words", [
    ("fcm cre", ["create"]), ("fcm create --dr", ["--dry-run"]), ("fcm --no-h", ["--no-headings"]), ("fcm inspect w", ["web"]),
    ("fcm --output name stop w", ["web"]), ("fcm image b", ["build", "base"]), ("fcm help tok", ["token"]), ("fcm image import /etc/host", None),
    ("fcm create --name x", []), ("fcm run bas", ["base"]), ("fcm cp w", ["web:"]), ("fcm cp web:/etc/fstab /etc/host", None), ("fcm ssh web des", []),
    ("fcm snapshot cr", ["create"]), ("fcm clone war", ["warm"]), ("fcm clone we", ["web"]), ("fcm restore web war", ["warm"]), ("fcm run --snapshot or", ["orphan"]),
])
def test_completion(fcm, binary, line, words):
    folder = Path(binary).parent
    script = f'. {folder}/fcm.bash; COMP_WORDS=({line}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _fcm; printf "%s\\n" "${{COMPREPLY[@]}}"'
    done = subprocess.run(["bash", "-c", script], env=fcm.env | {"PATH": f"{folder}:{fcm.env['PATH']}"}, capture_output=True,
                          text=True, check=True)
    found = done.stdout.split()
    assert (found == words if words is not None else "/etc/hosts" in found) and done.stderr == ""
