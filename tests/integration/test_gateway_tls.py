"""The gateway with TLS: whole answers and streams, no plain HTTP, and no older TLS."""

import ssl

import httpx
import openai
import pytest

from contracts.routes import Route
from deploy.identity import certificates
from shared.runtime.clock import SystemClock
from shared.storage.kv import Bucket
from testbed.factories import route
from testbed.gateway import Gateway, load_toy
from testbed.servers import connection, running, wait_until

pytestmark = pytest.mark.real
HELLO = [{"role": "user", "content": "zebra giraffe"}]


class Files:
    """An authority, and a certificate of it."""

    def __init__(self, folder) -> None:
        self.now = SystemClock().now()
        self.authority = certificates.make_authority(self.now, None)
        self.ca, self.certificate, self.key = (folder / name for name in ("ca.pem", "chain.pem", "key.pem"))
        self.ca.write_bytes(self.authority.certificate)
        made = certificates.make_server_certificate(self.authority, ["127.0.0.1", "localhost"], self.now)
        self.key.write_bytes(made.key)
        self.certificate.write_bytes(made.certificate)


async def test_callers_by_tls(nats_server, js, triton, tmp_path):
    served = load_toy(triton, "toy", 1)
    await Bucket(js, "routes", Route).create("toy", route(model="toy", canary=None, active=served, previous=None))
    files = Files(tmp_path)
    settings = {"tls_certificate": files.certificate, "tls_key": files.key}
    with running(Gateway(tmp_path, connection(nats_server, None, tmp_path), **settings)) as gateway:
        trusted = ssl.create_default_context(cafile=files.ca)
        address = f"https://127.0.0.1:{gateway.port}"
        with httpx.Client(verify=trusted, timeout=30) as http:
            wait_until(lambda: http.get(f"{address}/v1/models/toy", headers=gateway.headers).status_code == 200)
            sdk = openai.OpenAI(base_url=f"{address}/v1", api_key=gateway.key, http_client=http)
            asked = {"model": "toy", "messages": HELLO, "max_tokens": 5}
            assert sdk.chat.completions.create(**asked).choices[0].message.content
            assert len(list(sdk.chat.completions.create(**asked, stream=True))) > 3
            large = http.post(f"{address}/v1/completions", content=b"x" * (5 * 2**20), headers=gateway.headers)
            assert large.status_code == 413, "refused before it was read"
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http://127.0.0.1:{gateway.port}/healthz", timeout=5)
        old = ssl.create_default_context(cafile=files.ca)
        old.maximum_version = ssl.TLSVersion.TLSv1_1
        with pytest.raises((httpx.HTTPError, ssl.SSLError)), httpx.Client(verify=old) as outdated:
            outdated.get(f"{address}/healthz")
