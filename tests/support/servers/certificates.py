"""Certificates of an authority of our own: a good one, and two that a client has to refuse."""

from __future__ import annotations

import datetime as dt
import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

_NOW = dt.datetime.now(dt.timezone.utc)
_DAY = dt.timedelta(days=1)


class Certificates(NamedTuple):
    """Files in PEM. Each pair is a certificate and its key, as ``FaultServer(certificate=…)`` takes it."""

    authority: Path
    valid: tuple[Path, Path]
    expired: tuple[Path, Path]
    of_another_host: tuple[Path, Path]


def make_certificates(directory: Path) -> Certificates:
    """Make an authority, and what it signs for 127.0.0.1 and for others."""
    authority_key = ec.generate_private_key(ec.SECP256R1())
    name = _name("ai4os-data test authority")
    authority = (
        _builder(name, authority_key, _NOW + _DAY)
        .issuer_name(name)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(authority_key.public_key()), critical=False)
        .sign(authority_key, hashes.SHA256())
    )
    (directory / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))

    def signed(stem: str, host: x509.GeneralName, until: dt.datetime) -> tuple[Path, Path]:
        key = ec.generate_private_key(ec.SECP256R1())
        certificate = (
            _builder(_name(stem), key, until)
            .issuer_name(name)
            .add_extension(x509.SubjectAlternativeName([host]), critical=False)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(authority_key.public_key()), critical=False
            )
            .sign(authority_key, hashes.SHA256())
        )
        files = directory / f"{stem}.pem", directory / f"{stem}.key"
        files[0].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )
        return files

    here = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    return Certificates(
        authority=directory / "authority.pem",
        valid=signed("valid", here, _NOW + _DAY),
        expired=signed("expired", here, _NOW - _DAY),
        of_another_host=signed("of-another-host", x509.DNSName("cloud.example"), _NOW + _DAY),
    )


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: dt.datetime) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOW - 2 * _DAY)
        .not_valid_after(until)
    )
