"""Tokens of an identity provider: with a real issuer's keys over HTTP, and what forgers and a failing issuer get."""

import asyncio
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from pydantic import ValidationError

from contracts.api_keys import KeyLimits
from services.gateway.adapters.tokens import IdentityProvider, Tokens, read_keys
from services.gateway.callers.callers import KEPT, Caller
from services.gateway.callers.team_table import TeamTable
from services.gateway.domain.oidc_grants import Grant
from testbed.factories import MODEL
from tests.unit.gateway.fakes import StepClock
from tests.unit.gateway.world import BEARER, STAGING, World, key, only_active

ISSUER, AUDIENCE = "https://login.example.com", "slipway"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())
STRANGER = rsa.generate_private_key(65537, 2048)
GRANTS = (
    Grant(claim="groups", value="support", models=(MODEL,), limits=KeyLimits(requests_per_minute=2)),
    Grant(claim="groups", value="testers", environments=("staging",)),
)


def public(private, kid: str, **more) -> dict:
    algorithm = jwt.algorithms.RSAAlgorithm if isinstance(private, rsa.RSAPrivateKey) else jwt.algorithms.ECAlgorithm
    return {**json.loads(algorithm.to_jwk(private.public_key())), "kid": kid, "use": "sig", **more}


class Issuer:
    """Publishes its keys on this machine; it can fail, answer nonsense, or never end."""

    def __init__(self) -> None:
        issuer = self
        self.body = json.dumps({"keys": [public(RSA_KEY, "one"), public(EC_KEY, "two")]}).encode()
        self.status, self.asked = 200, 0

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                issuer.asked += 1
                self.send_response(issuer.status)
                self.end_headers()
                self.wfile.write(issuer.body)

            def log_message(self, *_):
                """Print nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/keys"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def answer_with(self, status: int, body: bytes) -> None:
        """Answer so from now on."""
        self.status, self.body = status, body


@pytest.fixture
def issuer():
    made = Issuer()
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
async def tokens(issuer):
    made = Tokens(IdentityProvider(issuer=ISSUER, audience=AUDIENCE, jwks=issuer.url, grants=GRANTS))
    await made.refresh()
    return made


def token(private=RSA_KEY, kid="one", algorithm="RS256", headers=None, **claims) -> str:
    now = int(time.time())
    usual = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 300, "nbf": now - 5, "groups": ["support"]}
    present = {name: value for name, value in {**usual, **claims}.items() if value is not None}
    return jwt.encode(present, private, algorithm, headers={"kid": kid, **(headers or {})})


def world(tokens) -> World:
    gateway = World(only_active(), staging=[only_active()], keys=(key(),))
    gateway.callers._tokens = tokens
    return gateway


def bearer(text: str) -> dict[str, str]:
    return {"authorization": f"Bearer {text}"}


async def test_tokens_are_accepted_beside_keys_and_open_what_their_grant_says(tokens):
    gateway = world(tokens)
    assert (await gateway.chat(BEARER)).status_code == 200
    answers = [await gateway.chat(bearer(token())) for _ in range(3)]
    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert (await gateway.chat(bearer(token(sub="grace")))).status_code == 200, "each subject has its own limits"
    assert (await gateway.chat(bearer(token(EC_KEY, "two", "ES256", sub="eve")))).status_code == 200
    assert (await gateway.chat(bearer(token(sub="bob")), model="other-bot")).status_code == 404
    assert (await gateway.chat({**bearer(token(sub="carl")), **STAGING})).json()["error"][
        "code"
    ] == "environment_not_allowed"
    tester = bearer(token(groups=["testers"], sub="tess"))
    assert (await gateway.chat({**tester, **STAGING})).status_code == 200
    nothing = await gateway.chat(bearer(token(groups=["others"])))
    assert (nothing.status_code, nothing.json()["error"]["code"]) == (403, "no_grant")
    assert "ada" not in str(gateway.budgets.unrecorded()), "usage names no subject"


async def by_team(issuer, tmp_path, **grant):
    """A world with the teams `shop` and `bank`, and a provider with one grant."""
    file = tmp_path / "teams.json"
    quota = {"tokens_per_month": 1}
    file.write_text(
        json.dumps([{"name": "shop", "models": [MODEL], "quota": quota}, {"name": "bank", "models": ["b"]}])
    )
    provider = {"issuer": ISSUER, "audience": AUDIENCE, "jwks": issuer.url, "grants": (Grant(**grant),)}
    tokens = Tokens(IdentityProvider(**provider))
    await tokens.refresh()
    clock = StepClock()
    gateway = World(only_active(), keys=(key(),), clock=clock, teams=TeamTable(file, b"s" * 32, clock))
    gateway.callers._tokens = tokens
    return gateway


async def test_a_claim_names_the_team_whose_models_a_token_opens_and_whose_budget_it_uses(issuer, tmp_path):
    gateway = await by_team(issuer, tmp_path, team_claim="unit")
    assert (await gateway.chat(bearer(token(unit="shop")))).status_code == 200
    assert gateway.engine.requests[-1].cache_salt is not None, "its cached prefixes are its team's"
    refused = await gateway.chat(bearer(token(unit="shop", sub="grace")))
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "insufficient_quota")
    assert (await gateway.chat(bearer(token(unit="bank")))).status_code == 404, "another team's model"
    unknown = await gateway.chat(bearer(token(unit="gone")))
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (403, "unknown_team")
    for unit in (None, 7, [], ["shop", "bank"], "Shop!", "", {"shop": 1}):
        nothing = await gateway.chat(bearer(token(unit=unit)))
        assert (nothing.status_code, nothing.json()["error"]["code"]) == (403, "no_grant"), unit


async def test_texts_of_the_claim_are_translated_into_teams(issuer, tmp_path):
    gateway = await by_team(issuer, tmp_path, team_claim="groups", teams={"grp-17": "shop", "grp-18": "bank"})
    assert (await gateway.chat(bearer(token(groups=["all", "grp-17"])))).status_code == 200
    for groups in (["shop"], ["grp-17", "grp-18"], ["all"]):
        assert (await gateway.chat(bearer(token(groups=groups)))).json()["error"]["code"] == "no_grant"


async def test_a_grant_may_be_of_one_team(issuer, tmp_path):
    gateway = await by_team(issuer, tmp_path, team="bank")
    assert (await gateway.chat(bearer(token()))).status_code == 404


@pytest.mark.parametrize("grant", [{"team": "a", "team_claim": "b"}, {"teams": {"x": "a"}}, {"team": "No Team"}])
def test_a_grant_that_cannot_mean_anything_is_refused(grant):
    with pytest.raises(ValidationError):
        Grant(**grant)


def forged() -> list[str]:
    now = int(time.time())
    pem = RSA_KEY.public_key().public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    head, body, mark = token().split(".")
    none = jwt.encode({"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": now + 300}, None, "none")
    return [
        token(STRANGER),
        token(STRANGER, kid="unknown"),
        token(STRANGER, headers={"jwk": public(STRANGER, "one"), "jku": "http://127.0.0.1:1/keys"}),
        token(exp=now - 100),
        token(exp=None),
        token(nbf=now + 100),
        token(aud="another"),
        token(aud=None),
        token(iss="https://login.example.org"),
        token(iss=None),
        token(sub=None),
        token(sub=7),
        token(sub="\ud800"),
        token(exp="soon"),
        none,
        none + mark,
        hmac_signed(pem),
        f"{head}.{body}.",
        f"{head}.{body[:-2]}.{mark}",
        f".{body}.{mark}",
        "..",
        "é.é.é",
        "a" * 20_000 + ".b.c",
    ]


def hmac_signed(secret: bytes) -> str:
    """Return a token signed with HMAC, and the issuer's public key as the secret, which everybody knows."""
    import base64
    import hashlib
    import hmac

    def encoded(data: bytes) -> bytes:
        return base64.urlsafe_b64encode(data).rstrip(b"=")

    claims = {"iss": ISSUER, "aud": AUDIENCE, "sub": "ada", "exp": int(time.time()) + 300, "groups": ["support"]}
    signed = encoded(b'{"alg":"HS256","kid":"one"}') + b"." + encoded(json.dumps(claims).encode())
    return (signed + b"." + encoded(hmac.digest(secret, signed, hashlib.sha256))).decode()


async def test_what_the_issuer_did_not_sign_for_this_gateway_is_refused(tokens, issuer):
    gateway, asked = world(tokens), issuer.asked
    for text in forged():
        headers = {"authorization": f"Bearer {text}".encode()}
        answer = await gateway.chat(headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, "invalid_token"), text[:100]
    assert not gateway.engine.requests
    assert issuer.asked == asked, "no token makes the gateway ask the issuer at once"


async def test_an_issuer_that_fails_takes_no_key_away_and_a_new_key_counts_after_it_was_read(tokens, issuer):
    gateway = world(tokens)
    for status, body in ((500, b""), (302, b""), (200, b"nonsense"), (200, b'{"keys":[]}'), (200, b"[" * 2**21)):
        issuer.answer_with(status, body)
        await tokens.refresh()
        assert (await gateway.chat(bearer(token(sub=f"{status}{len(body)}")))).status_code == 200
    issuer.answer_with(200, json.dumps({"keys": [public(STRANGER, "three")]}).encode())
    await tokens.refresh()
    assert (await gateway.chat(bearer(token(STRANGER, "three", sub="new")))).status_code == 200
    assert (await gateway.chat(bearer(token(sub="old")))).status_code == 401


async def test_an_unknown_key_makes_the_issuer_be_asked_soon_and_not_again_and_again(issuer, monkeypatch):
    monkeypatch.setattr("services.gateway.adapters.tokens._AT_MOST_EVERY_S", 0.2)
    tokens = Tokens(IdentityProvider(issuer=ISSUER, audience=AUDIENCE, jwks=issuer.url, grants=GRANTS))
    following = asyncio.ensure_future(tokens.follow())
    for _ in range(50):
        tokens.verify(token(kid="unknown"))
        await asyncio.sleep(0.01)
    following.cancel()
    assert 2 <= issuer.asked <= 5


def test_keys_that_prove_nothing_are_left_out():
    weak = rsa.generate_private_key(65537, 1024)
    shared = {"kty": "oct", "k": "c2VjcmV0", "kid": "shared", "alg": "HS256"}
    left_out = [shared, public(weak, "weak"), public(RSA_KEY, "enc", use="enc"), {"kty": "RSA"}, 7, {"kty": "none"}]
    left_out.append({"kty": "EC", "alg": "none"})
    assert set(read_keys(json.dumps({"keys": [*left_out, public(EC_KEY, "two")]}).encode())) == {"two"}
    for nothing in (b"[]", b"{}", b'{"keys": 1}', json.dumps({"keys": left_out}).encode()):
        with pytest.raises(ValueError, match="key"):
            read_keys(nothing)


def test_keys_are_not_fetched_in_plain_text_from_elsewhere(tmp_path):
    settings = {"issuer": ISSUER, "audience": AUDIENCE, "grants": [{"claim": "sub"}]}
    with pytest.raises(ValidationError):
        IdentityProvider(**settings, jwks="http://login.example.com/keys")
    for jwks in ("https://login.example.com/keys", "http://127.0.0.1:1/keys", "/etc/keys.json"):
        assert IdentityProvider(**settings, jwks=jwks)


async def test_keys_in_a_file(tmp_path):
    file = tmp_path / "keys.json"
    file.write_text(json.dumps({"keys": [public(RSA_KEY, "one")]}))
    tokens = Tokens(IdentityProvider(issuer=ISSUER, audience=AUDIENCE, jwks=str(file), grants=GRANTS))
    await tokens.refresh()
    assert tokens.verify(token()) is not None


async def test_subjects_that_use_nothing_take_no_memory(tokens):
    gateway = world(tokens)
    for number in range(3 * KEPT):
        caller = Caller(key(), f"oidc-{number}", gateway.callers._teams)
        with gateway.callers.admit(caller):
            pass
    assert len(gateway.callers._usage) <= KEPT
