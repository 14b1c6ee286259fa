"""RPMs that come from Koji, and signatures that go there, with a hub of the tests' own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sigul_stack.cli.outcome import MAY_HAVE_HAPPENED
from tests.koji_hub import KojiHub, gssapi_stand_in
from tests.site import PROGRAM_SECONDS, Site, free_port, nul, wait_until

from .commands_support import ADMIN, MAYBE, done, error_line, failure, leftovers, signing_errors
from .rpm_support import Rpm, build
from .test_sign_rpm import head_of, sigmd5

pytestmark = pytest.mark.once("the library koji, and what it is given")

#: Seconds that bridge and client here have for a call of Koji's.
KOJI_SECONDS = 2.0


@pytest.fixture(scope="module")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[KojiHub, KojiHub]]:
    """The default instance's hub, and that of the instance `second`."""
    directory = tmp_path_factory.mktemp("hubs")
    with KojiHub(directory / "first") as first, KojiHub(directory / "second") as second:
        yield first, second


@pytest.fixture(scope="module")
def running(
    template: Site, hubs: tuple[KojiHub, KojiHub], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """A site with the key `k`, whose bridge and client know two instances."""
    site = Site.copy(template, tmp_path_factory.mktemp("koji") / "site")
    site.path("downloads").mkdir()
    configure(site, *hubs)
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        done(site, "new-key", "other", secrets=[ADMIN, "other-pw"])
        yield site
        assert leftovers(site) == []
        assert list(site.path("downloads").iterdir()) == []


def configure(site: Site, first: KojiHub, second: KojiHub, further: str = "") -> None:
    """Write the configuration: of the client's, only what needs no login."""
    lines = f"koji-timeout: {KOJI_SECONDS}\nkoji-instances: second third\n"
    site.extra = {
        "bridge": {
            "koji": f"{lines}koji-config: {first.configuration()}\n"
            f"koji-config-second: {second.configuration()}\n"
            f"download-directory: {site.path('downloads')}\ndownload-timeout: 5\n{further}"
        },
        "client": {
            "koji": f"{lines}koji-config: {first.configuration(secure=False, cert='')}\n"
            f"koji-config-second: {second.configuration(secure=False, cert='')}\n"
        },
    }
    site.configure()


@pytest.fixture
def hub(hubs: tuple[KojiHub, KojiHub]) -> Iterator[KojiHub]:
    """The default instance's hub, which behaves well afterwards."""
    yield hubs[0]
    for one in hubs:
        state = one.state
        state.instead.clear()
        state.signatures.clear()
        state.calls.clear()
        state.delay = state.trickle = 0


@pytest.fixture(scope="module")
def packages(
    hubs: tuple[KojiHub, KojiHub], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Packages that both hubs have, and one that they have not, by NEVRA."""
    directory = tmp_path_factory.mktemp("packages")
    made = [
        build(directory),
        build(directory, "epochal", epoch=7),
        build(directory, "sourced", source=True),
    ]
    for hub in hubs:
        names = [hub.add(package) for package in made]
    return dict(zip(names, made, strict=True))


@pytest.fixture(scope="module")
def unknown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A package that no hub has."""
    return build(tmp_path_factory.mktemp("unknown"), "unknown")


@pytest.fixture(scope="module")
def rpm(running: Site, tmp_path_factory: pytest.TempPathFactory) -> Rpm:
    """An rpm database that has the public key `k`."""
    public = done(running, "get-public-key", "k", secrets=["k-pw"])
    return Rpm(tmp_path_factory.mktemp("rpmdb"), public)


SAMPLE = "sample-1.2-3.noarch"


def same_but_signed(package: Path, signed: Path) -> None:
    """`signed` is `package` with another signature header."""
    before, after = head_of(package), head_of(signed)
    assert before.main.raw == after.main.raw
    assert package.read_bytes()[before.length :] == signed.read_bytes()[after.length :]


def stored_is_what_came_back(hub: KojiHub, signed: Path) -> None:
    """The hub has one signature: the header of `signed`, padded as it is there."""
    (header,) = hub.state.signatures.values()
    head = head_of(signed)
    assert header == signed.read_bytes()[96 : head.main_offset]


# ------------------------------------------------------------------------------------ fetching


def test_an_rpm_is_fetched_by_its_name(
    running: Site, hub: KojiHub, packages: dict[str, Path], rpm: Rpm, tmp_path: Path
) -> None:
    for number, (nevra, package) in enumerate(packages.items()):
        out = tmp_path / f"{number}.rpm"
        assert done(running, "sign-rpm", "-o", str(out), "k", nevra, secrets=["k-pw"]) == b""
        assert len(rpm.signatures(out)) == 1
        same_but_signed(package, out)
    # There is nothing here to replace: without -o it goes to standard output.
    out.write_bytes(done(running, "sign-rpm", "k", SAMPLE, secrets=["k-pw"], cwd=tmp_path))
    assert len(rpm.signatures(out)) == 1
    # Nobody logs in to read.
    assert hub.called("sslLogin") == []
    assert hub.state.signatures == {}
    # With an epoch, which must be the right one.
    name = "epochal-7:1.2-3.noarch"
    done(running, "sign-rpm", "-o", str(out), "k", name, secrets=["k-pw"])
    line = failure(running, "sign-rpm", "k", "epochal-8:1.2-3.noarch", secrets=["k-pw"])
    assert "another epoch" in line


def test_many_are_fetched(
    running: Site, hub: KojiHub, packages: dict[str, Path], unknown: Path, rpm: Rpm, tmp_path: Path
) -> None:
    """From Koji and from here, with one that Koji does not have: in one request."""
    out = tmp_path / "out"
    words = ["sign-rpms", "-o", str(out), "k", *packages, str(unknown), "none-1-1.noarch"]
    result = running.sigul(*words, secrets=["k-pw"], code=1)
    assert re.fullmatch(
        r"Error signing none-1-1.noarch: Koji at \S+ has no RPM none-1-1.noarch: .*",
        *signing_errors(result.stderr),
    )
    made = {package.name: package for package in [*packages.values(), unknown]}
    assert {path.name for path in out.iterdir()} == made.keys()
    for name, package in made.items():
        assert len(rpm.signatures(out / name)) == 1
        same_but_signed(package, out / name)


def test_what_is_found_before_anything_is_asked(running: Site, packages: dict[str, Path]) -> None:
    assert "leave --head-signing out" in failure(running, "sign-rpm", "--head-signing", "k", SAMPLE)
    for name in ("no name", "none.rpm", "sample-1.2-3.noarch.rpm", "a/b-1-1.noarch"):
        assert f"'{name}' cannot be read" in failure(running, "sign-rpm", "k", name)
    line = failure(running, "sign-rpm", "-k", "fourth", "k", SAMPLE, secrets=["k-pw"])
    assert line.startswith("there is no Koji instance 'fourth' here; ")


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_an_rpm_that_is_not_the_hubs(
    running: Site, hub: KojiHub, packages: dict[str, Path], unknown: Path, many: bool,
    tmp_path: Path, rpm: Rpm,
) -> None:  # fmt: skip
    """The file under its address has changed: neither bridge nor server takes it."""
    (address,) = [path for path in hub.state.files if path.endswith(f"/{SAMPLE}.rpm")]
    good = hub.state.files[address]
    other = unknown.read_bytes()
    try:
        for content, reason in (
            (other, "is not the RPM that Koji has a record of"),
            (good[:-1], ""),
            (good[:1000], "is no whole RPM"),
            (b"junk", "is no whole RPM"),
        ):
            hub.state.files[address] = content
            line = sign_and_fail(running, SAMPLE, many, tmp_path)
            assert reason in line
            assert line.startswith("the bridge says: " if reason else "The RPM file is corrupt: ")
        del hub.state.files[address]
        assert "404" in sign_and_fail(running, SAMPLE, many, tmp_path)
    finally:
        hub.state.files[address] = good
    # A record that has changed between the client's question and the bridge's.
    (row,) = [row for row in hub.state.rpms if row["name"] == "sample"]
    answers = iter([row["payloadhash"], "0" * 32])
    hub.state.instead["getRPM"] = lambda row: (
        {**row, "payloadhash": next(answers)} if row["name"] == "sample" else row
    )
    assert "does not have that rpm-sigmd5" in sign_and_fail(running, SAMPLE, many, tmp_path)


def test_a_server_that_takes_no_md5_alone(
    template: Site, hubs: tuple[KojiHub, KojiHub], packages: dict[str, Path], tmp_path: Path
) -> None:
    """The hub has no better digest: what it has is refused by name, and signed from a file."""
    site = Site.copy(template, tmp_path / "site")
    site.path("downloads").mkdir()
    configure(site, *hubs)
    site.extra["server"] = {"server": "accept-sigmd5-alone: no\n"}
    site.configure()
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        line = sign_and_fail(site, SAMPLE, False, tmp_path)
        assert line.startswith("Missing RPM file authentication by client: its rpm-sigmd5 is MD5")
        out = tmp_path / "out"
        words = ["sign-rpms", "-o", str(out), "k", SAMPLE, str(packages["epochal-1.2-3.noarch"])]
        refused = site.sigul(*words, secrets=["k-pw"], code=1).stderr
        assert signing_errors(refused) == [f"Error signing {SAMPLE}: {line}"]
        assert [path.name for path in out.iterdir()] == ["epochal-1.2-3.noarch.rpm"]
        file = str(tmp_path / "from-a-file.rpm")
        done(site, "sign-rpm", "-o", file, "k", str(packages[SAMPLE]), secrets=["k-pw"])
        assert leftovers(site) == []


def sign_and_fail(site: Site, nevra: str, many: bool, directory: Path) -> str:
    """Sign one RPM of Koji's, which fails; why."""
    if not many:
        out = directory / "out.rpm"
        line = failure(site, "sign-rpm", "-o", str(out), "k", nevra, secrets=["k-pw"])
        assert not out.exists()
        return line
    out = directory / "out"
    result = site.sigul(
        "sign-rpms", "-o", str(out), "k", nevra, "epochal-1.2-3.noarch", secrets=["k-pw"], code=1
    )
    (line,) = signing_errors(result.stderr)
    # The other one is signed all the same.
    (signed,) = out.iterdir()
    assert signed.name == "epochal-1.2-3.noarch.rpm"
    signed.unlink()
    assert line.startswith(f"Error signing {nevra}: ")
    return line.removeprefix(f"Error signing {nevra}: ")


# ------------------------------------------------------------------------------------- storing


@pytest.mark.parametrize("options", [[], ["--head-signing"]], ids=["whole", "head"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_signature_is_stored(
    running: Site, hub: KojiHub, packages: dict[str, Path], rpm: Rpm, many: bool,
    options: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    """Of a file that is here: in Koji is what came back."""
    package, out = packages[SAMPLE], tmp_path / "out"
    words = ["sign-rpms" if many else "sign-rpm", "--store-in-koji", *options]
    assert done(running, *words, "-o", str(out), "k", str(package), secrets=["k-pw"]) == b""
    signed = out / package.name if many else out
    assert len(rpm.signatures(signed)) == 1
    stored_is_what_came_back(hub, signed)
    (call,) = hub.called("addRPMSig")
    assert (call.user, call.proxied) == ("sigul-bridge", None)
    assert len(hub.called("sslLogin")) == 1
    # Once the client has all it wants.
    wait_until(lambda: hub.called("logout"), 10, "the end of the session")
    # Once more: the one that is there stays, and that is no error.
    before = dict(hub.state.signatures)
    assert done(running, *words, "-o", str(out), "k", str(package), secrets=["k-pw"]) == b""
    assert hub.state.signatures == before
    # Another key's stands beside it.
    words = [*words, "-o", str(out), "other", str(package)]
    assert done(running, *words, secrets=["other-pw"]) == b""
    assert len(hub.state.signatures) == 2


#: `sigul`, which as 1.2's does not name the RPMs that it sends.
NAMELESS = """
import sys
from sigul_stack.client.rpm_packages import RPMOptions
named = RPMOptions.fields_of
RPMOptions.fields_of = lambda self, head, remote: named(self, None, remote)
from sigul_stack.cli.sigul import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_head_without_a_name_is_stored_by_its_own(
    running: Site, hub: KojiHub, packages: dict[str, Path], many: bool, tmp_path: Path
) -> None:
    files = list(map(str, packages.values()))[: 3 if many else 1]
    words = ["sign-rpms" if many else "sign-rpm", "--store-in-koji", "--koji-only"]
    result = subprocess.run(
        [sys.executable, "-c", NAMELESS, "--batch", "-c", str(running.path("client.conf")), *words,
         "--head-signing", "k", *files],
        input=nul("k-pw"), env=running.environment, capture_output=True, timeout=PROGRAM_SECONDS,
    )  # fmt: skip
    assert (result.returncode, result.stderr) == (0, b"")
    assert len(hub.state.signatures) == len(files)


@pytest.mark.parametrize("options", [[], ["--head-signing"]], ids=["whole", "head"])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_fetched_stored_and_not_returned(
    running: Site, hub: KojiHub, packages: dict[str, Path], rpm: Rpm, many: bool,
    options: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    names = [*packages] if many else [SAMPLE]
    words = ["sign-rpms" if many else "sign-rpm", "--store-in-koji", "--koji-only", *options]
    words += ["k", *names]
    assert done(running, *words, secrets=["k-pw"], cwd=tmp_path) == b""
    assert list(tmp_path.iterdir()) == []
    assert len(hub.state.signatures) == len(names)
    assert len(hub.called("sslLogin")) == 1
    # What is stored, put into the RPM, makes a signed one.
    for number, ((rpm_number, _key), header) in enumerate(hub.state.signatures.items()):
        (row,) = [row for row in hub.state.rpms if row["id"] == rpm_number]
        package = packages[f"{row['name']}-1.2-3.{row['arch']}"]
        head = head_of(package)
        whole = tmp_path / f"{number}.rpm"
        whole.write_bytes(
            package.read_bytes()[:96] + header + package.read_bytes()[head.main_offset :]
        )
        assert len(rpm.signatures(whole)) == 1


@pytest.mark.parametrize("options", [[], ["--koji-only"], ["--head-signing"]])
@pytest.mark.parametrize("many", [False, True], ids=["one", "many"])
def test_a_signature_that_cannot_be_stored_is_an_error(
    running: Site, hub: KojiHub, packages: dict[str, Path], unknown: Path, rpm: Rpm, many: bool,
    options: list[str], tmp_path: Path,
) -> None:  # fmt: skip
    """Of an RPM that Koji does not have, among others that are signed and stored."""
    words = ["sign-rpms" if many else "sign-rpm", "--store-in-koji", *options]
    out = tmp_path / "out"
    if "--koji-only" not in options:
        words += ["-o", str(out)]
    files = [str(unknown)]
    if many:
        files = [str(packages[SAMPLE]), *files, str(packages["epochal-1.2-3.noarch"])]
    code = 1 if many else MAY_HAVE_HAPPENED
    result = running.sigul(*words, "k", *files, secrets=["k-pw"], code=code)
    reason = r"the bridge says: Koji at \S+ has no RPM unknown-1.2-3.noarch; check its name"
    reason += "\n" if many else f"; {MAYBE}\n"
    start = f"ERROR: Error signing {unknown}: " if many else "Error: "
    assert re.fullmatch(re.escape(start) + reason, result.stderr.decode())
    assert len(hub.state.signatures) == (2 if many else 0)
    if "--koji-only" not in options:
        assert len(list(out.iterdir()) if out.is_dir() else []) == (2 if many else 0)
        assert out.exists() == many


def test_another_rpm_of_that_name_gets_no_signature(
    running: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path
) -> None:
    twin = build(tmp_path, more="echo another > %{buildroot}/opt/sample/file")
    assert sigmd5(twin) != sigmd5(packages[SAMPLE])
    words = ["sign-rpm", "--store-in-koji", "-o", str(tmp_path / "out"), "k", str(twin)]
    assert "is another RPM than the one that was signed" in failure(
        running, *words, secrets=["k-pw"], code=MAY_HAVE_HAPPENED
    )
    assert hub.state.signatures == {}


def test_an_answer_that_is_lost_is_looked_for(
    running: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path
) -> None:
    """The hub stores the signature, and its answer is nonsense."""
    hub.state.instead["addRPMSig"] = lambda _usual: b"no XML at all"
    words = ["sign-rpm", "--store-in-koji", "--koji-only", "k", SAMPLE]
    assert done(running, *words, secrets=["k-pw"]) == b""
    assert len(hub.state.signatures) == 1


# ----------------------------------------------------------------------------------- instances


def test_instances(
    running: Site, hub: KojiHub, hubs: tuple[KojiHub, KojiHub], packages: dict[str, Path]
) -> None:
    words = ["--store-in-koji", "--koji-only", "--koji-instance", "second", "k", SAMPLE]
    for command in ("sign-rpm", "sign-rpms"):
        done(running, command, *words, secrets=["k-pw"])
    assert len(hubs[1].state.signatures) == 1
    # The bridge may log out of an earlier test's session just now.
    assert {call.method for call in hub.state.calls} <= {"logout"}
    # Known here and not set up: the bridge's configuration has no file for it, nor has Koji.
    line = failure(running, "sign-rpm", "-k", "third", "k", SAMPLE, secrets=["k-pw"])
    assert "no configuration for profile name: third" in line
    # Known to the client alone.
    running.extra["client"]["koji"] += "koji-instances: elsewhere\n"
    text = running.path("client.conf").read_text()
    config = running.path("more.conf")
    config.write_text(text.replace("second third", "second elsewhere"))
    words[3] = "elsewhere"
    path = str(packages[SAMPLE])
    line = failure(
        running, "sign-rpm", "--store-in-koji", "--koji-only", "-k", "elsewhere", "k", path,
        secrets=["k-pw"], config=config,
    )  # fmt: skip
    assert line.startswith("the bridge says: there is no Koji instance 'elsewhere' here")


# --------------------------------------------------------------------------- a hub that is ill


def test_a_hub_that_is_not_there(
    template: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path, rpm: Rpm
) -> None:
    """For the bridge alone; then for the client, too."""
    site = Site.copy(template, tmp_path / "site")
    nowhere = f"https://127.0.0.1:{free_port()}/kojihub"
    site.extra = {
        "bridge": {"koji": f"koji-config: {hub.configuration(server=nowhere)}\n"},
        "client": {"koji": f"koji-config: {hub.configuration(secure=False)}\n"},
    }
    site.configure()
    path = str(packages[SAMPLE])
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        # What is fetched is so before a server has the request, what is stored is so behind it.
        for words, code in (
            (["k", SAMPLE], 1),
            (["--store-in-koji", "k", path], MAY_HAVE_HAPPENED),
        ):
            line = failure(
                site, "sign-rpm", "-o", str(tmp_path / "o"), *words, secrets=["k-pw"], code=code
            )
            assert line.startswith(f"the bridge says: Koji at {nowhere}: ")
            assert "refused" in line
        # The request that needs no hub is not disturbed.
        words = ["sign-rpms", "-o", str(tmp_path / "out"), "k", path, "epochal-1.2-3.noarch"]
        result = site.sigul(*words, secrets=["k-pw"], code=1)
        (line,) = signing_errors(result.stderr)
        assert line.startswith(
            f"Error signing epochal-1.2-3.noarch: the bridge says: Koji at {nowhere}"
        )
        assert [file.name for file in (tmp_path / "out").iterdir()] == [f"{SAMPLE}.rpm"]
        site.extra["client"]["koji"] = f"koji-config: {hub.configuration(server=nowhere)}\n"
        site.client_configuration("admin")
        line = failure(site, "sign-rpm", "k", SAMPLE, secrets=["k-pw"])
        assert line.startswith(f"Koji at {nowhere}: ")


@pytest.mark.long("sigul_stack/bridge", "sigul_stack/kojihub.py")
def test_a_hub_that_is_slow(
    running: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path
) -> None:
    hub.state.delay = 60
    line = failure(running, "sign-rpm", "k", SAMPLE, secrets=["k-pw"])
    assert "timed out" in line
    words = ["sign-rpm", "--store-in-koji", "--koji-only", "k", str(packages[SAMPLE])]
    line = failure(running, *words, secrets=["k-pw"], code=MAY_HAVE_HAPPENED)
    assert line.startswith("the bridge says: Koji at ")
    assert "timed out" in line
    # Each step in time, all together not.
    too_long = f"fetching {SAMPLE} took longer than 5 s (download-timeout)"
    hub.state.delay = 1.5
    for many in (False, True):
        line = sign_and_fail(running, SAMPLE, many, tmp_path)
        assert line == f"the bridge says: {too_long}"
    hub.state.delay = 0
    # A download that never comes to its end, though it never stops.
    hub.state.trickle = 0.1
    line = failure(running, "sign-rpm", "-o", str(tmp_path / "o"), "k", SAMPLE, secrets=["k-pw"])
    assert line == f"the bridge says: {too_long}"


HOSTILE: list[tuple[str, object]] = [
    ("getAPIVersion", 2),
    ("getAPIVersion", b"<nonsense"),
    ("getAPIVersion", b"<?xml version='1.0'?><methodResponse/>"),
    ("getRPM", ["a list"]),
    ("getRPM", {}),
    ("getRPM", {"id": "1"}),
    ("getRPM", {"name": "other"}),
    ("getRPM", {"name": 5}),
    ("getRPM", {"epoch": "x"}),
    ("getRPM", {"payloadhash": "../../etc"}),
    ("getRPM", {"build_id": None}),
    ("getBuild", None),
    ("getBuild", {"name": "../../.."}),
    ("getBuild", {"version": "a/b"}),
    ("getBuild", {"release": ""}),
    ("getBuild", {"volume_name": "..%2f"}),
    ("getBuild", {"volume_name": 7}),
    ("queryRPMSigs", "none"),
    ("queryRPMSigs", [7]),
    ("sslLogin", b"<nonsense"),
    ("sslLogin", None),
]


@pytest.mark.parametrize(("method", "answer"), HOSTILE, ids=str)
def test_an_answer_that_cannot_be_costs_the_request(
    running: Site, hub: KojiHub, packages: dict[str, Path], method: str, answer: object
) -> None:
    def instead(usual: object) -> object:
        if isinstance(usual, dict) and isinstance(answer, dict) and answer:
            return {**usual, **answer}
        return answer

    hub.state.instead[method] = instead
    words = ["sign-rpm", "--store-in-koji", "--koji-only", "k", SAMPLE]
    result = running.sigul(*words, secrets=["k-pw"], code=None)
    # A signature is stored once it is made.
    assert result.returncode in (1, MAY_HAVE_HAPPENED)
    assert "Koji" in error_line(result)
    assert "unforeseen" not in running.processes[0].text
    assert hub.state.signatures == {}


def test_an_answer_without_end(running: Site, hub: KojiHub) -> None:
    hub.state.instead["getRPM"] = lambda _usual: b"<?xml version='1.0'?><a>" + b" " * (5 << 20)
    line = failure(running, "sign-rpm", "k", SAMPLE, secrets=["k-pw"])
    assert "sent more than 4194304 bytes" in line


def test_an_rpm_over_the_limit(
    template: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    configure(site, hub, hub)
    site.path("downloads").mkdir()
    size = packages[SAMPLE].stat().st_size
    site.extra["bridge"]["bridge"] = f"max-rpms-payloads-size: {size + 10}\n"
    site.configure()
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        out = tmp_path / "out"
        words = ["sign-rpms", "-o", str(out), "k", SAMPLE, "epochal-1.2-3.noarch"]
        result = site.sigul(*words, secrets=["k-pw"], code=1)
        (line,) = result.stderr.decode().splitlines()
        assert re.search(r"has more than the 10 bytes that are allowed$", line)
        assert [file.name for file in out.iterdir()] == [f"{SAMPLE}.rpm"]


# -------------------------------------------------------------------------------------- logins


def test_logins(template: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path) -> None:
    """By GSSAPI, on behalf of the user; and what the hub refuses."""
    site = Site.copy(template, tmp_path / "site")
    configure(site, hub, hub, "proxy-auth: yes\n")
    config = hub.configuration(authtype="gssapi", principal="sigul/bridge", cert="")
    bridge_koji = site.extra["bridge"]["koji"]
    site.extra["bridge"]["koji"] = re.sub("koji-config: .*", f"koji-config: {config}", bridge_koji)
    site.configure()
    site.path("downloads").mkdir()
    site.variables["PYTHONPATH"] = gssapi_stand_in(tmp_path / "stand-in")
    words = ["sign-rpm", "--store-in-koji", "--koji-only", "k", SAMPLE]
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        line = failure(site, *words, secrets=["k-pw"], code=None)
        assert "is not authorized to login other users" in line
        hub.state.may_proxy = {"sigul/bridge", "sigul-bridge"}
        done(site, *words, secrets=["k-pw"])
        (call,) = hub.called("addRPMSig")
        assert (call.user, call.proxied) == ("sigul/bridge", "admin")
        # By certificate, the same.
        done(site, *words[:3], "-k", "second", *words[3:], secrets=["k-pw"])
        hub.state.may_proxy = set()
        line = failure(site, *words[:3], "-k", "second", *words[3:], secrets=["k-pw"], code=None)
        assert "sigul-bridge is not authorized" in line


def test_a_certificate_that_is_not_there_and_a_way_that_is_not_known(
    template: Site, hub: KojiHub, packages: dict[str, Path], tmp_path: Path
) -> None:
    site = Site.copy(template, tmp_path / "site")
    configure(site, hub, hub)
    site.path("downloads").mkdir()
    configs = {
        "no-cert": hub.configuration(cert="/nonexistent"),
        "password": hub.configuration(authtype="password"),
        "unreadable": tmp_path / "none",
        "no-topurl": hub.configuration(topurl=""),
        "wrong-ca": hub.configuration(serverca=str(site.path("hosts"))),
    }
    lines = "".join(f"koji-config-{name}: {path}\n" for name, path in configs.items())
    for program in ("bridge", "client"):
        koji = site.extra[program]["koji"].replace("second third", " ".join(configs))
        site.extra[program]["koji"] = koji + (lines if program == "bridge" else "")
    good = re.search("koji-config: (.*)", site.extra["client"]["koji"])
    assert good is not None
    site.extra["client"]["koji"] += "".join(f"koji-config-{n}: {good[1]}\n" for n in configs)
    site.configure()
    expected = {
        "no-cert": "doesn't exist or is not accessible",
        "password": "authtype password .* is not supported",
        "unreadable": "cannot be read",
        "no-topurl": "has no topurl",
        "wrong-ca": "",
    }
    with site.running():
        done(site, "new-key", "k", secrets=[ADMIN, "k-pw"])
        for name, reason in expected.items():
            words = ["sign-rpm", "--store-in-koji", "--koji-only", "-k", name, "k", SAMPLE]
            line = failure(site, *words, secrets=["k-pw"], code=None)
            assert re.match(f"the bridge says: .*{reason}", line), (name, line)
        assert hub.state.signatures == {}
