"""Mutual authentication of the parts of a SeaweedFS, so that its internal ports refuse other clients.

`weed` has a master, a volume server, a filer and an S3 gateway, each with an HTTP and a gRPC port. gRPC uses mutual
TLS; HTTP requests to volume server and filer carry signed tokens.
"""

import secrets
import tomllib
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from deploy.identity.files import make_folder, write_secret

_PARTS: Final = ("admin", "client", "filer", "master", "msg_broker", "s3", "volume", "worker")
_TOKENS: Final = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
_AGE: Final = timedelta(days=3650)


def prepare_internal(folder: Path, now: datetime) -> Path:
    """Create missing keys of a SeaweedFS's parts in a folder, and `security.toml`; return the folder.

    The paths in that file are absolute, so it is written again after a move of the folder.
    """
    make_folder(folder)
    certificate, key, config = folder / "internal.pem", folder / "internal-key.pem", folder / "security.toml"
    if not certificate.is_file() or not key.is_file():
        made = _certificate(now)
        write_secret(key, made[1])
        write_secret(certificate, made[0])
    before = config.read_text() if config.is_file() else ""
    text = _security(certificate.absolute(), key.absolute(), before)
    if text != before:
        write_secret(config, text.encode())
    return folder


def _security(certificate: Path, key: Path, before: str) -> str:
    """Return the content of `security.toml`, with the tokens' keys of the earlier one."""
    kept = tomllib.loads(before)
    lines = []
    for table in _TOKENS:
        table_of = kept
        for part in table.split("."):
            table_of = table_of.get(part, {})
        lines.append(f'[{table}]\nkey = "{table_of.get("key") or secrets.token_hex(32)}"\n')
    lines.append("[filer.expose_directory_metadata]\nenabled = false\n")
    lines.append(f'[grpc]\nca = "{certificate}"\n')
    lines += [f'[grpc.{part}]\ncert = "{certificate}"\nkey = "{key}"\n' for part in _PARTS]
    return "\n".join(lines)


def _certificate(now: datetime) -> tuple[bytes, bytes]:
    """Return a self-signed certificate for both ends of a connection, and its key, as PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Slipway store")])
    usage = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=10))
        .not_valid_after(now + _AGE)
        .add_extension(usage, critical=False)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("store")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM), secret
