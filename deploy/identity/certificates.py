"""An installation's own certificate authority, and the certificates of its servers."""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

AUTHORITY_AGE: Final = timedelta(days=3650)
SERVER_AGE: Final = timedelta(days=397)
"""Common clients accept server certificates of up to 398 days."""
_BEFORE: Final = timedelta(minutes=10)
"""Allowance for differing clocks at the beginning of validity."""


@dataclass(frozen=True)
class KeyPair:
    """A certificate and its private key, both as PEM."""

    certificate: bytes
    key: bytes


def make_authority(now: datetime, key_pem: bytes | None = None) -> KeyPair:
    """Return a new certificate authority (ECDSA P-256) for server certificates, with a given or a new key.

    Raises:
        ValueError: The key is no ECDSA key.
    """
    key = ec.generate_private_key(ec.SECP256R1()) if key_pem is None else _load(key_pem)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Slipway installation")])
    usage = _usage(signs_certificates=True)
    certificate = (
        _builder(name, name, key.public_key(), now, AUTHORITY_AGE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage, critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def make_server_certificate(
    authority: KeyPair, hosts: Iterable[str], now: datetime, *, joins_cluster: bool = False
) -> KeyPair:
    """Return a new server certificate for names and addresses.

    Args:
        authority: The signer.
        hosts: The names and addresses.
        now: The beginning of validity.
        joins_cluster: Whether it is also a client certificate, for the other servers of a cluster.

    Raises:
        ValueError: No host is given, or the authority's key is no ECDSA key.
    """
    names = list(dict.fromkeys(hosts))
    if not names:
        raise ValueError("a server's certificate needs at least one name or address")
    issuer = x509.load_pem_x509_certificate(authority.certificate)
    issuer_key = _load(authority.key)
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0][:64])])
    usages = [ExtendedKeyUsageOID.SERVER_AUTH, *([ExtendedKeyUsageOID.CLIENT_AUTH] if joins_cluster else [])]
    certificate = (
        _builder(subject, issuer.subject, key.public_key(), now, SERVER_AGE)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_usage(signs_certificates=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages), critical=False)
        .add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()),
            critical=False,
        )
        .sign(issuer_key, hashes.SHA256())
    )
    return KeyPair(certificate.public_bytes(serialization.Encoding.PEM), _pem(key))


def belong_together(pair: KeyPair) -> bool:
    """Return whether certificate and private key match."""
    return x509.load_pem_x509_certificate(pair.certificate).public_key() == _load(pair.key).public_key()


def valid_until(certificate: bytes) -> datetime:
    """Return the expiry of a certificate (PEM)."""
    return x509.load_pem_x509_certificate(certificate).not_valid_after_utc


def hosts_of(certificate: bytes) -> tuple[str, ...]:
    """Return the names and addresses of a server's certificate (PEM)."""
    names = x509.load_pem_x509_certificate(certificate).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return tuple(str(name.value) for name in names.value)


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, now: datetime, age: timedelta
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _BEFORE)
        .not_valid_after(now + age)
    )


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _general_name(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)


def _load(pem: bytes) -> ec.EllipticCurvePrivateKey:
    key = serialization.load_pem_private_key(pem, password=None)
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ValueError("the private key is no ECDSA key")  # noqa: TRY004 - the file is wrong, not a type in the program
    return key


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
