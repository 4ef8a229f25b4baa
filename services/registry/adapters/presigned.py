"""URLs that permit one request to the store, signed by AWS Signature Version 4 in the query, with headers signed too.

The `minio` client presigns without headers; here the length of the body and its checksum are part of what is permitted.
"""

import hashlib
import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote, urlencode

ALGORITHM: Final = "AWS4-HMAC-SHA256"


@dataclass(frozen=True)
class Signer:
    """The key that signs, and the address that the URLs lead to.

    Attributes:
        endpoint: Host and port, as those who use the URLs reach the store: it is part of what is signed.
    """

    access_key: str
    secret_key: str
    region: str
    endpoint: str

    def url(
        self,
        method: str,
        path: str,
        now: datetime,
        *,
        expires_s: int,
        headers: Mapping[str, str],
        query: Mapping[str, str] | None = None,
    ) -> str:
        """Return the URL of a request that must carry these headers with these values.

        Args:
            method: Its method.
            path: Its path: `/BUCKET/KEY`, not quoted.
            now: The time from which it counts.
            expires_s: Seconds for which it counts.
            headers: Headers that it must have, besides `host`.
            query: Its other parameters.
        """
        stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
        scope = f"{stamp[:8]}/{self.region}/s3/aws4_request"
        signed = {"host": self.endpoint, **{name.lower(): value.strip() for name, value in headers.items()}}
        names = ";".join(sorted(signed))
        parameters = {
            **(query or {}),
            "X-Amz-Algorithm": ALGORITHM,
            "X-Amz-Credential": f"{self.access_key}/{scope}",
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(expires_s),
            "X-Amz-SignedHeaders": names,
        }
        quoted_path = quote(path, safe="/-_.~")
        canonical_query = urlencode(sorted(parameters.items()), quote_via=quote, safe="-_.~")
        lines = "".join(f"{name}:{signed[name]}\n" for name in sorted(signed))
        request = f"{method}\n{quoted_path}\n{canonical_query}\n{lines}\n{names}\nUNSIGNED-PAYLOAD"
        text = f"{ALGORITHM}\n{stamp}\n{scope}\n{hashlib.sha256(request.encode()).hexdigest()}"
        signature = hmac.new(self._key(scope), text.encode(), hashlib.sha256).hexdigest()
        return f"https://{self.endpoint}{quoted_path}?{canonical_query}&X-Amz-Signature={signature}"

    def _key(self, scope: str) -> bytes:
        key = f"AWS4{self.secret_key}".encode()
        for part in scope.split("/"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key
