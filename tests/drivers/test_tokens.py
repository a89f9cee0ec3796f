"""Client tokens: what is signed is what is verified, and nothing else is."""

import base64
import json
import statistics
import string
import time
from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given, settings
from hypothesis import strategies as st

from rtcbridge.drivers.ledger import KeyMaker, KeyStore, open_store
from rtcbridge.drivers.ledger.tokens import OVERLAP, PREFIX, PUBLISHED, SKEW, Claims, TokenKeys
from rtcbridge.ports import TOKEN_LIFETIME, KeyLimits, TokenTerms

NOW = 1_700_000_000.0
SECRET = b"\x07" * 32


def made(*rows: str, created: float = NOW - 100, expires: float | None = None) -> TokenKeys:
    keys = TokenKeys(SECRET)
    for row in rows:
        keys.put(row, row.encode(), created, expires)
    return keys


KEYS = made("1")


def claims(**values: Any) -> Claims:
    return Claims(
        **{"sub": "TEST01", "key": "7", "jti": "t", "iat": int(NOW), "exp": int(NOW) + 60, **values}, aud="rtcbridge"
    )


def private(keys: TokenKeys = KEYS) -> Any:
    return next(iter(keys._by_row.values()))


def encoded(value: object) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def signed(payload: object, header: object = None, key: Ed25519PrivateKey | None = None) -> str:
    """A token with any payload and header, and a right signature."""
    known = private()
    head = {"alg": "EdDSA", "typ": "JWT", "kid": known.kid} if header is None else header
    text = f"{encoded(head)}.{encoded(payload)}"
    return f"{PREFIX}{text}.{encoded((key or known.private).sign(text.encode()))}"


PAYLOAD = msgspec.to_builtins(claims())


def test_what_is_signed_is_verified() -> None:
    asked = claims(pools=("a", "b"), origins=("https://app.example",), max_session=5.5, max_sessions=2)
    token = KEYS.sign(asked, NOW)
    assert token.startswith(PREFIX)
    assert KEYS.verify(token, NOW) == asked
    assert asked.terms == TokenTerms(
        pools=("a", "b"), origins=("https://app.example",), max_session=5.5, max_sessions=2
    )
    assert KEYS.verify(signed(PAYLOAD), NOW) == claims()


@given(st.integers(1, TOKEN_LIFETIME), st.floats(-10, 2 * TOKEN_LIFETIME))
def test_a_token_is_valid_from_its_making_to_its_end(lifetime: int, age: float) -> None:
    token = KEYS.sign(claims(exp=int(NOW) + lifetime), NOW)
    assert (KEYS.verify(token, NOW + age) is not None) == (-SKEW <= age < lifetime)


@given(st.integers(1, 100))
def test_a_token_that_is_not_yet_valid_is_refused(early: int) -> None:
    token = signed(PAYLOAD | {"nbf": int(NOW) + early})
    assert (KEYS.verify(token, NOW) is not None) == (early <= SKEW)


def test_a_life_longer_than_any_of_ours_is_refused() -> None:
    assert KEYS.verify(signed(PAYLOAD | {"exp": int(NOW) + TOKEN_LIFETIME + 1}), NOW) is None


@given(st.data())
@settings(max_examples=300)
def test_a_token_with_one_other_character_is_refused(data: st.DataObject) -> None:
    token = KEYS.sign(claims(), NOW)
    body = token.removeprefix(PREFIX)
    place = data.draw(st.integers(0, len(body) - 1))
    # The last character of a part holds bits that are padding: those may be any, and change nothing that is signed.
    padding = {index - 1 for index, character in enumerate(body) if character == "."} | {len(body) - 1}
    other = data.draw(
        st.sampled_from([c for c in string.ascii_letters + string.digits + "-_. +=\0é" if c != body[place]])
    )
    changed = PREFIX + body[:place] + other + body[place + 1 :]
    found = KEYS.verify(changed, NOW)
    assert found is None or (place in padding and found == claims())


@given(st.text(max_size=300) | st.from_regex(r"[A-Za-z0-9_-]{0,40}(\.[A-Za-z0-9_-]{0,40}){0,4}", fullmatch=True))
def test_any_text_is_refused(text: str) -> None:
    assert KEYS.verify(PREFIX + text, NOW) is None


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.sampled_from(sorted(PAYLOAD)), _json)
def test_claims_of_another_type_are_refused_and_never_break(name: str, value: object) -> None:
    found = KEYS.verify(signed(PAYLOAD | {name: value}), NOW)
    assert found is None or getattr(found, name) == value or isinstance(value, list)


@pytest.mark.parametrize("name", ["sub", "key", "jti", "iat", "exp", "aud"])
def test_a_claim_that_is_missing(name: str) -> None:
    assert KEYS.verify(signed({key: value for key, value in PAYLOAD.items() if key != name}), NOW) is None


@given(_json)
def test_a_payload_that_is_no_object(payload: object) -> None:
    assert KEYS.verify(signed(payload), NOW) is None


@pytest.mark.parametrize(
    "header",
    [
        {},
        [],
        "EdDSA",
        {"alg": "none"},
        {"alg": "EdDSA"},
        {"alg": "eddsa", "kid": "KID"},
        {"alg": "none", "kid": "KID"},
        {"alg": "HS256", "kid": "KID"},
        {"alg": "ES256", "kid": "KID"},
        {"alg": "RS256", "kid": "KID"},
        {"alg": ["EdDSA"], "kid": "KID"},
        {"alg": "EdDSA", "kid": None},
        {"alg": "EdDSA", "kid": 7},
        {"alg": "EdDSA", "kid": ["KID"]},
        {"alg": "EdDSA", "kid": "../../etc/passwd"},
        {"alg": "EdDSA", "kid": "KID", "crit": ["exp2"], "exp2": 1},
        {"alg": "EdDSA", "kid": "KID", "b64": False},
    ],
)
def test_another_header_is_refused_with_a_right_signature(header: Any) -> None:
    kid = private().kid
    if isinstance(header, dict):
        header = {name: kid if value == "KID" else value for name, value in header.items()}
    assert KEYS.verify(signed(PAYLOAD, header), NOW) is None


def test_no_signature_and_one_made_of_the_public_key_are_refused() -> None:
    known = private()
    head = {"alg": "none", "typ": "JWT", "kid": known.kid}
    for signature in ("", encoded(b""), encoded(b"\0" * 64)):
        assert KEYS.verify(f"{PREFIX}{encoded(head)}.{encoded(PAYLOAD)}.{signature}", NOW) is None
    public = known.public.public_bytes(Encoding.Raw, PublicFormat.Raw)
    for secret in (public, base64.urlsafe_b64encode(public).rstrip(b"="), public.hex().encode()):
        confused = jwt.encode(PAYLOAD, secret, algorithm="HS256", headers={"kid": known.kid})
        assert KEYS.verify(PREFIX + confused, NOW) is None


def test_a_key_of_its_own_in_the_header_does_not_count() -> None:
    stranger = Ed25519PrivateKey.generate()
    x = (
        base64.urlsafe_b64encode(stranger.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw))
        .rstrip(b"=")
        .decode()
    )
    jwk = {"kty": "OKP", "crv": "Ed25519", "x": x}
    for kid in (private().kid, "mine"):
        header = {"alg": "EdDSA", "kid": kid, "jwk": jwk, "jku": "https://evil.example/jwks.json"}
        assert KEYS.verify(signed(PAYLOAD, header, stranger), NOW) is None


def test_keys_of_another_store_are_others() -> None:
    other = TokenKeys(b"\x08" * 32)
    other.put("1", b"1", NOW - 100, None)
    assert other.verify(KEYS.sign(claims(), NOW), NOW) is None
    assert other.jwks(NOW) != KEYS.jwks(NOW)


def test_a_new_key_signs_when_it_has_been_known_for_a_while() -> None:
    keys = made("old")
    old = keys.sign(claims(), NOW)
    keys.put("old", b"old", NOW - 100, NOW + OVERLAP)
    keys.put("new", b"new", NOW, None)
    kids = [
        jwt.get_unverified_header(keys.sign(claims(), NOW + age)[3:])["kid"] for age in (0, PUBLISHED - 1, PUBLISHED)
    ]
    assert kids[0] == kids[1] == jwt.get_unverified_header(old[3:])["kid"] != kids[2]
    assert len(keys.jwks(NOW)["keys"]) == 2  # type: ignore[arg-type]
    assert keys.verify(old, NOW + 59) == claims()


@given(st.floats(0, PUBLISHED), st.integers(1, TOKEN_LIFETIME), st.floats(0, 1, exclude_max=True))
def test_nothing_that_was_signed_before_a_rotation_is_lost(age: float, lifetime: int, part: float) -> None:
    """Until the new key signs, the old one does: the longest token of its last moment still is verified."""
    keys = TokenKeys(SECRET)
    keys.put("old", b"old", NOW - 100, NOW + OVERLAP)
    keys.put("new", b"new", NOW, None)
    moment = NOW + age
    token = keys.sign(claims(iat=int(moment), exp=int(moment) + lifetime), moment)
    assert keys.verify(token, max(moment, moment - 1 + lifetime * part)) is not None


def test_an_old_key_signs_and_verifies_no_more() -> None:
    keys = made("old", expires=NOW + 10)
    token = keys.sign(claims(), NOW)
    assert keys.verify(token, NOW + 9) is not None
    assert keys.verify(token, NOW + 10) is None
    assert keys.jwks(NOW + 10) == {"keys": []}
    assert not keys.can_sign(NOW + 10)
    with pytest.raises(LookupError):
        keys.sign(claims(), NOW + 10)


def test_a_revoked_key_verifies_nothing() -> None:
    keys = made("1", "2")
    token = keys.sign(claims(), NOW)
    for row in ("1", "2", "2"):
        keys.drop(row)
    assert keys.verify(token, NOW) is None


def test_a_refused_token_takes_as_long_as_any_other() -> None:
    """All verify one signature; the medians are of one magnitude, whatever a busy machine adds."""
    good = KEYS.sign(claims(), NOW)
    tokens = {
        "good": good,
        "expired": KEYS.sign(claims(exp=int(NOW)), NOW),
        "forged": good[:-8] + "AAAAAAAA",
        "unknown key": signed(PAYLOAD, {"alg": "EdDSA", "kid": "x"}),
        "no algorithm": signed(PAYLOAD, {"alg": "none", "kid": private().kid}),
        "no token": "ek_x",
    }
    times: dict[str, list[int]] = {name: [] for name in tokens}
    for _ in range(200):
        for name, token in tokens.items():
            began = time.perf_counter_ns()
            KEYS.verify(token, NOW)
            times[name].append(time.perf_counter_ns() - began)
    medians = {name: statistics.median(each) for name, each in times.items()}
    assert max(medians.values()) < 4 * min(medians.values()), medians


# --- in a store ---


@pytest.fixture
def keys(store_url: str) -> Any:
    with open_store(store_url) as database:
        keys = KeyStore(database)
        yield keys
        keys.close()


def minted(keys: KeyStore, credential: str, **terms: Any) -> str:
    identity = keys.identify(credential)
    assert identity is not None
    keys.prepare_tokens()
    return keys.make_token(identity, TokenTerms(**terms), 60)[0]


def test_a_token_says_whose_key_has_made_it(keys: KeyStore) -> None:
    key = keys.create_client_key("TEST01", limits=KeyLimits(sessions=3))
    identity = keys.identify(minted(keys, key, pools=("default",)))
    assert identity is not None
    assert (identity.key, identity.project, identity.is_node) == ("1", "TEST01", False)
    assert identity.restrictions is not None
    assert identity.restrictions.token
    assert identity.restrictions.limits == KeyLimits(sessions=3)
    assert identity.restrictions.terms == TokenTerms(pools=("default",))
    assert identity.may("connect")
    assert not identity.may("tokens")
    keys.revoke_key("1")
    assert keys.identify(minted(keys, keys.create_client_key("TEST02"))) is not None
    stored = keys.keys()
    assert [row.is_signing for row in stored] == [False, True, False]


def test_what_is_prepared_twice_is_there_once(keys: KeyStore, store_url: str) -> None:
    keys.prepare_tokens()
    keys.prepare_tokens()
    with open_store(store_url) as database:
        other = KeyStore(database)
        other.prepare_tokens()
        KeyMaker(database).prepare_tokens()
        assert other.token_keys() == keys.token_keys()
        other.close()
    assert len(keys.keys()) == 1


def test_bridges_over_one_store_verify_each_others_tokens_over_a_rotation(keys: KeyStore, store_url: str) -> None:
    with open_store(store_url) as database:
        other = KeyStore(database)
        key = keys.create_client_key("TEST01")
        first = minted(keys, key)
        assert until_known(other, first)
        maker = KeyMaker(database)
        newest = maker.rotate_signing_key()
        stored = maker.keys()
        assert newest == stored[-1].id
        second = minted(other, key)
        for store in (keys, other):
            assert until_known(store, first)
            assert until_known(store, second)
        deadline = time.monotonic() + 10
        while len(keys.token_keys()["keys"]) < 2:  # type: ignore[arg-type]
            assert time.monotonic() < deadline
            time.sleep(0.001)
        stored = maker.keys()
        ends = {row.id: row.expires for row in stored if row.is_signing}
        assert ends[newest] is None
        assert all(abs(end - time.time() - OVERLAP) < 60 for row, end in ends.items() if row != newest and end)
        maker.rotate_signing_key()
        stored = maker.keys()
        assert stored[1].expires == ends["2"], "it ends no later than it was to"
        other.close()


def until_known(keys: KeyStore, credential: str) -> bool:
    """What another process has written takes a moment to be heard of."""
    deadline = time.monotonic() + 10
    while keys.identify(credential) is None:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.001)
    return True


def test_a_revoked_signing_key_takes_its_tokens_along(keys: KeyStore) -> None:
    key = keys.create_client_key("TEST01")
    token = minted(keys, key)
    assert keys.revoke_key("2")
    assert keys.identify(token) is None
    assert keys.identify(minted(keys, key)) is not None


def test_a_key_is_followed_by_one_that_may_do_the_same(keys: KeyStore) -> None:
    limits = KeyLimits(connections=5)
    now = time.time()
    keys.create_client_key("TEST01", scopes=["connect"], limits=limits, expires=now + 1000)
    new = keys.rotate_key("1", 60)
    assert new
    assert new.startswith("sk_TEST01_")
    old_row, new_row = keys.keys()
    assert (new_row.scopes, new_row.limits) == (("connect",), limits)
    assert old_row.expires is not None
    assert new_row.expires is not None
    assert 55 < old_row.expires - now < 65
    assert 990 < new_row.expires - now < 1010
    assert keys.rotate_key("1", 10**6)
    assert keys.keys()[0].expires == old_row.expires, "an overlap makes no key live longer"
    node = keys.rotate_key(str(len(keys.keys()) + 9), 60)
    assert node is None
    keys.create_node_key("gpu")
    keys.create_admin_key()
    assert str(keys.rotate_key("4", 0)).startswith("nk_gpu_")
    assert str(keys.rotate_key("5", 0)).startswith("ak_")
    assert keys.rotate_key("4", 0) is None, "it has expired"
    keys.prepare_tokens()
    assert keys.rotate_key("8", 0) is None, "a key that signs has a rotation of its own"
    keys.revoke_key("2")
    assert keys.rotate_key("2", 0) is None
    assert keys.rotate_key("x", 0) is None


def test_nodes_and_operators_keys_expire_too(keys: KeyStore) -> None:
    node, admin = keys.create_node_key("p"), keys.create_admin_key(expires=time.time() + 1000)
    assert keys.identify(node)
    assert keys.identify_admin(admin) == "2"
    keys.rotate_key("1", 0)
    keys.rotate_key("2", 0)
    assert keys.identify(node) is None
    assert keys.identify_admin(admin) is None
    assert keys.is_valid("1"), "its sockets stay"


def test_a_scope_that_is_none(keys: KeyStore) -> None:
    with pytest.raises(ValueError, match="expected scopes of connect, tokens, got 'all'"):
        keys.create_client_key("TEST01", scopes=["all"])
    assert keys.keys() == []
