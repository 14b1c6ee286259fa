"""The Linux Foundation's signing action: how it runs a client's container, and its scripts there.

sign(chart, workspace, mode, …)      one step of a workflow, as the action runs it
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from .lf_site import FQDN, KEY, PASSPHRASE, SECONDS

#: Runs no image knows: no entry in its passwd file.
UID = 48213

#: Looks for an interpreter as the action does, and has it run the rest.
RUN = """\
set -eu
case ":$PATH:" in *::*) echo "PATH has an empty entry" >&2; exit 1;; esac
rest=$PATH:
while [ -n "$rest" ]; do
    case ${rest%%:*} in /*) ;; *) echo "PATH has ${rest%%:*}" >&2; exit 1;; esac
    rest=${rest#*:}
done
user=${SIGUL_DEFAULT_USER%%:*}
case $user in
    '') user=root ;;
    *[!0-9]*) ;;
    *) number=$user; user=root
       while IFS=: read -r name _ id _; do
           [ "$id" != "$number" ] || user=$name
       done </etc/passwd ;;
esac
export USER=$user LOGNAME=$user
here=$PWD; cd /
found= first=
for name in python3 python; do
    path=$(command -v $name) || continue
    first=${first:-$path}
    if "$path" -c 'import sys
sys.path.insert(0, "/usr/share/sigul")
import client' </dev/null; then found=$path; break; fi
done
cd "$here"
exec "${found:-${first:?no Python}}" /sigul-scripts/steps.py "$@"
"""

#: The steps, in the interpreter that was found. Arguments: what to do.
STEPS = r"""
import getpass, os, signal, socket, subprocess, sys

def refuse(*a, **k):
    raise RuntimeError("no password in the configuration")

def load():
    sys.path.insert(0, os.environ.get("SIGULPATH", "/usr/share/sigul"))
    getpass.getpass = refuse
    import client, utils
    config = client.ClientConfiguration("~/.sigul/client.conf")
    name = str(config.bridge_hostname).lower()
    name = name[:-1] if name.endswith(".") else name
    endpoint = "%s:%d" % (name, int(config.bridge_port))
    expected = os.environ["EXPECTED_BRIDGE"]
    if expected and expected != endpoint:
        sys.exit("the bridge is %s, not %s" % (endpoint, expected))
    print("endpoint", endpoint)
    return config, utils

def sigul(*arguments, **how):
    with open(os.environ["SIGUL_PASSWORD"], "rb") as given:
        return subprocess.Popen(["sigul", "--batch", *arguments], stdin=given,
                                start_new_session=True, **how)

mode, *things = sys.argv[1:]
if mode == "dry":
    subprocess.run(["sigul", "--version"], check=True)
if mode == "dry" or os.environ["EXPECTED_BRIDGE"]:
    config, utils = load()
if mode == "dry":
    assert utils.nss_init(config) is None
    from nss import nss
    certificate = nss.find_cert_from_nickname(config.client_cert_nickname)
    nss.find_key_by_any_cert(certificate)
    print("subject", str(certificate.subject))
    print("until", getattr(certificate, "valid_not_after_str", ""))
    check = getattr(certificate, "check_valid_times", None)
    if check is not None:
        assert check() == 0
    print("server", config.server_hostname, "user", config.user_name, "nss", config.nss_dir)
    print("addresses", len(socket.getaddrinfo(config.bridge_hostname, config.bridge_port)) > 0)
elif mode == "data":
    for file in things:
        output = file + ".asc"
        if os.path.lexists(output):
            os.unlink(output)
        one = sigul("sign-data", "-a", "-o", output, "--", os.environ["SIGUL_KEY"], file)
        if one.wait(120) != 0 or not os.path.isfile(output) or not os.path.getsize(output):
            sys.exit("failed: " + file)
        os.chmod(output, 0o644)
elif mode == "tag":
    one = sigul("sign-git-tag", "--", os.environ["SIGUL_KEY"], things[0], cwd="/sigul-repo")
    print("exit", one.wait(120))
elif mode == "late":
    # The attempt is over its time while the passphrase is still to come.
    reader, writer = os.pipe()
    [file] = things
    one = subprocess.Popen(
        ["sigul", "--batch", "sign-data", "-a", "-o", file + ".asc", "--",
         os.environ["SIGUL_KEY"], "/sigul-creds/fifo"], stdin=reader, start_new_session=True)
    with open("/sigul-creds/fifo", "wb") as fifo:
        os.write(writer, open(os.environ["SIGUL_PASSWORD"], "rb").read())
        fifo.write(b"x" * 65536)
        fifo.flush()
        os.killpg(one.pid, signal.SIGTERM)
        print("exit", one.wait(10))
    left = []
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != os.getpid():
            try:
                state = open("/proc/%s/stat" % entry).read().rpartition(")")[2].split()[0]
                left += [open("/proc/%s/cmdline" % entry).read()] * (state not in "ZX")
            except OSError:
                pass
    print("left", left)
"""


def credentials(directory: Path, pki: Path, configuration: str) -> Path:
    """A directory of credentials: what the action has made of a bundle that it opened."""
    creds = directory / "creds"
    (creds / "pki/.sigul").mkdir(parents=True)
    for name in ("cert9.db", "key4.db", "pkcs11.txt"):
        (creds / "pki/.sigul" / name).write_bytes((pki / name).read_bytes())
    (creds / "password").write_bytes(f"{PASSPHRASE}\0\n".encode())
    os.mkfifo(creds / "fifo")
    (directory / "scripts").mkdir()
    (directory / "scripts/run.sh").write_text(RUN)
    (directory / "scripts/steps.py").write_text(STEPS)
    (directory / "client.conf").write_text(configuration)
    for path in (creds, *creds.rglob("*")):
        if os.geteuid() == 0:
            os.chown(path, UID, UID)
        path.chmod(0o700 if path.is_dir() else 0o600)
    for path in (directory / "scripts", *(directory / "scripts").iterdir(), directory):
        path.chmod(0o755)
    return creds


def step(
    image: str,
    network: str,
    directory: Path,
    *arguments: str,
    mounts: Sequence[str],
    workdir: str,
    expected: str = f"{FQDN}:44334",
    variables: Sequence[str] = (),
) -> subprocess.CompletedProcess[str]:
    """Run a step of the action in its container."""
    uid = UID if os.geteuid() == 0 else os.geteuid()
    environment = [
        *("HOME=/sigul-creds/pki", "SIGUL_DEFAULT_USER=1000:1000", f"SIGUL_KEY={KEY}"),
        *("SIGUL_PASSWORD=/sigul-creds/password", f"EXPECTED_BRIDGE={expected}"),
        *("PYTHONUNBUFFERED=1", "PYTHONDONTWRITEBYTECODE=1", *variables),
    ]
    return subprocess.run(
        [
            *("docker", "run", "--rm", "--pull=never", f"--network={network}"),
            *(f"--user={uid}:{uid}", "--cap-drop=ALL", "--security-opt=no-new-privileges"),
            *("--entrypoint", "/bin/sh", "--workdir", workdir),
            *("--volume", f"{directory}/creds:/sigul-creds"),
            *("--volume", f"{directory}/client.conf:/etc/sigul/client.conf:ro"),
            *("--volume", f"{directory}/scripts:/sigul-scripts:ro"),
            *(part for mount in mounts for part in ("--volume", mount)),
            *(part for one in environment for part in ("--env", one)),
            *(image, "/sigul-scripts/run.sh", *arguments),
        ],
        capture_output=True, text=True, timeout=SECONDS, check=False,
    )  # fmt: skip
