"""Certificates of bus and store, signed by the installation's own authority."""

import re
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Final

from deploy.identity.files import write_file, write_secret
from deploy.identity.key_files import KeyFiles, KeysRefused

_WILDCARD: Final = re.compile(r"\*(?:\.[a-z0-9](?:[a-z0-9-]*[a-z0-9])?){2,}", re.IGNORECASE)
"""Wildcards accepted by OpenSSL and most clients: a whole first label, followed by at least two labels."""


def check_hosts(hosts: Iterable[str]) -> None:
    """Raise KeysRefused for a wildcard that clients would not accept."""
    for host in hosts:
        if "*" in host and _WILDCARD.fullmatch(host) is None:
            raise KeysRefused(
                f"{host} cannot be a host of a certificate: clients take a wildcard only as the whole first label, "
                "with at least two labels after it, as in *.bus.example.org. Name each host; the option is repeatable."
            )


def make_authority(files: KeyFiles, now: datetime) -> None:
    """Create the certificate authority if missing."""
    from deploy.identity import certificates  # not for every command

    if files.authority.is_file():
        return
    key = files.authority_key.read_bytes() if files.authority_key.is_file() else None
    made = certificates.make_authority(now, key)
    write_secret(files.authority_key, made.key)
    write_file(files.authority, made.certificate)


def certify(
    files: KeyFiles,
    server: str,
    *,
    certificate: Path,
    key: Path,
    hosts: list[str],
    now: datetime,
    joins_cluster: bool = False,
) -> None:
    """Create a server's certificate, unless there is one for these hosts with 30 days left.

    With `joins_cluster` it is also a client certificate, for the other servers of a cluster.

    Raises:
        KeysRefused: The authority's private key is not in the folder.
    """
    from deploy.identity import certificates  # not for every command

    if certificate.is_file() and key.is_file():
        present = certificates.KeyPair(certificate.read_bytes(), key.read_bytes())
        lasts = (certificates.valid_until(present.certificate) - now).days >= 30
        complete = set(hosts) <= set(certificates.hosts_of(present.certificate))
        if lasts and complete and certificates.belong_together(present):
            return
    if not files.authority_key.is_file():
        missing = f"The {server} needs a new certificate, and {files.authority_key}, which signs it, is missing"
        raise KeysRefused(f"{missing}: put it back, or make an authority in a new folder.")
    authority = certificates.KeyPair(files.authority.read_bytes(), files.authority_key.read_bytes())
    made = certificates.make_server_certificate(authority, hosts, now, joins_cluster=joins_cluster)
    write_secret(key, made.key)
    write_file(certificate, made.certificate)
