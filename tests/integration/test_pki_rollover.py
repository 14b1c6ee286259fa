"""The rollover of a CA, with real handshakes between components that have come differently far."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest

from sigul_stack.checks import any_failed
from sigul_stack.errors import NSSError
from sigul_stack.pki import (
    Authority,
    LeafRequest,
    NSSDatabase,
    Phase,
    Role,
    Rollover,
    RolloverAction,
    inspect_database,
    make_site,
    put_authority,
    put_leaf,
    read_certificates,
    read_password,
    renew_leaf,
)
from sigul_stack.pki.certificate_info import issued
from tests.snapshots import snapshots, tree

from .test_pki_nss import BRIDGE, SERVER, End, dialling, handshake, pki

COMPONENTS = {"bridge": Role.BRIDGE, "server": Role.SERVER, "clients/admin": Role.CLIENT}
#: Who dials whom, under which name: both legs of the outer session, and the inner one.
PATHS = (
    ("server", "bridge", BRIDGE),
    ("clients/admin", "bridge", BRIDGE),
    ("clients/admin", "server", SERVER),
)


@dataclass(frozen=True)
class Control:
    """A control directory: `ca` and the components' databases."""

    root: Path

    @property
    def ca(self) -> Path:
        return self.root / "ca"

    @property
    def directories(self) -> list[Path]:
        return [self.root / name for name in COMPONENTS]

    def authority(self) -> Authority:
        return Authority.open(self.ca, read_password(self.ca / "nss-password"))

    def rollover(self) -> Rollover:
        return Rollover(self.authority(), lambda path: read_password(path / "nss-password"))

    def database(self, name: str) -> NSSDatabase:
        return NSSDatabase(self.root / name, read_password(self.root / name / "nss-password"))

    def end(self, name: str) -> End:
        return End(self.root / name, COMPONENTS[name].nickname)

    def copy(self, target: Path) -> Control:
        shutil.copytree(self.root, target)
        return Control(target)

    def check_handshakes(self) -> None:
        for dials, listens, hostname in PATHS:
            near, far = handshake(dialling(self.end(dials), hostname), self.end(listens))
            assert "error" not in near | far, (dials, listens, near, far)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Control:
    root = tmp_path_factory.mktemp("rollover") / "site"
    make_site(root, bridge=BRIDGE, server=SERVER, users=["admin"], bridge_names=["127.0.0.1"])
    return Control(root)


@pytest.fixture(scope="module")
def stages(made: Control) -> list[Control]:
    """The site before the rollover and after each of its steps."""
    found = [made]
    for step in ("begin", "issue", "finish"):
        control = found[-1].copy(made.root.parent / step)
        rollover = control.rollover()
        if step == "begin":
            rollover.begin(control.directories)
        else:
            getattr(rollover, step)()
        found.append(control)
    return found


@pytest.fixture
def control(made: Control, tmp_path: Path) -> Iterator[Control]:
    """A copy of the site, to change."""
    yield made.copy(tmp_path / "site")


@pytest.mark.parametrize("near_stage", range(4))
@pytest.mark.parametrize("far_stage", range(4))
def test_components_one_step_apart_take_each_others_certificates(
    stages: list[Control], near_stage: int, far_stage: int
) -> None:
    if abs(near_stage - far_stage) > 1:
        # Two steps apart they do not: that is what the steps are for.
        dialler = stages[near_stage].end("server")
        near, far = handshake(dialling(dialler, BRIDGE), stages[far_stage].end("bridge"))
        assert "error" in near | far
        return
    for dials, listens, hostname in PATHS:
        near, far = handshake(
            dialling(stages[near_stage].end(dials), hostname),
            stages[far_stage].end(listens),
            "tls1.3" if near_stage == 2 else "tls1.2",
        )
        assert "error" not in near | far, (dials, listens, near, far)
        assert near["verified"] is far["verified"] is True


def test_what_each_step_leaves(stages: list[Control]) -> None:
    before, begun, issuing, finished = stages
    old, new = before.authority().certificate, finished.authority().certificate
    assert old.subject != new.subject
    assert [stage.rollover().phase for stage in stages] == [
        Phase.NONE, Phase.BEGUN, Phase.ISSUING, Phase.NONE,
    ]  # fmt: skip
    assert begun.authority().certificate == old
    assert issuing.authority().certificate == new
    trusted = [{old}, {old, new}, {old, new}, {new}]
    for stage, authorities in zip(stages, trusted, strict=True):
        assert set(read_certificates(stage.ca / "ca.pem")) == authorities
        for name, role in COMPONENTS.items():
            held = stage.database(name).certificates()
            assert {item.certificate for item in held if item.is_authority} == authorities
            findings = inspect_database(stage.database(name), role)
            assert not any_failed(findings), findings
            assert not [
                item.nickname for item in held if item.is_authority and item.has_private_key
            ]
    for name, role in COMPONENTS.items():
        was = before.database(name).find(role.nickname).certificate
        now = finished.database(name).find(role.nickname).certificate
        assert issued(old, begun.database(name).find(role.nickname).certificate)
        assert issued(new, now)
        assert (was.subject, was.public_key()) == (now.subject, now.public_key())
        assert was.serial_number != now.serial_number
        for kept in ("not_valid_after_utc", "not_valid_before_utc"):
            assert abs(getattr(was, kept) - getattr(now, kept)) < timedelta(hours=1)
        assert len(was.extensions) > 1
        for item in was.extensions:
            if item.oid.dotted_string != "2.5.29.35":  # the issuer's identifier
                assert now.extensions.get_extension_for_oid(item.oid).value == item.value
    # The old CA's private key is gone, and nothing is left beside the database.
    authority = finished.database("ca")
    assert [item.nickname for item in authority.certificates()] == ["sigul-ca"]
    assert authority.other_key_ids() == []
    assert {path.name for path in finished.ca.iterdir()} == {
        path.name for path in before.ca.iterdir()
    }


@pytest.mark.long("sigul_stack/pki", "sigul_stack/cli/pki.py")
@pytest.mark.once("the order of the steps; what NSS makes of each is in the others")
# More than 5 s: a rollover of five databases, one at a time, and handshakes after each.
def test_each_step_may_be_repeated_and_taken_one_database_at_a_time(control: Control) -> None:
    for directory in control.directories:
        control.rollover().begin([directory])
    assert {item.action for item in control.rollover().begin(control.directories)} == {
        RolloverAction.KEPT
    }
    for directory in reversed(control.directories):
        assert [item.action for item in control.rollover().issue([directory])] == [
            RolloverAction.ISSUED
        ]
        control.check_handshakes()
    assert {item.action for item in control.rollover().issue()} == {RolloverAction.KEPT}
    # A leaf that is renewed in between, and a new component: of the new CA, and both trusted.
    renew_leaf(control.authority(), control.database("bridge"), Role.BRIDGE.nickname)
    make_site(control.root, bridge=BRIDGE, server=SERVER, users=["admin", "alice"])
    alice = control.database("clients/alice").certificates()
    assert sum(item.is_authority for item in alice) == 2
    control.check_handshakes()
    done = control.rollover().finish([control.root / "clients" / "alice"])
    assert [item.action for item in done] == [RolloverAction.RETIRED] * 4
    assert control.rollover().finish() == []
    control.check_handshakes()
    # And once more, with other keys.
    control.rollover().begin(control.directories)
    keys = {name: control.database(name).find(role.nickname).certificate.public_key()
            for name, role in COMPONENTS.items()}  # fmt: skip
    control.rollover().issue(new_key=True)
    for name, role in COMPONENTS.items():
        assert control.database(name).find(role.nickname).certificate.public_key() != keys[name]
    control.rollover().finish()
    control.check_handshakes()


@pytest.mark.once("the order of the steps; what NSS makes of each is in the others")
def test_steps_out_of_order_are_refused_with_what_to_do(control: Control) -> None:
    bridge, server, client = control.directories
    with pytest.raises(NSSError, match="rollover begin --ca"):
        control.rollover().issue()
    assert control.rollover().finish() == []
    control.rollover().begin([bridge, server])
    with pytest.raises(NSSError, match="rollover issue --ca"):
        control.rollover().finish()
    with pytest.raises(NSSError, match=f"rollover begin --ca [^ ]*/ca --into {client}, and"):
        control.rollover().issue([client])
    assert control.rollover().phase is Phase.BEGUN
    control.rollover().begin([client])
    control.rollover().issue([server])
    with pytest.raises(
        NSSError, match=f"still needed in {bridge}, {client}; first: .* --into {bridge}"
    ):
        control.rollover().finish()
    control.check_handshakes()
    # A component that is no more keeps nobody.
    shutil.rmtree(client)
    control.rollover().issue()
    assert len(control.rollover().finish()) == 2


@pytest.mark.once("our own names, and what our program looks at")
def test_a_component_that_lost_its_trust_is_named(control: Control) -> None:
    control.rollover().begin(control.directories)
    shutil.rmtree(control.root / "bridge")
    make_site(control.root / "other", bridge=BRIDGE, server=SERVER, users=[])
    shutil.copytree(control.root / "other" / "bridge", control.root / "bridge")
    with pytest.raises(NSSError, match="not every component trusts the new CA"):
        control.rollover().issue()
    with pytest.raises(NSSError, match="issued by another CA"):
        control.rollover().begin([])
    with pytest.raises(NSSError, match="does not contain a valid NSS database"):
        control.rollover().begin([control.root / "nowhere"])


def test_names_of_authorities_differ(control: Control) -> None:
    name = control.authority().certificate.subject.rfc4514_string().removeprefix("CN=")
    with pytest.raises(NSSError, match="NSS tells CAs apart by it"):
        control.rollover().begin(control.directories, name=name)
    assert control.rollover().phase is Phase.NONE


@pytest.mark.once("the order of the steps; what NSS makes of each is in the others")
def test_a_leaf_cut_short_by_the_old_authoritys_end_gets_its_usual_time(tmp_path: Path) -> None:
    make_site(
        tmp_path, bridge=BRIDGE, server=SERVER, users=["admin"],
        authority_lifetime=timedelta(days=60),
    )  # fmt: skip
    control = Control(tmp_path)
    control.rollover().begin(control.directories)
    control.rollover().issue()
    leaf = control.database("bridge").find(Role.BRIDGE.nickname)
    assert leaf.days_left() > 700


@pytest.mark.once("the command line")
def test_on_the_command_line(control: Control, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(Exception, match="name the NSS databases of all components with --into"):
        pki("rollover", "begin", "--ca", control.ca)
    pki("rollover", "begin", "--ca", control.ca, "--into", *control.directories, "--years", "5")
    assert "rollover: begun." in capsys.readouterr().out
    pki("list", control.ca)
    assert "(the next CA)" in capsys.readouterr().out
    pki("issue", "--ca", control.ca, "--into", control.root / "clients/bob", "--role", "client",
        "--name", "bob")  # fmt: skip
    capsys.readouterr()
    pki("rollover", "issue", "--ca", control.ca, "--into", control.root / "bridge", "--json")
    answer = json.loads(capsys.readouterr().out)
    assert answer["phase"] == "issuing"
    assert answer["done"] == [{"database": str(control.root / "bridge"), "result": "issued"}]
    by_new = {item["database"]: item["issued_by_new"] for item in answer["databases"]}
    assert by_new == {
        str(control.root / name): name == "bridge"
        for name in ("bridge", "server", "clients/admin", "clients/bob")
    }
    pki("list", control.ca)
    assert "(the old CA)" in capsys.readouterr().out
    assert pki("check", control.root / "server", "--role", "server") == 0
    out = capsys.readouterr().out
    assert "'sigul-ca' and 'sigul-ca-2' are trusted" in out
    assert "'sigul-ca' has issued 'sigul-server-cert'" in out
    pki("rollover", "issue", "--ca", control.ca)
    pki("rollover", "finish", "--ca", control.ca)
    assert capsys.readouterr().out.endswith("One CA issues and is trusted.\n")
    pki("rollover", "status", "--ca", control.ca, "--json")
    assert json.loads(capsys.readouterr().out)["phase"] == "none"


@pytest.mark.once("our own names, and what our program looks at")
def test_an_authority_with_a_nickname_of_its_own_keeps_it(tmp_path: Path) -> None:
    make_site(tmp_path / "one", bridge=BRIDGE, server=SERVER, users=["admin"])
    first = Control(tmp_path / "one")
    own = first.authority()
    database = first.database("ca")
    key = database.export_key("sigul-ca")
    with database.changing() as store:
        store.delete_certificates("sigul-ca")
        put_authority(store, own.certificate, "my-ca")
        assert key.public_key() == own.certificate.public_key()
    first.rollover().begin(first.directories)
    first.rollover().issue()
    first.rollover().finish()
    assert first.authority().nickname == "my-ca"
    first.check_handshakes()
    fresh = first.authority().issue(LeafRequest(Role.CLIENT, "bob"))
    with first.database("clients/admin").changing() as store:
        put_leaf(store, fresh, "bob")


ROLL = """
import sys
from pathlib import Path
from sigul_stack.pki import Authority, Rollover, read_password

ca, directories = Path(sys.argv[1]), [Path(name) for name in sys.argv[2:]]
authority = Authority.open(ca, read_password(ca / "nss-password"))
rollover = Rollover(authority, lambda path: read_password(path / "nss-password"))
rollover.begin(directories)
rollover.issue()
rollover.finish()
"""


@pytest.fixture(scope="module")
def cut_off(made: Control) -> list[Control]:
    """What a rollover leaves that is killed: all that programs can find, in order."""
    control = made.copy(made.root.parent / "cut-off")
    copies = snapshots(
        control.root, made.root.parent / "steps", ROLL, control.ca, *control.directories
    )
    # Of those in which programs find the same, the one with the most left over.
    states = {}
    for copy in sorted(copies, key=lambda copy: len(tree(copy))):
        found = {
            path.relative_to(copy): path.read_bytes()
            for path in sorted(copy.glob("**/[!.]*"))
            if path.is_file() and not path.parent.name.startswith(".")
        }
        states[tuple(found.items())] = copy
    return [Control(copy) for copy in sorted(states.values())]


def check_a_killed_rollover(control: Control) -> None:
    """Every component works, the CA issues, and the rollover can be completed."""
    control.check_handshakes()
    # The CA issues, whichever it is just now, and what it issues is taken.
    renew_leaf(control.authority(), control.database("server"), Role.SERVER.nickname)
    control.check_handshakes()
    # As an operator would: from its first step on.
    control.rollover().begin(control.directories)
    control.rollover().issue()
    control.rollover().finish()
    control.check_handshakes()
    assert control.rollover().phase is Phase.NONE
    assert not list(control.root.rglob(".*"))


@pytest.mark.long("sigul_stack/pki", "tests/snapshots.py")
def test_killing_a_rollover_is_tried_in_all_its_phases(cut_off: list[Control]) -> None:
    phases = [control.rollover().phase for control in cut_off]
    in_order = [phase for phase, _times in groupby(phases)]
    assert in_order == [Phase.NONE, Phase.BEGUN, Phase.ISSUING, Phase.NONE]
    # A dozen changes of one or two files each, and what lies beside the CA: 32 with NSS 3.87.
    assert len(phases) >= 30


@pytest.mark.long("sigul_stack/pki", "tests/snapshots.py")
@pytest.mark.timeout(1800)
def test_a_rollover_that_is_killed_anywhere_leaves_a_site_that_works(
    cut_off: list[Control], tmp_path: Path
) -> None:
    for number, control in enumerate(cut_off):
        check_a_killed_rollover(control.copy(tmp_path / str(number)))
