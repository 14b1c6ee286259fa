"""Bindings: the text and JSON forms of layers, and binding and unbinding with them."""

from __future__ import annotations

import json
import logging
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sigul_stack.errors import ConfigurationError, KeystoreError
from sigul_stack.keystore.bindings import (
    BindingPolicy,
    CannotBind,
    CannotUnbind,
    MethodUse,
    bind,
    dump_layers,
    enabled_methods,
    is_bound,
    load_layers,
    parse_layer,
    unbind,
)
from sigul_stack.keystore.bindings.layers import (
    MAX_ALTERNATIVES,
    MAX_ARGUMENTS,
    MAX_LAYERS,
    MAX_TEXT,
)
from sigul_stack.keystore.bindings.value import MAX_BOUND
from sigul_stack.secret import Secret

TEST = enabled_methods(["test"])
NONE = enabled_methods([])
OPENS = parse_layer("test,may_unbind=1")
SECRET = Secret("nKRGmQ9C_Vds-apcVaS6ioMsNNha")


# --- Layers as text ----------------------------------------------------------------------------


def test_a_layer_of_alternatives() -> None:
    assert parse_layer("pkcs11,token=a,uri=x=y|test, may_unbind = 1 |tpm") == (
        MethodUse("pkcs11", {"token": "a", "uri": "x=y"}),
        MethodUse("test", {"may_unbind": "1"}),
        MethodUse("tpm", {}),
    )


@pytest.mark.parametrize(
    "text",
    [
        "", " ", "|", "test|", "test,", "test,may_unbind", "test,a=1,a=2", "test,=1", "te st",
        "1test", "test,value=x", "test,method=x", "|".join(["test"] * (MAX_ALTERNATIVES + 1)),
        ",".join(["test", *(f"a{n}=1" for n in range(MAX_ARGUMENTS + 1))]),
    ],
)  # fmt: skip
def test_text_that_is_no_layer(text: str) -> None:
    with pytest.raises(CannotBind):
        parse_layer(text)


# --- Layers as JSON ----------------------------------------------------------------------------


def test_layers_as_json_and_back() -> None:
    layers = (parse_layer("test,may_unbind=1|tpm,pcrs=7"), parse_layer("pkcs11,token=a"))
    text = dump_layers(layers)
    assert json.loads(text) == [
        [{"method": "test", "may_unbind": "1"}, {"method": "tpm", "pcrs": "7"}],
        [{"method": "pkcs11", "token": "a"}],
    ]
    assert load_layers(text) == layers


@pytest.mark.parametrize(
    ("text", "layers"),
    [
        ("[]", ()),
        ('"test,may_unbind=1"', (OPENS,)),
        ('["test,may_unbind=1", "test"]', (OPENS, parse_layer("test"))),
        ('{"method": "test", "may_unbind": "1"}', (OPENS,)),
        ('[{"method": "test", "may_unbind": "1"}, [{"method": "test"}]]',
         (OPENS, parse_layer("test"))),
    ],
)  # fmt: skip
def test_other_forms_of_json_layers(text: str, layers: object) -> None:
    assert load_layers(text) == layers


@pytest.mark.parametrize(
    "text",
    [
        "", "x", "1", "null", "[null]", "[[]]", "{}", '{"method": 1}', '{"method": "a b"}',
        '{"method": "test", "value": "x"}', '{"method": "test", "a": 1}', '[["test"]]',
        '{"method": "test", "a": "1", "a": "2"}', '{"method": "test", "": "x"}',
        "[" * 100_000, '"' + "x" * MAX_TEXT + '"',
        json.dumps(["test"] * (MAX_LAYERS + 1)),
        json.dumps([[{"method": "test"}] * (MAX_ALTERNATIVES + 1)]),
    ],
    ids=lambda text: text[:30],
)  # fmt: skip
def test_json_that_is_no_layers(text: str) -> None:
    with pytest.raises(CannotBind):
        load_layers(text)


@given(
    st.text()
    | st.recursive(
        st.none() | st.text() | st.integers(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text() | st.just("method"), inner),
    ).map(json.dumps)
)
def test_any_text_gives_layers_or_an_error(text: str) -> None:  # fmt: skip
    try:
        layers = load_layers(text)
    except CannotBind:
        return
    assert load_layers(dump_layers(layers)) == layers


# --- Policy ------------------------------------------------------------------------------------


def test_forced_layers_are_always_added_and_default_ones_only_where_none_are_named() -> None:
    a, b, c, d = (parse_layer(f"test,name={name}") for name in "abcd")
    lines = (["test,name=a", "test,name=b"], ["test,name=c"])
    first = BindingPolicy.parse(lines[0], True, lines[1])
    assert first.layers([]) == (a, b, c)
    assert first.layers([d]) == (a, b, d)
    assert first.only_forced() == (a, b)
    last = BindingPolicy.parse(lines[0], False, lines[1])
    assert last.layers([]) == (c, a, b)
    assert last.layers([d]) == (d, a, b)
    assert BindingPolicy().layers([]) == ()


# --- Binding and unbinding ---------------------------------------------------------------------


def test_the_bound_form_is_that_of_existing_sites() -> None:
    assert bind(SECRET, [OPENS], TEST).reveal() == (
        b'[{"may_unbind": "1", "value": "nKRGmQ9C_Vds-apcVaS6ioMsNNha", "method": "test"}]'
    )


def test_without_layers_nothing_is_bound() -> None:
    assert bind(SECRET, [], TEST) == SECRET
    assert not is_bound(SECRET)
    assert unbind(SECRET, NONE) == SECRET


def test_layers_open_from_the_outside_in() -> None:
    layers = [OPENS, parse_layer("test,may_unbind=0|test,may_unbind=1")] * 3
    bound = bind(SECRET, layers, TEST)
    assert is_bound(bound)
    assert unbind(bound, TEST) == SECRET
    assert unbind(bound.reveal(), TEST) == SECRET


def test_a_single_object_stands_for_a_list_of_one() -> None:
    assert unbind(b'{"method": "test", "value": "s", "may_unbind": "1"}', TEST) == Secret("s")


def test_a_further_layer_can_be_put_around_a_bound_passphrase() -> None:
    inner = bind(SECRET, [OPENS], TEST)
    assert unbind(bind(inner, [OPENS], TEST), TEST) == SECRET


@pytest.mark.parametrize("bound", ["[not bound", "{", "[1]"])
def test_a_passphrase_that_would_be_taken_for_a_bound_one_is_refused(bound: str) -> None:
    with pytest.raises(CannotBind, match="starts with"):
        bind(Secret(bound), [OPENS], TEST)


def test_binding_with_what_is_not_enabled_is_refused() -> None:
    with pytest.raises(CannotBind, match="'pkcs11' is not enabled"):
        bind(SECRET, [parse_layer("test|pkcs11")], TEST)


def test_binding_what_a_method_cannot_bind_is_refused() -> None:
    with pytest.raises(CannotBind, match="not UTF-8"):
        bind(Secret(b"\xff"), [OPENS], TEST)


def test_binding_is_limited() -> None:
    with pytest.raises(CannotBind, match="layers"):
        bind(SECRET, [OPENS] * (MAX_LAYERS + 1), TEST)
    with pytest.raises(CannotBind, match="larger"):
        bind(Secret("x" * MAX_BOUND), [OPENS], TEST)
    assert unbind(bind(SECRET, [OPENS] * 8, TEST), TEST) == SECRET


def test_the_message_where_nothing_opens(caplog: pytest.LogCaptureFixture) -> None:
    bound = bind(SECRET, [parse_layer("test,may_unbind=0|test,k=v,l=w")], TEST)
    with caplog.at_level(logging.DEBUG), pytest.raises(CannotUnbind) as raised:
        unbind(bound, TEST)
    assert ("WARNING", (
        "Failed to unbind with any of the following: "
        "method: test, args: {'may_unbind': '0'}, method: test, args: {'k': 'v', 'l': 'w'}"
    )) in [(record.levelname, record.getMessage()) for record in caplog.records]  # fmt: skip
    assert SECRET.reveal().decode() not in caplog.text + str(raised.value)


def test_a_method_that_is_not_enabled_does_not_open(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), pytest.raises(CannotUnbind):
        unbind(bind(SECRET, [OPENS], TEST), NONE)
    assert "method: test, args: {'may_unbind': '1'}" in caplog.text


def nested(depth: int) -> bytes:
    """A value of `depth` layers, each of which would open."""
    value = "secret"
    for _ in range(depth):
        value = json.dumps({"method": "test", "value": value, "may_unbind": "1"})
    return value.encode()


def test_opening_is_limited() -> None:
    # Each layer doubles the backslashes, so this is as deep as fits in the limit on size.
    assert unbind(nested(12), TEST) == Secret("secret")
    with pytest.raises(CannotUnbind, match="bytes"):
        unbind(nested(18), TEST)


@pytest.mark.parametrize(
    "bound",
    [
        b"[", b"{", b"[]", b"[1]", b'["x"]', b"[[]]", b"{}", b'{"method": "test"}', b"[\xff]",
        b'{"method": "test", "value": 1}', b'{"method": "test", "value": null}',
        b'{"method": ["test"], "value": "x"}', b'{"method": "a\\nb", "value": "x"}',
        b'{"method": "test", "value": "x", "may_unbind": 1}',
        b'{"method": "test", "value": "\\ud800", "may_unbind": "1"}',
        b"[" * 100_000, b"[" + b" " * MAX_BOUND + b"]",
        json.dumps([{"method": "test", "value": "x"}] * (MAX_ALTERNATIVES + 1)).encode(),
    ],
    ids=lambda bound: repr(bound[:40]),
)  # fmt: skip
def test_what_is_no_bound_passphrase(bound: bytes) -> None:
    with pytest.raises(CannotUnbind):
        unbind(bound, TEST)


@given(
    st.binary()
    | st.recursive(
        st.none() | st.text() | st.integers() | st.just("test"),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(st.text() | st.sampled_from(["method", "value", "may_unbind"]), inner)
        ),
    ).map(lambda found: json.dumps(found).encode())
)
def test_any_bytes_open_or_give_an_error(bound: bytes) -> None:  # fmt: skip
    try:
        assert isinstance(unbind(bound, TEST), Secret)
    except KeystoreError:
        assert is_bound(bound)


# --- Registry ----------------------------------------------------------------------------------


def test_a_method_that_does_not_exist_cannot_be_enabled() -> None:
    with pytest.raises(ConfigurationError, match=r"no binding method 'tset'; choose from: .*test"):
        enabled_methods(["test", "tset"])


def test_methods_are_listed_as_enabled() -> None:
    assert list(TEST) == ["test"]
    assert "test" in TEST
    assert "test" not in NONE


def test_the_package_stays_light_for_the_client() -> None:
    program = """
import sys
import sigul_stack.keystore.bindings
print([name for name in ("sqlalchemy", "subprocess", "cryptography", "ssl", "socket",
    "sigul_stack.keystore.bindings.test", "sigul_stack.keystore.gnupg", "sigul_stack.database")
    if name in sys.modules])
"""
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True
    )
    assert found.stdout == "[]\n"
