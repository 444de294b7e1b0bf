"""The manual pages and the completions, made while building, name every command, option and config key."""
import os
import pty
import re
import select
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
        if path.suffix[1:].isdigit():
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
    case = built("fcm.zsh").split(f"\n\t({command}")[1].split(";;")[0]
    assert own <= set(re.findall(r"[)*](--?[a-z0-9-]+)", case)), "fcm.zsh"
    lines = [line for line in built("fcm.fish").splitlines() if f"-n '__fcm_in {command}'" in line or f"-n '__fcm_in {command} " in line]
    assert {o[2:] for o in own if o.startswith("--")} == {m[1] for line in lines if (m := re.search(r" -l (\S+)", line))}, "fcm.fish"
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


# ---- completions, by the real shells ----

def complete_bash(fcm, folder, line, _):
    script = f'. {folder}/fcm.bash; COMP_WORDS=({line}); [[ $1 != *" " ]] || COMP_WORDS+=("")\n' \
             'COMP_CWORD=$((${#COMP_WORDS[@]} - 1)); _fcm; printf "%s\\n" "${COMPREPLY[@]}"'
    return run(fcm, ["bash", "-c", script, "bash", line])


def complete_fish(fcm, folder, line, _):
    """Each candidate is followed by a tab and what it means."""
    found = run(fcm, ["fish", "-N", "-c", f"source {folder}/fcm.fish; complete -C $argv[1]", line])
    return [word.split("\t")[0] for word in found]


ZSHRC = """
PS1="ready>" RPS1= PS2=
unsetopt beep prompt_cr prompt_sp
fpath=({home}/functions $fpath)
autoload -Uz compinit
compinit -u -D
LISTMAX=10000
compadd() {{
	local -a hits
	if [[ " ${{(j: :)@}} " != *" -"[OAD]" "* ]]; then
		builtin compadd -O hits "$@"
		print -rl -- $hits >>{home}/hits
	fi
	builtin compadd "$@"
}}
"""


def type_until(master, word, keys=b""):
    """Type, and read what is shown until `word` is."""
    os.write(master, keys)
    shown = b""
    while word not in shown:
        assert select.select([master], [], [], 20)[0], shown
        shown += os.read(master, 65536)


def complete_zsh(fcm, folder, line, home):
    """zsh completes only while somebody types, so that is done; what compadd takes is written down."""
    (home / "functions").mkdir()
    (home / "functions/_fcm").symlink_to(folder / "fcm.zsh")
    (home / ".zshrc").write_text(ZSHRC.format(home=home))
    (home / "hits").touch()
    master, slave = pty.openpty()
    env = fcm.env | {"ZDOTDIR": str(home), "TERM": "dumb", "PATH": f"{folder}:{fcm.env['PATH']}"}
    with subprocess.Popen(["zsh", "-i"], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as shell:
        os.close(slave)
        try:
            type_until(master, b"ready>")
            type_until(master, b"done\r\n", line.encode() + b"\t\x15print do''ne\n")  # ^U takes the line away
        finally:
            shell.kill()
    os.close(master)
    return (home / "hits").read_text().split()


def run(fcm, argv):
    folder = str(Path(fcm.binary).parent)
    done = subprocess.run(argv, env=fcm.env | {"PATH": f"{folder}:{fcm.env['PATH']}"}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout.split("\n")


SHELLS = {"bash": complete_bash, "zsh": complete_zsh, "fish": complete_fish}


@pytest.fixture(params=SHELLS)
def complete(request, fcm, binary, tmp_path):
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} on this machine")
    return lambda line: {word.rstrip(":") for word in SHELLS[request.param](fcm, Path(binary).parent, line, tmp_path) if word}


@pytest.mark.parametrize("line,words", [
    ("fcm cre", "create"), ("fcm create --dr", "--dry-run"), ("fcm --no-h", "--no-headings"), ("fcm list --al", "--all"),
    ("fcm inspect w", "web"), ("fcm stop web id", "idle"), ("fcm --output name stop w", "web"), ("fcm update -m 1g w", "web"),
    ("fcm expose web ", ""), ("fcm image b", "build"), ("fcm volume rm da", "data"), ("fcm help tok", "token"), ("fcm create --name x", ""),
    ("fcm run bas", "base"), ("fcm create --image ", "base default"), ("fcm create -v da", "data"), ("fcm cp w", "web"), ("fcm cp a w", "web"),
    ("fcm update --restart ", "no on-failure always unless-stopped"), ("fcm create --restart on", "on-failure"),
    ("fcm wait web --state fa", "failed"), ("fcm create --pull ne", "never"), ("fcm assets download fi", "firecracker"),
    ("fcm snapshot cr", "create"), ("fcm snapshot rm war", "warm"), ("fcm clone war", "warm"), ("fcm clone we", "web"),
    ("fcm restore web war", "warm"), ("fcm run --snapshot or", "orphan"), ("fcm api PAT", "PATCH"), ("fcm api GET /v1/doc", "/v1/doctor"), ("fcm nosuch ", "")])
def test_completion(complete, line, words):
    assert complete(line) == set(words.split())


@pytest.mark.parametrize("line", ["fcm cp web:/etc/fstab /etc/host", "fcm create --ssh-key /etc/host", "fcm image import /etc/host"])
def test_completion_of_files(complete, line):
    assert {"/etc/hosts", "hosts"} & complete(line)


def test_completion_of_nothing_but_commands(complete):
    assert complete("fcm ") == set(COMMANDS)


def test_completion_without_a_daemon(complete, daemon):
    daemon.shutdown()
    daemon.server_close()
    assert complete("fcm inspect w") == set()
