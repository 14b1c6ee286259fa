"""What a witness takes of servers' logs, and what it complains of; real logs, real files."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import shutil
import threading
from collections.abc import Callable, Iterator
from multiprocessing.synchronize import Barrier
from pathlib import Path

import pytest

from sigul_stack.errors import LogComplaint, SigulError
from sigul_stack.evidence import signing_log
from sigul_stack.evidence.evidence import Evidence
from sigul_stack.evidence.given_files import read_keys
from sigul_stack.evidence.leaf import Leaf, Result
from sigul_stack.evidence.signing_log import SigningLog
from sigul_stack.evidence.witness import Witness
from sigul_stack.evidence.witness_state import MAX_KEPT, Kind
from sigul_stack.formats.merkle_tree import NotProven, hash_leaf
from sigul_stack.formats.signed_note import (
    WITNESS_KEY,
    Checkpoint,
    Note,
    PrivateKey,
    cosignature_time,
    open_checkpoint,
)

SERVER = "sigul-server.example.org"
NOW = 1_796_000_000


def leaf(number: int = 0) -> Leaf:
    return Leaf("sign-data", Result.OK, request=f"{number:08x}", user="ann")


class Log:
    """A server's log in `directory`, open as long as the test."""

    def __init__(self, directory: Path, name: str = "a", previous: Note | None = None) -> None:
        self.directory = directory
        if not directory.exists():
            signing_log.create(directory, name, previous=previous)
        self.open = SigningLog.open(directory)

    def grow(self, count: int = 1) -> int:
        """Append so many leaves; the last one's index."""
        self.open.append([leaf(number) for number in range(count)])
        return self.open.size - 1

    def evidence(self, witness: Witness, index: int | None = None) -> Evidence:
        """What a server answers to this witness, about a new leaf unless another is named."""
        seen = witness.seen(SERVER)
        key = self.open.public_key.id
        return self.open.evidence(
            self.grow() if index is None else index,
            seen.get(key, 0),
            introduced=bool(seen) and key not in seen,
        )

    def copy(self, directory: Path) -> Log:
        """The log, copied at this moment and opened: what is put back, or forked."""
        self.open.close()
        shutil.copytree(self.directory, directory)
        self.open = SigningLog.open(self.directory)
        return Log(directory)


MakeLog = Callable[..., Log]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[MakeLog]:
    """Makes logs, which are closed with the test."""
    made: list[Log] = []

    def log(name: str = "a", previous: Note | None = None) -> Log:
        made.append(Log(tmp_path / f"log-{len(made)}", name, previous))
        return made[-1]

    yield log
    for item in made:
        item.open.close()


@pytest.fixture
def witness(tmp_path: Path) -> Witness:
    """A witness with a file."""
    return Witness(tmp_path / "seen.json", clock=lambda: NOW)


def complaint_of(witness: Witness) -> Kind:
    (found,) = witness.complaints()
    assert found.server == SERVER
    return found.kind


# ----------------------------------------------------------------------------------- what is taken


def test_the_first_log_of_a_server_is_taken_and_each_next_checkpoint(
    witness: Witness, make: MakeLog
) -> None:
    log = make()
    for _ in range(5):
        evidence = log.evidence(witness)
        proof = witness.check(SERVER, evidence)
        assert proof is not None
        proof.verify(log.open.public_key)
        (known,) = witness.logs()
        assert known.key == log.open.public_key
        assert known.checkpoint == Checkpoint.of(log.open.checkpoint)
        log.grow(300)
    assert witness.complaints() == []
    assert witness.file.path is not None
    assert witness.file.path.stat().st_mode & 0o777 == 0o600


def test_another_witness_of_the_file_knows_it(witness: Witness, make: MakeLog) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    other = Witness(witness.file.path)
    assert other.seen() == witness.seen() == {log.open.public_key.id: 2}


def test_memory_alone_is_one_too(make: MakeLog, tmp_path: Path) -> None:
    witness = Witness(None)
    log = make()
    witness.check(SERVER, log.evidence(witness))
    assert witness.seen() == {log.open.public_key.id: 2}
    with pytest.raises(LogComplaint):
        witness.check(SERVER, None)
    with pytest.raises(LogComplaint):
        witness.begin(SERVER)


def test_a_server_without_a_log_is_no_complaint_unless_one_is_required(witness: Witness) -> None:
    assert witness.check(SERVER, None) is None
    with pytest.raises(LogComplaint, match="require-signing-log wants one"):
        witness.begin(SERVER, required=True).check(None)
    assert witness.complaints() == []


def test_a_checkpoint_alone_has_no_proof(witness: Witness, make: MakeLog) -> None:
    log = make()
    assert witness.check(SERVER, log.open.checkpoint_evidence()) is None
    assert witness.seen() == {log.open.public_key.id: 1}


def test_names_of_servers_have_logs_of_their_own(witness: Witness, make: MakeLog) -> None:
    witness.check("one", make("a").open.checkpoint_evidence())
    witness.check("two", make("b").open.checkpoint_evidence())
    assert len(witness.seen()) == 2
    assert len(witness.seen("one")) == 1
    assert witness.complaints() == []


def test_a_cosigner_signs_what_it_has_checked(tmp_path: Path, make: MakeLog) -> None:
    key = PrivateKey.new("bridge", WITNESS_KEY)
    witness = Witness(tmp_path / "seen.json", clock=lambda: NOW, cosigner=key)
    log = make()
    for _ in range(2):
        witness.check(SERVER, log.evidence(witness))
        (known,) = witness.logs()
        assert known.cosigned is not None
        assert cosignature_time(known.cosigned, key.public) == NOW
        found = open_checkpoint(known.cosigned, log.open.public_key)
        assert found == known.checkpoint


# -------------------------------------------------------------------------- what is complained of


def test_a_log_put_back_from_yesterday(witness: Witness, make: MakeLog, tmp_path: Path) -> None:
    log = make()
    log.grow(10)
    old = log.copy(tmp_path / "yesterday")
    log.grow(10)
    witness.check(SERVER, log.evidence(witness))
    with pytest.raises(LogComplaint, match="it has 12 leaves and had 22") as caught:
        witness.check(SERVER, old.evidence(witness))
    assert "sigul-stack witness show --state" in caught.value.cure
    assert complaint_of(witness) is Kind.CONTRADICTION
    (found,) = witness.complaints()
    assert found.known is not None
    assert found.shown is not None
    sizes = [Checkpoint.of(note).size for note in (found.known, found.shown)]
    assert sizes == [22, 12]
    # It comes again, whatever is shown, until somebody accepts it.
    for evidence in (None, log.evidence(Witness(None))):
        with pytest.raises(LogComplaint, match="it has 12 leaves and had 22"):
            witness.check(SERVER, evidence)
    witness.accept(old.open.public_key.name)
    assert witness.seen() == {old.open.public_key.id: 12}
    witness.check(SERVER, old.evidence(witness))
    old.open.close()


def test_a_forked_log_that_has_grown_beyond(
    witness: Witness, make: MakeLog, tmp_path: Path
) -> None:
    log = make()
    log.grow(10)
    fork = log.copy(tmp_path / "fork")
    log.grow(1)
    witness.check(SERVER, log.evidence(witness))
    fork.grow(50)
    with pytest.raises(LogComplaint, match="do not begin with the 13 that were known"):
        witness.check(SERVER, fork.evidence(witness))
    assert complaint_of(witness) is Kind.CONTRADICTION
    fork.open.close()


def test_a_forked_log_of_the_same_size(witness: Witness, make: MakeLog, tmp_path: Path) -> None:
    log = make()
    fork = log.copy(tmp_path / "fork")
    witness.check(SERVER, log.evidence(witness))
    fork.grow(1)
    assert fork.open.size == log.open.size
    with pytest.raises(LogComplaint, match="do not begin with"):
        witness.check(SERVER, fork.open.checkpoint_evidence(2))
    fork.open.close()


@pytest.mark.parametrize("proof", ["none", "of another size", "damaged"])
def test_a_larger_log_that_does_not_prove_that_it_extends(
    witness: Witness, make: MakeLog, proof: str
) -> None:
    log = make()
    log.grow(5)
    witness.check(SERVER, log.evidence(witness))
    log.grow(5)
    good = log.evidence(witness)
    bad = {
        "none": dataclasses.replace(good, old_size=0, consistency=()),
        "of another size": log.open.evidence(good.index, 3),
        "damaged": dataclasses.replace(good, consistency=(bytes(32), *good.consistency[1:])),
    }[proof]
    with pytest.raises(LogComplaint, match="do not begin with"):
        witness.check(SERVER, bad)
    assert complaint_of(witness) is Kind.CONTRADICTION


@pytest.mark.parametrize("names", ["nothing", "the known one", "another"])
def test_another_log(witness: Witness, make: MakeLog, names: str) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    previous = {"nothing": None, "the known one": log.open.checkpoint, "another": None}[names]
    if names == "another":
        previous = make("c").open.checkpoint
    new = make("b", previous)
    told = {
        "nothing": "its first leaf does not name a log before it",
        "the known one": "its first leaf names the very checkpoint that is known",
        "another": "its first leaf names another checkpoint, of 1 leaves",
    }[names]
    with pytest.raises(LogComplaint, match=f"it is another log than the known one.*; {told}"):
        witness.check(SERVER, new.evidence(witness))
    assert complaint_of(witness) is Kind.OTHER_LOG
    with pytest.raises(SigulError, match="nothing is complained of the log"):
        witness.accept(log.open.public_key.name)
    witness.accept(new.open.public_key.name)
    assert witness.seen() == {new.open.public_key.id: new.open.size}
    witness.check(SERVER, new.evidence(witness))
    # What was known before is another log now.
    with pytest.raises(LogComplaint, match="another log"):
        witness.check(SERVER, log.evidence(witness))


def test_another_key_under_the_known_name(witness: Witness, make: MakeLog) -> None:
    log = make()
    evidence = log.evidence(witness)
    witness.check(SERVER, evidence)
    forged = PrivateKey.new(log.open.public_key.name, 1)
    note = Checkpoint.of(log.open.checkpoint).signed(forged)
    bad = dataclasses.replace(log.evidence(witness), checkpoint=note, key=forged.public.key)
    with pytest.raises(LogComplaint, match="the known log's name, and another key"):
        witness.check(SERVER, bad)
    assert complaint_of(witness) is Kind.OTHER_KEY


def test_a_checkpoint_that_its_key_has_not_signed(witness: Witness, make: MakeLog) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    forged = PrivateKey.new(log.open.public_key.name, 1)
    note = Checkpoint.of(log.open.checkpoint).signed(forged)
    bad = dataclasses.replace(log.evidence(witness), checkpoint=note)
    with pytest.raises(LogComplaint, match="is not signed by the log"):
        witness.check(SERVER, bad)
    assert complaint_of(witness) is Kind.DAMAGED


def test_nothing_of_a_log_that_is_known(witness: Witness, make: MakeLog) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    with pytest.raises(LogComplaint, match="shows nothing of the log"):
        witness.check(SERVER, None)
    assert complaint_of(witness) is Kind.MISSING
    witness.accept(log.open.public_key.name)
    assert witness.seen() == {}
    assert witness.check(SERVER, None) is None


@pytest.mark.parametrize("fields", [{"log-1": b""}, {"log-1": b"\x02"}, {"log-1": bytes(255)}])
def test_evidence_that_is_none(witness: Witness, fields: dict[str, bytes]) -> None:
    with pytest.raises(LogComplaint):
        witness.begin(SERVER).check_fields(fields, None)
    assert complaint_of(witness) is Kind.DAMAGED
    witness.accept("unknown")


def test_a_leaf_that_was_there_before(witness: Witness, make: MakeLog) -> None:
    log = make()
    first = log.evidence(witness)
    witness.check(SERVER, first)
    with pytest.raises(LogComplaint, match="was there before the request"):
        witness.check(SERVER, log.evidence(witness, index=first.index))
    assert complaint_of(witness) is Kind.WRONG_LEAF
    witness.accept(log.open.public_key.name)
    witness.check(SERVER, log.evidence(witness))


def test_one_leaf_for_two_of_a_request(witness: Witness, make: MakeLog) -> None:
    log = make()
    watch = witness.begin(SERVER)
    evidence = log.evidence(witness)
    watch.check(evidence)
    with pytest.raises(LogComplaint, match="was there before"):
        watch.check(evidence)


def test_a_leaf_about_something_else(witness: Witness, make: MakeLog) -> None:
    log = make()
    asked: list[Leaf] = []

    def judge(found: Leaf) -> str:
        asked.append(found)
        return "is about 'x'"

    with pytest.raises(LogComplaint, match="leaf 1, which the reply shows, is about 'x'"):
        witness.check(SERVER, log.evidence(witness), judge)
    assert asked[0].op == "sign-data"
    assert witness.seen() == {}


def test_a_leaf_of_a_later_schema_is_no_complaint(witness: Witness) -> None:
    key = PrivateKey.new("a", 1)
    entry = b'{"op":"x","result":"ok","v":2}'
    note = Checkpoint("a", 1, hash_leaf(entry)).signed(key)
    evidence = Evidence(entry, 0, (), note, key=key.public.key)
    with pytest.raises(SigulError, match="version 2") as caught:
        witness.check(SERVER, evidence, lambda _leaf: "")
    assert "use a later sigul-stack" in caught.value.cure
    assert witness.complaints() == []


def test_no_leaf_where_there_has_to_be_one(witness: Witness, make: MakeLog) -> None:
    with pytest.raises(LogComplaint, match="shows no leaf for this request"):
        witness.check(SERVER, make().open.checkpoint_evidence(), lambda _leaf: "")


def test_a_leaf_that_is_not_in_the_log(witness: Witness, make: MakeLog) -> None:
    good = make().evidence(witness)
    other = good.entry.replace(b"ann", b"bob")
    assert other != good.entry
    with pytest.raises(LogComplaint, match="is not in the log"):
        witness.check(SERVER, dataclasses.replace(good, entry=other))


def test_any_changed_byte_of_evidence_is_a_complaint(make: MakeLog) -> None:
    witness = Witness(None)
    log = make()
    log.grow(6)
    witness.check(SERVER, log.evidence(witness))
    log.grow(3)
    data = log.evidence(witness).encode()
    kept = witness.file.read()
    for at in range(len(data)):
        changed = data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        fields = {
            f"log-{number + 1}": changed[start : start + 255]
            for number, start in enumerate(range(0, len(changed), 255))
        }
        with pytest.raises(LogComplaint):
            witness.begin(SERVER).check_fields(fields, None)
        witness.file.change(lambda _now: kept)


def test_the_first_complaint_stays(witness: Witness, make: MakeLog) -> None:
    log = make()
    watches = [witness.begin(SERVER) for _ in range(2)]
    witness.check(SERVER, log.evidence(witness))
    with pytest.raises(LogComplaint, match="shows nothing"):
        witness.check(SERVER, None)
    with pytest.raises(LogComplaint, match="shows nothing"):
        watches[0].check_fields({"log-1": b"\0"}, None)


# ---------------------------------------------------------------------------------- trusted keys


def test_only_trusted_logs_are_taken(tmp_path: Path, make: MakeLog) -> None:
    good, second, bad = make("a"), make("b"), make("c")
    keys = tmp_path / "keys"
    lines = [item.open.public_key.encode() for item in (good, second)]
    keys.write_text("# the server's\n\n" + "\n".join(lines) + "\n")
    witness = Witness(tmp_path / "seen.json", read_keys(keys))
    # Several that are trusted may be of one server's name: no first use binds it to one.
    for log in (good, second, good):
        witness.check(SERVER, log.evidence(witness))
    with pytest.raises(LogComplaint, match="signing-log-keys does not name"):
        witness.check(SERVER, bad.evidence(witness))
    assert complaint_of(witness) is Kind.OTHER_LOG


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "has no key"),
        ("# none\n", "has no key"),
        ("nonsense\n", "line 1 of"),
        ("\xff", "is no text"),
    ],
)
def test_a_file_of_keys_that_is_none(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "keys").write_bytes(text.encode("latin-1"))
    with pytest.raises(SigulError, match=told):
        read_keys(tmp_path / "keys")
    with pytest.raises(SigulError, match="cannot be read"):
        read_keys(tmp_path / "none")


def test_a_witnesss_key_is_no_logs(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(PrivateKey.new("w", WITNESS_KEY).public.encode() + "\n")
    with pytest.raises(SigulError, match="no log's key"):
        read_keys(tmp_path / "keys")


# -------------------------------------------------------------------------------- several at once


def test_a_reply_that_was_overtaken_is_no_complaint(witness: Witness, make: MakeLog) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    slow, fast = witness.begin(SERVER), witness.begin(SERVER)
    old = log.evidence(witness)
    new = log.evidence(witness)
    fast.check(new)
    fast.keep()
    slow.check(old)
    slow.keep()
    assert list(witness.seen().values()) == [log.open.size]
    assert witness.complaints() == []


def test_a_reply_that_overtakes_is_held_against_as_well(witness: Witness, make: MakeLog) -> None:
    """It extends what was known when its request went out, and not what came meanwhile."""
    log = make()
    witness.check(SERVER, log.evidence(witness))
    first, second = witness.begin(SERVER), witness.begin(SERVER)
    answers = [log.evidence(witness) for _ in range(2)]
    first.check(answers[0])
    first.keep()
    second.check(answers[1])
    second.keep()
    # The next one is asked to extend the smaller, and may not be below the larger.
    assert list(witness.seen().values()) == [log.open.size - 1]
    (known,) = witness.logs()
    assert known.floor.size == log.open.size
    witness.check(SERVER, log.evidence(witness))
    (known,) = witness.logs()
    assert known.largest is None
    assert known.checkpoint.size == log.open.size


def test_two_logs_at_once_are_seen(witness: Witness, make: MakeLog, tmp_path: Path) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    fork = log.copy(tmp_path / "fork")
    fork.open.append([leaf(99)])
    watches = [witness.begin(SERVER) for _ in range(2)]
    old_size = next(iter(witness.seen().values()))
    watches[0].check(log.evidence(witness))
    watches[1].check(fork.open.evidence(fork.open.size - 1, old_size))
    watches[0].keep()
    with pytest.raises(LogComplaint, match="two different logs of 3 leaves"):
        watches[1].keep()
    assert complaint_of(witness) is Kind.CONTRADICTION
    fork.open.close()


def test_two_first_logs_at_once_are_seen(witness: Witness, make: MakeLog) -> None:
    watches = [witness.begin(SERVER) for _ in range(2)]
    for watch, log in zip(watches, (make("a"), make("b")), strict=True):
        watch.check(log.evidence(Witness(None)))
    watches[0].keep()
    with pytest.raises(LogComplaint, match="two logs"):
        watches[1].keep()


def test_threads_share_a_witness(witness: Witness, make: MakeLog) -> None:
    log, lock, errors = make(), threading.Lock(), []

    def work() -> None:
        try:
            for _ in range(10):
                watch = witness.begin(SERVER)
                size = watch.seen.get(log.open.public_key.id, 0)
                with lock:
                    evidence = log.open.evidence(log.grow(), size)
                watch.check(evidence)
                watch.keep()
        except SigulError as error:
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert errors == []
    assert witness.complaints() == []


def _work(path: Path, answer: bytes, begun: Barrier) -> None:
    watch = Witness(path).begin(SERVER)
    begun.wait(30)
    watch.check(Evidence.parse(answer))
    watch.keep()


def test_processes_share_a_file(witness: Witness, make: MakeLog) -> None:
    """All requests went out before the first answer came; answers come in any order."""
    log = make()
    witness.check(SERVER, log.evidence(witness))
    start = log.open.size
    answers = [log.open.evidence(log.grow(), start).encode() for _ in range(8)]
    fork = multiprocessing.get_context("fork")
    begun = fork.Barrier(len(answers))
    processes = [
        fork.Process(target=_work, args=(witness.file.path, answer, begun)) for answer in answers
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(30)
    assert [process.exitcode for process in processes] == [0] * len(answers)
    assert witness.complaints() == []
    (known,) = witness.logs()
    assert known.floor.size == log.open.size
    witness.check(SERVER, log.evidence(witness))


# ------------------------------------------------------------------------------------- the file


@pytest.mark.parametrize(
    "content",
    [
        b"", b"{", b"[]", b"{}", b'{"version": 2, "logs": [], "complaints": []}',
        b'{"version": 1, "logs": [{}], "complaints": []}',
        b'{"version": 1, "logs": [{"server": 1}], "complaints": []}',
        b'{"version": 1, "logs": {"a": 1}, "complaints": []}', b"\xff", b" " * (1 << 21),
    ],
)  # fmt: skip
def test_a_damaged_file_is_an_error_with_a_cure(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "seen.json"
    path.write_bytes(content)
    for use in (Witness(path).seen, lambda: Witness(path).begin(SERVER)):
        with pytest.raises(SigulError, match="cannot be read") as caught:
            use()
        assert "put it back from a backup" in caught.value.cure
    assert path.read_bytes() == content


def test_a_changed_file_is_read_or_refused(witness: Witness, make: MakeLog) -> None:
    log = make()
    witness.check(SERVER, log.evidence(witness))
    with pytest.raises(LogComplaint):
        witness.check(SERVER, None)
    path = witness.file.path
    assert path is not None
    data = path.read_bytes()
    for at in range(0, len(data), 3):
        path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
        try:
            witness.file.read()
        except SigulError as error:
            assert not isinstance(error, NotProven)


@pytest.mark.parametrize("kind", ["a link", "a directory", "a fifo"])
def test_what_is_no_file_is_not_read(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "seen.json"
    match kind:
        case "a link":
            (tmp_path / "other").write_text('{"version": 1, "logs": [], "complaints": []}')
            path.symlink_to("other")
        case "a directory":
            path.mkdir()
        case _:
            os.mkfifo(path)
    with pytest.raises(SigulError, match="cannot be read"):
        Witness(path).seen()


@pytest.mark.parametrize("mode", [0o770, 0o707])
def test_nothing_is_kept_where_others_may_write(
    tmp_path: Path, make: MakeLog, caplog: pytest.LogCaptureFixture, mode: int
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    place.chmod(mode)
    witness = Witness(place / "seen.json")
    log = make()
    for _ in range(2):
        witness.check(SERVER, log.evidence(witness))
    assert list(place.iterdir()) == []
    assert caplog.text.count("is not kept") == 1
    # As long as the process lives it knows all the same.
    with pytest.raises(LogComplaint):
        witness.check(SERVER, None)


def test_nothing_is_kept_in_a_directory_that_is_not_there(tmp_path: Path, make: MakeLog) -> None:
    witness = Witness(tmp_path / "none" / "seen.json")
    witness.check(SERVER, make().evidence(witness))
    assert not (tmp_path / "none").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")
def test_root_keeps_nothing_in_a_users_directory(tmp_path: Path, make: MakeLog) -> None:
    place = tmp_path / "place"
    place.mkdir()
    (place / "seen.json").write_text("nonsense")
    os.chown(place, 65534, 65534)
    witness = Witness(place / "seen.json")
    witness.check(SERVER, make().evidence(witness))
    assert (place / "seen.json").read_text() == "nonsense"


def test_it_knows_so_many_logs_and_no_more(make: MakeLog, tmp_path: Path) -> None:
    witness = Witness(None)
    log = make()
    witness.check(SERVER, log.evidence(witness))
    (known,) = witness.logs()
    for number in range(1, MAX_KEPT):
        other = dataclasses.replace(
            known, key=dataclasses.replace(known.key, name=f"log-{number}"), server=f"s{number}"
        )
        witness.file.change(lambda memory, other=other: memory.with_log(other))
    with pytest.raises(SigulError, match="64 signing logs are known already"):
        witness.check("another", make("b").evidence(witness))
    witness.forget("log-1")
    witness.check("another", make("c").evidence(Witness(None)))
    with pytest.raises(SigulError, match="is known"):
        witness.forget("log-1")


def test_a_large_note_is_not_kept(witness: Witness, make: MakeLog) -> None:
    log = make()
    evidence = log.evidence(witness)
    key = PrivateKey.new("big", 1)
    text = Checkpoint.of(evidence.checkpoint).text().replace(log.open.public_key.name, "big")
    note = Note(text + "x" * 4000 + "\n")
    note = note.with_signature(key.public, key.sign(note.text.encode()))
    bad = dataclasses.replace(evidence, checkpoint=note, key=key.public.key)
    with pytest.raises(LogComplaint, match="larger than any is"):
        witness.check(SERVER, bad)
    # Signatures of others are not kept, however many.
    many = evidence.checkpoint
    for number in range(20):
        other = PrivateKey.new(f"w{number}", WITNESS_KEY)
        many = many.with_signature(other.public, bytes(72))
    witness.accept("big")
    witness.check(SERVER, dataclasses.replace(evidence, checkpoint=many))
    (known,) = witness.logs()
    assert len(known.note.signatures) == 1
