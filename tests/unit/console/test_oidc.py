"""Signing in by an identity provider: the code flow with PKCE, and what an answer that is not for this browser gets."""

import asyncio
import base64
import hashlib
import json
from urllib.parse import parse_qs, urlsplit

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.testclient import TestClient

from services.console.adapters.oidc import Provider, SignInRefusedError
from services.console.settings import ConsoleSettings
from tests.unit.console.world import NOW, URL, World, context_of

ISSUER = "https://id.example.org"


class IdentityProvider:
    """Answers as a provider does, over a transport in this process; `altered_claims` replace claims of the next token."""

    def __init__(self) -> None:
        self.signing_key = ec.generate_private_key(ec.SECP256R1())
        self.asked: dict = {}
        self.altered_claims: dict = {}
        self.tokens: list[dict] = []

    def answer(self, request: httpx.Request) -> httpx.Response:
        if request.url.path.endswith("openid-configuration"):
            names = {name: f"{ISSUER}/{name}" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
            return httpx.Response(200, json={"issuer": ISSUER, **names})
        if request.url.path == "/jwks_uri":
            public = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(self.signing_key.public_key()))
            return httpx.Response(200, json={"keys": [public | {"kid": "k1", "alg": "ES256"}]})
        form = {name: values[0] for name, values in parse_qs(request.content.decode()).items()}
        self.tokens.append(form)
        challenge = (
            base64.urlsafe_b64encode(hashlib.sha256(form["code_verifier"].encode()).digest()).decode().rstrip("=")
        )
        if challenge != self.asked["code_challenge"] or form["code"] != "good":
            return httpx.Response(400, json={"error": "invalid_grant"})
        claims = {
            "iss": ISSUER, "aud": "console", "sub": "17", "nonce": self.asked["nonce"], "preferred_username": "oscar",
            "iat": NOW.timestamp(), "exp": 4102444800,
        }  # fmt: skip
        token = jwt.encode(claims | self.altered_claims, self.signing_key, algorithm="ES256", headers={"kid": "k1"})
        return httpx.Response(200, json={"id_token": token, "access_token": "x"})


@pytest.fixture
def signing_in(tmp_path):
    world, outside = World(tmp_path), IdentityProvider()
    provider = Provider(
        ISSUER, "console", "", "preferred_username", f"{URL}/login/callback", httpx.MockTransport(outside.answer)
    )
    client = TestClient(world.make(provider), base_url=URL, follow_redirects=False)

    def begin():
        address = client.get("/login/oidc?next=/alerts").headers["location"]
        outside.asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
        return outside.asked["state"]

    yield client, outside, begin
    world.close()


def test_a_person_signs_in(signing_in):
    client, outside, begin = signing_in
    answer = client.get(f"/login/callback?state={begin()}&code=good")
    assert answer.status_code == 200
    assert "url=/alerts" in answer.text
    assert context_of(client.get("/index"))["person"].name == "oscar"
    assert outside.asked["code_challenge_method"] == "S256"
    assert outside.asked["redirect_uri"] == outside.tokens[0]["redirect_uri"] == f"{URL}/login/callback"


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"preferred_username": "nobody-here"}, "is no identity here"),
        ({"preferred_username": ["oscar"]}, "no claim"),
        ({"nonce": "another"}, "another sign-in"),
        ({"aud": "another-client"}, "not valid"),
        ({"iss": "https://evil.example"}, "not valid"),
        ({"exp": 1}, "not valid"),
    ],
)
def test_a_token_that_is_not_for_this_sign_in_signs_nobody_in(signing_in, changes, why):
    client, outside, begin = signing_in
    outside.altered_claims = changes
    answer = client.get(f"/login/callback?state={begin()}&code=good")
    assert answer.status_code == 403
    assert why in answer.text
    assert client.get("/index").status_code == 303


def test_an_answer_in_another_browser_signs_nobody_in(signing_in):
    """Its sender would sign the person in as another one (login CSRF)."""
    client, _, begin = signing_in
    state = begin()
    assert client.get(f"/login/callback?state={state}x&code=good").status_code == 403
    client.cookies.clear()
    answer = client.get(f"/login/callback?state={state}&code=good")
    assert "did not begin in this browser" in answer.text
    assert answer.status_code == 403


def test_a_token_of_another_key_or_without_a_signature_signs_nobody_in(signing_in):
    _, outside, _ = signing_in
    forged = ec.generate_private_key(ec.SECP256R1())
    real, outside.signing_key = outside.signing_key, forged
    claims_key = outside.answer

    def answer(request):
        if request.url.path == "/jwks_uri":
            outside.signing_key = real
            try:
                return claims_key(request)
            finally:
                outside.signing_key = forged
        return claims_key(request)

    provider = Provider(ISSUER, "console", "", "sub", "x", httpx.MockTransport(answer))
    with pytest.raises(Exception, match="not valid"):
        asyncio.run(_end(provider, outside))


async def _end(provider, outside):
    address, cookie = await provider.begin("/")
    outside.asked = {name: values[0] for name, values in parse_qs(urlsplit(address).query).items()}
    return await provider.end(cookie, outside.asked["state"], "good", "")


def test_a_provider_without_tls_is_refused():
    def answer(_request):
        return httpx.Response(200, json={"issuer": ISSUER, "authorization_endpoint": "http://id.example.org/a"})

    provider = Provider(ISSUER, "console", "", "sub", "x", httpx.MockTransport(answer))
    with pytest.raises(Exception, match="no https address"):
        asyncio.run(provider.begin("/"))


@pytest.mark.parametrize("cookie", ["", "abc", "abc.é", "é.é", "abc." + "0" * 64])
def test_a_cookie_that_is_not_of_this_console_signs_nobody_in(cookie):
    provider = Provider(ISSUER, "console", "", "sub", "x")
    with pytest.raises(SignInRefusedError, match="did not begin in this browser"):
        asyncio.run(provider.end(cookie, "state", "good", ""))


@pytest.mark.parametrize("algorithm", ["none", "HS256"])
def test_a_token_without_a_signature_or_with_a_shared_secret_signs_nobody_in(signing_in, algorithm):
    _, outside, _ = signing_in

    def answer(request):
        if not request.url.path.endswith("token_endpoint"):
            return outside.answer(request)
        claims = {
            "iss": ISSUER, "aud": "console", "sub": "oscar", "nonce": outside.asked["nonce"],
            "iat": NOW.timestamp(), "exp": 4102444800,
        }  # fmt: skip
        key = None if algorithm == "none" else "what everyone can read in the list of keys, and more"
        token = jwt.encode(claims, key, algorithm=algorithm, headers={"kid": "k1"})
        return httpx.Response(200, json={"id_token": token})

    provider = Provider(ISSUER, "console", "", "sub", "x", httpx.MockTransport(answer))
    with pytest.raises(SignInRefusedError, match="not valid"):
        asyncio.run(_end(provider, outside))


def test_the_claim_that_names_the_identity_must_be_chosen():
    known = {"oidc_issuer": ISSUER, "oidc_client_id": "console"}
    with pytest.raises(ValueError, match="CONSOLE_OIDC_CLAIM"):
        ConsoleSettings(**known)
    assert ConsoleSettings(**known, oidc_claim="sub").oidc_claim == "sub"
    assert ConsoleSettings().oidc_claim is None
