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
    page, synopsis = built(f"pages/fcm-{command}.1"), " ".join(re.search(r"^usage: (.*(?:\n {7}.*)?)$", text, re.M)[1].split())
    assert own <= set(re.findall(r"--?[a-z][a-z0-9-]*", page.split(".SH OPTIONS")[-1])), "page"
    assert f"\n{synopsis}\n" in page and f"\n{re.search('^e.g.: +(.*)$', text, re.M)[1]}\n" in page
    assert f"\n.BR fcm-{command} (1)\n{text.splitlines()[0].split(': ', 1)[1]}\n" in built("fcm.1")
    case = re.search(rf"^\t{command}( \|.*)?\) (.*) ;;$", built("fcm.bash"), re.M)[2]
    assert {o for o in own if o.startswith("--")} <= set(case.replace("'", " ").split()), "fcm.bash"
    case = built("fcm.zsh").split(f"\n\t({command}")[1].split(";;")[0]
    assert own <= set(re.findall(r"[)*](--?[a-z0-9-]+)", case)), "fcm.zsh"
    lines = [line for line in built("fcm.fish").splitlines() if f"-n '__fcm_in {command}'" in line or f"-n '__fcm_in {command} " in line]
    assert {o[2:] for o in own if o.startswith("--")} == {m[1] for line in lines if (m := re.search(r" -l (\S+)", line))}, "fcm.fish"
    for alias in re.findall(r"^also: +(.*)$", text, re.M):
        assert f"Also: fcm {alias}." in page


def test_pages_are_those_of_the_commands(binary):
    assert {path.name for path in (Path(binary).parent / "pages").glob("*.1")} == {f"fcm-{command}.1" for command in COMMANDS}


def test_api_page(built):
    """What docs/API.md says, the fields of the bodies, the errors."""
    page = built("fcm-api.7").replace("\\:", "")
    top = Path(__file__).parents[2]
    for method, pattern in re.findall(r'^X\("(\w+)",\s*"([^"]+)"', (top / "common/routes.def").read_text(), re.M):
        assert f"{method} {pattern}" in page, pattern
    for heading in re.findall("^## (.*)$", (top / "docs/API.md").read_text(), re.M):
        assert f"\n.SH {heading.upper()}\n" in page
    for code, status in re.findall(r'^X\(\w+,\s*"(\w+)",\s*(\d+)', (top / "common/core/errors.def").read_text(), re.M):
        assert f"\n.TP\n{code}\nHTTP {status}," in page
    update = page.split("\n.SS PATCH /v1/vms/{vm}\n")[1].split("\n.S")[0]
    assert set(re.findall(r"^\.TP\n(\w+) \(", update, re.M)) == {"name", "cpus", "memory", "restart", "labels", "remove_labels"}
    assert "`" not in page and "|---" not in page and "**" not in page.replace("***", "")


@pytest.mark.parametrize("name", ["openapi.yaml", "TROUBLESHOOTING.md"])
def test_copies_in_docs(built, request, name):
    """What is read without a build is what the tables say now; --update copies it there."""
    copy = Path(__file__).parents[2] / "docs" / name
    if request.config.getoption("--update"):
        copy.write_text(built(name))
    assert copy.read_text() == built(name), f"{copy} is old: pytest tests/cli --update"


def test_queries_are_those_that_handlers_read(built):
    """A handler asks for the fields of its query by name."""
    daemon = Path(__file__).parents[2] / "daemon"
    code = "".join(path.read_text() for path in (daemon / "api").glob("*.c")) + (daemon / "engine/filter.c").read_text()
    read = set(re.findall(r'(?:http_query|api_flag|api_number|api_time)\([\w>-]+, "(\w+)"', code)) | set(re.findall(r'\{"(\w+)", \S+, add_', code))
    assert set(re.findall(r"\{name: (\w+), in: query", built("openapi.yaml"))) == read


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
    pages = [page for folder in (".", "pages") for page in (Path(binary).parent / folder).glob("*.[1578]")]
    assert len(pages) == 4 + len(COMMANDS)
    for page in pages:
        done = subprocess.run(["man", "--warnings", "-l", page], capture_output=True, text=True, check=False,
                              env={"PATH": "/usr/bin:/bin", "MANWIDTH": "80", "LC_ALL": "C.UTF-8"})
        assert (done.returncode, done.stderr) == (0, "")


# ---- completions, by the real shells: each answers all lines in one go, which takes it some seconds ----

BASH = r"""
. "$1/fcm.bash"
compopt() { :; }	# only readline can
COMP_WORDBREAKS=${COMP_WORDBREAKS//:}
shift
for line; do
	read -ra COMP_WORDS <<<"$line"
	[[ $line != *" " ]] || COMP_WORDS+=("")
	COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
	_fcm
	printf "%s\n" "${COMPREPLY[@]}" /
done
"""


def complete_bash(fcm, folder, lines, _):
    return run(fcm, ["bash", "-c", BASH, "bash", folder, *lines])


def complete_fish(fcm, folder, lines, _):
    """Each candidate is followed by a tab and what it means."""
    script = f"source {folder}/fcm.fish; for line in $argv; complete -C $line; echo /; end"
    return re.sub("\t.*", "", run(fcm, ["fish", "-N", "-c", script, *lines]))


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


def type_until(master, pattern, keys=b""):
    """Type, and read what is shown until `pattern` is."""
    os.write(master, keys)
    shown = b""
    while not re.search(pattern, shown, re.S):
        assert select.select([master], [], [], 20)[0], shown
        shown += os.read(master, 65536)


def complete_zsh(fcm, folder, lines, home):
    """zsh completes only while somebody types, so that is done; what compadd takes is written down."""
    (home / "functions").mkdir()
    (home / "functions/_fcm").symlink_to(folder / "fcm.zsh")
    (home / ".zshrc").write_text(ZSHRC.format(home=home))
    master, slave = pty.openpty()
    env = fcm.env | {"ZDOTDIR": str(home), "TERM": "dumb", "PATH": f"{folder}:{fcm.env['PATH']}"}
    with subprocess.Popen(["zsh", "-i"], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as shell:
        os.close(slave)
        try:
            type_until(master, b"ready>")
            for line in lines:  # ^U takes the line away; typed before the prompt it would be the terminal's, and no key
                type_until(master, b"done\r\n.*ready>", line.encode() + f"\t\x15print / >>{home}/hits; print do''ne\n".encode())
        finally:
            shell.kill()
    os.close(master)
    return (home / "hits").read_text()


def run(fcm, argv):
    folder = str(Path(fcm.binary).parent)
    done = subprocess.run(argv, env=fcm.env | {"PATH": f"{folder}:{fcm.env['PATH']}"}, capture_output=True, text=True, check=True)
    assert done.stderr == ""
    return done.stdout


SHELLS = {"bash": complete_bash, "zsh": complete_zsh, "fish": complete_fish}


@pytest.fixture(params=SHELLS)
def complete(request, fcm, binary, tmp_path):
    """complete(lines): for each what may stand at its end."""
    if not shutil.which(request.param):
        pytest.skip(f"no {request.param} on this machine")

    def ask(lines):
        found = [set()]
        for word in SHELLS[request.param](fcm, Path(binary).parent, lines, tmp_path).splitlines():
            if word == "/":
                found.append(set())
            elif word:
                found[-1].add(word.rstrip(":"))
        return found[:-1]
    return ask


COMPLETIONS = {
    "fcm ": " ".join(COMMANDS), "fcm cre": "create", "fcm create --dr": "--dry-run", "fcm --no-h": "--no-headings", "fcm list --al": "--all",
    "fcm inspect w": "web", "fcm stop web id": "idle", "fcm --output name stop w": "web", "fcm update -m 1g w": "web",
    "fcm expose web ": "", "fcm image b": "build", "fcm volume rm da": "data", "fcm help tok": "token", "fcm create --name x": "",
    "fcm run bas": "base", "fcm create --image ": "base", "fcm create -v da": "data", "fcm cp w": "web", "fcm cp a w": "web",
    "fcm update --restart ": "no on-failure always unless-stopped", "fcm create --restart on": "on-failure",
    "fcm wait web --state fa": "failed", "fcm create --pull ne": "never", "fcm assets download fi": "firecracker",
    "fcm snapshot cr": "create", "fcm snapshot im": "import", "fcm snapshot export war": "warm", "fcm snapshot rm war": "warm", "fcm clone war": "warm", "fcm clone we": "web",
    "fcm restore web war": "warm", "fcm run --snapshot or": "orphan", "fcm pause w": "web", "fcm unpause w": "web", "fcm suspend web id": "idle",
    "fcm context u": "use", "fcm context use lo": "local", "fcm --context lo": "local", "fcm --context local stop w": "web",
    "fcm system d": "df", "fcm image hi": "history", "fcm image import --entry": "--entrypoint",
    "fcm api PAT": "PATCH", "fcm api GET /v1/doc": "/v1/doctor", "fcm nosuch ": "",
}


def test_completions(complete):
    assert dict(zip(COMPLETIONS, complete(COMPLETIONS), strict=True)) == {line: set(words.split()) for line, words in COMPLETIONS.items()}


def test_completion_of_files(complete):
    for found in complete(["fcm cp web:/etc/fstab /etc/host", "fcm create --ssh-key /etc/host", "fcm image import /etc/host", "fcm snapshot import /etc/host"]):
        assert {"/etc/hosts", "hosts"} & found


NAMES = ["$(touch ran)", "`touch ran`", "two words", "plain"]


@pytest.fixture
def strange(tmp_path, monkeypatch):
    """A directory with files whose names a shell could take for more, and we are in it."""
    folder = tmp_path / "strange"
    folder.mkdir()
    for name in NAMES:
        (folder / name).touch()
    monkeypatch.chdir(folder)
    yield folder
    assert sorted(os.listdir(folder)) == sorted(NAMES), "a name was run"


def test_completion_of_strange_files(complete, strange):
    """The name of a file is text: offered whole, and never run."""
    for found in complete(["fcm cp ", "fcm cp web:/x ", "fcm image import "]):
        assert set(NAMES) <= {name.replace("\\", "") for name in found}


TYPED = {
    r"image import tw~": "image|import|two words", r"cp \$\(~": "cp|$(touch ran)", r"cp \`~": "cp|`touch ran`", "cp './tw~": "cp|./two words",
    "cp pl~x": "cp|plain|x", "cp web:/x /us~x": "cp|web:/x|/usr/x", "cp we~/x": "cp|web:/x", "cp web: pl~": "cp|web:|plain", "cp web:pl~": "cp|web:pl",
    "inspect we~x": "inspect|web|x",
}


@pytest.mark.usefixtures("strange")
def test_bash_types_what_is_meant(fcm, binary):
    """With readline: what a program gets when the user presses Tab (~) there."""
    folder = Path(binary).parent
    env = fcm.env | {"TERM": "dumb", "PS1": "ready>", "INPUTRC": "/dev/null", "PATH": f"{folder}:{fcm.env['PATH']}"}
    setup = f". {folder}/fcm.bash; complete -F _fcm say; say() {{ printf '|%s' \"$@\"; echo '|'; }}; PS1=re''ady\n"
    master, slave = pty.openpty()
    with subprocess.Popen(["bash", "--norc", "-i"], env=env, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as shell:
        os.close(slave)
        try:
            type_until(master, b"ready>")
            type_until(master, b"ready", setup.encode())
            for typed, words in TYPED.items():
                type_until(master, re.escape(f"|{words}|".encode()), f"say {typed}\n".replace("~", "\t").encode())
        finally:
            shell.kill()
    os.close(master)


def test_completion_without_a_daemon(complete, daemon):
    daemon.shutdown()
    daemon.server_close()
    assert complete(["fcm inspect w"]) == [set()]
