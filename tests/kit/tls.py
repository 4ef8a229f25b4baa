"""A handshake of TLS in memory, by the library that clients use."""

import contextlib
import ssl
from pathlib import Path
from typing import Final

_HOSTNAME_MISMATCH: Final = 62
"""X509_V_ERR_HOSTNAME_MISMATCH of OpenSSL."""


def accepts(authority: Path, certificate: Path, key: Path, host: str) -> bool:
    """Return whether a client that trusts the authority takes the certificate for that of a host.

    Raises:
        ssl.SSLError: The handshake failed for another reason than the name.
    """
    ours = ssl.create_default_context(cafile=str(authority))
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs.load_cert_chain(certificate, key)
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = ours.wrap_bio(to_client, to_server, server_hostname=host)
    server = theirs.wrap_bio(to_server, to_client, server_side=True)
    try:
        for end in (client, server, client):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    except ssl.SSLCertVerificationError as error:
        if error.verify_code != _HOSTNAME_MISMATCH:
            raise
        return False
    assert client.version() is not None, "the handshake has not ended"
    return True
