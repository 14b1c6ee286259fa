"""A Sigul site as the Linux Foundation's Helm chart runs it: its scripts, files, mounts and flags.

All as UID 1000 without capabilities on read-only root file systems, each container with the mounts
that the chart gives it and no others.
"""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from .molecule_runs import docker

FQDN = "sigul.example.org"
SERVER = "sigul-server.sigul-bridge.lf.svc.cluster.local"
ADMIN, ADMIN_PASSWORD = "sigul-admin", "of-the-administrator-24c"
KEY, PASSPHRASE = "release", "of-the-key"
NSS_PASSWORD = "of-the-databases-24-char"
#: What the chart's security context says.
CONFINED = (
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--read-only", "--pull=never"),
    *("--user=1000:1000", "--stop-timeout=30"),
)
#: Limits against hanging alone, in seconds.
SECONDS = 180

#: As the bootstrap job: a CA whose key is thrown away, and a PKCS#12 file a role.
BOOTSTRAP = """\
set -eu
ca=/tmp/ca; mkdir $ca /tmp/noise; head -c 64 /dev/urandom >/tmp/noise/n; printf '%s' "$P" >/tmp/p
certutil -N -d sql:$ca -f /tmp/p
printf 'y\\n0\\ny\\n' | certutil -S -d sql:$ca -f /tmp/p -z /tmp/noise/n -n sigul-ca \\
    -s "CN=Sigul CA" -x -t CT,C,C -k rsa -g 2048 -Z SHA256 \\
    -v 120 -m 1 -2 --keyUsage certSigning,crlSigning >/tmp/out
certutil -L -d sql:$ca -n sigul-ca -a >/workspace/ca.crt
number=2
leaf() { # ROLE CN NAMES
    head -c 64 /dev/urandom >/tmp/noise/n
    certutil -S -d sql:$ca -f /tmp/p -z /tmp/noise/n -n "sigul-$1-cert" -s "CN=$2" -c sigul-ca \\
        -t ,, -k rsa -g 2048 -Z SHA256 -v 24 -m $number --extSAN "$3" \\
        --keyUsage digitalSignature,keyEncipherment --extKeyUsage serverAuth,clientAuth
    pk12util -o "/workspace/$1.p12" -d sql:$ca -k /tmp/p -w /tmp/p -n "sigul-$1-cert" >/tmp/out
    number=$((number + 1))
}
leaf bridge "$FQDN" "dns:$FQDN,dns:sigul-bridge.lf.svc.cluster.local,dns:sigul-bridge"
leaf server "$SERVER" "dns:$SERVER"
leaf client "sigul-client.$FQDN" "dns:sigul-client.$FQDN"
certutil -L -d sql:$ca -n sigul-bridge-cert -a >/workspace/bridge.crt
"""

#: As the chart's init containers: a new database, and the configuration.
NSS_INIT = """\
set -eu
umask 077
d=/etc/pki/sigul/$SIGUL_ROLE
rm -f $d/*.db $d/pkcs11.txt
printf '%s' "$NSS_PASSWORD" >/tmp/p
certutil -N -d sql:$d -f /tmp/p
pk12util -i /workspace/$SIGUL_ROLE.p12 -d sql:$d -k /tmp/p -w /tmp/p >/tmp/out
certutil -D -d sql:$d -n sigul-ca 2>/tmp/out || true
certutil -D -d sql:$d -n "Sigul CA" 2>/tmp/out || true
certutil -A -d sql:$d -f /tmp/p -n sigul-ca -t CT,C,C -i /workspace/ca.crt
[ $SIGUL_ROLE = bridge ] ||
    certutil -A -d sql:$d -f /tmp/p -n sigul-bridge-cert -t P,P,P -i /workspace/bridge.crt
for nick in sigul-ca sigul-$SIGUL_ROLE-cert; do certutil -L -d sql:$d -n $nick >/tmp/out; done
cp /workspace/$SIGUL_ROLE.conf /etc/sigul/$SIGUL_ROLE.conf
chmod 0400 /etc/sigul/$SIGUL_ROLE.conf
"""

#: As `db-init`, but for the counting, which is the caller's.
DB_INIT = """\
set -eu
conf=/etc/sigul/server.conf
db=$(grep '^database-path:' $conf | cut -d' ' -f2)
if [ ! -s "$db" ]; then sigul_server_create_db -c $conf; fi
printf '%s\\0' "$SIGUL_ADMIN_PASSWORD" |
    sigul_server_add_admin --batch -c $conf -n "$SIGUL_ADMIN_USER"
"""

COMMON = """\
[nss]
nss-dir: /etc/pki/sigul/{role}
nss-password: {password}
nss-min-tls: tls1.2
"""
CONFIGURATION = {
    "bridge": """\
[bridge]
bridge-cert-nickname: sigul-bridge-cert
client-listen-port: 44334
server-listen-port: 44333
max-rpms-payload-size: 10737418240

[koji]

[daemon]
unix-user: sigul
unix-group: sigul

""",
    "server": f"""\
[server]
bridge-hostname: {FQDN}
bridge-port: 44333
server-cert-nickname: sigul-server-cert
max-file-payload-size: 1073741824
max-memory-payload-size: 1048576
max-rpms-payload-size: 5
signing-timeout: 60
lenient-username-check: yes

[database]
database-path: /var/lib/sigul/server/server.sqlite

[gnupg]
gnupg-home: /var/lib/sigul/server/gnupg
gnupg-key-type: RSA
gnupg-key-length: 2048
gnupg-key-usage: encrypt, sign

[daemon]
unix-user: sigul
unix-group: sigul

""",
    "client": f"""\
[client]
bridge-hostname: {FQDN}
bridge-port: 44334
server-hostname: {SERVER}
client-cert-nickname: sigul-client-cert
user-name: {ADMIN}

""",
}


@dataclass
class Chart:
    """A release of the chart: its directories on this machine, containers and network.

    `images` are names by component; `shell` is what runs the scripts.
    """

    directory: Path
    images: Mapping[str, str]
    shell: str
    name: str = field(default_factory=lambda: f"sigul-lf-{uuid.uuid4().hex[:8]}")

    def install(self) -> None:
        """Bring all of it up, as far as containers that were started."""
        docker("network", "create", self.name)
        for role in ("bridge", "server", "client"):
            for what in ("etc", "pki", "data", "run", "log", "tmp"):
                self._directory(f"{role}-{what}")
            text = CONFIGURATION[role] + COMMON.format(role=role, password=NSS_PASSWORD)
            path = self._directory("workspace") / f"{role}.conf"
            path.write_text(text)
            path.chmod(0o644)
        given = {"P": NSS_PASSWORD, "FQDN": FQDN, "SERVER": SERVER}
        self.script("bridge", BOOTSTRAP, given, ("workspace:/workspace", "bridge-tmp:/tmp"))
        for role in ("bridge", "server", "client"):
            self.script(
                role, NSS_INIT, {"SIGUL_ROLE": role, "NSS_PASSWORD": NSS_PASSWORD},
                ("workspace:/workspace:ro", f"{role}-tmp:/tmp", f"{role}-etc:/etc/sigul",
                 f"{role}-pki:/etc/pki/sigul/{role}"),
            )  # fmt: skip
        self.script(
            "server", DB_INIT,
            {"SIGUL_ADMIN_USER": ADMIN, "SIGUL_ADMIN_PASSWORD": ADMIN_PASSWORD},
            ("server-tmp:/tmp", "server-etc:/etc/sigul:ro", "server-pki:/etc/pki/sigul/server",
             "server-data:/var/lib/sigul/server"),
        )  # fmt: skip
        self.start_daemon("bridge", "bridge-data:/var/lib/sigul", f"--network-alias={FQDN}")
        self.start_daemon("server", "server-data:/var/lib/sigul/server")

    def start_daemon(self, role: str, data: str, *options: str) -> None:
        """Start a daemon by the entry point."""
        mounts = [
            *(data, f"{role}-etc:/etc/sigul:ro", f"{role}-pki:/etc/pki/sigul/{role}"),
            *(f"{role}-run:/run", f"{role}-log:/var/log", f"{role}-tmp:/tmp"),
        ]
        docker(
            "run", "--detach", "--name", f"{self.name}-{role}", *CONFINED, *options,
            f"--network={self.name}", *self._volumes(mounts), "--env", f"SIGUL_ROLE={role}",
            "--entrypoint", "/usr/local/bin/entrypoint.sh", self.images[role],
        )  # fmt: skip

    def script(self, role: str, text: str, given: Mapping[str, str], mounts: Sequence[str]) -> str:
        """Run a script in a container of its own; what it prints."""
        variables = [part for name in given for part in ("--env", name)]
        done = subprocess.run(
            [*("docker", "run", "--rm", "--network=none", *CONFINED), *self._volumes(mounts),
             *variables, "--interactive", "--entrypoint", self.shell, self.images[role], "-s"],
            input=text, capture_output=True, text=True, timeout=SECONDS, check=False,
            env={**os.environ, **given},
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    def toolbox(self, *arguments: str, given: bytes) -> str:
        """Run a command of the client in the toolbox; what it prints."""
        mounts = ["client-etc:/etc/sigul:ro", "client-pki:/etc/pki/sigul/client", "client-tmp:/tmp"]
        done = subprocess.run(
            [*("docker", "run", "--rm", "--interactive", f"--network={self.name}", *CONFINED),
             *self._volumes(mounts), "--entrypoint", "sigul", self.images["client"],
             "--batch", "-c", "/etc/sigul/client.conf", *arguments],
            input=given, capture_output=True, timeout=SECONDS, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout.decode()

    def probe(self, role: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a daemon's container, as a probe does."""
        return subprocess.run(
            ["docker", "exec", f"{self.name}-{role}", *command],
            capture_output=True, text=True, timeout=SECONDS, check=False,
        )  # fmt: skip

    def log(self, role: str) -> str:
        """What a daemon has logged."""
        done = subprocess.run(
            ["docker", "logs", f"{self.name}-{role}"], capture_output=True, text=True, check=False
        )
        return done.stdout + done.stderr

    def remove(self) -> None:
        """Remove containers and network."""
        for role in ("bridge", "server"):
            subprocess.run(
                ["docker", "rm", "--force", "--volumes", f"{self.name}-{role}"], capture_output=True
            )
        subprocess.run(["docker", "network", "rm", self.name], capture_output=True)

    def _directory(self, name: str) -> Path:
        path = self.directory / name
        path.mkdir(exist_ok=True, mode=0o2775)
        if os.geteuid() == 0:
            os.chown(path, 1000, 1000)
        path.chmod(0o2777 if os.geteuid() else 0o2775)
        return path

    def _volumes(self, mounts: Sequence[str]) -> list[str]:
        return [part for one in mounts for part in ("--volume", f"{self.directory}/{one}")]
