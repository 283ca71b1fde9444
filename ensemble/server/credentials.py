# SPDX-License-Identifier: MIT
"""The certificate and the token of the server: the user's own, or made at the first start.

Law of this file: secrets lie in files that their owner alone can read, and are never printed. What is made lies in
one folder, mode 0700: `cert.pem` (self-signed, so a client trusts it by having it), `key.pem` and `token`.
"""

from __future__ import annotations

import contextlib
import datetime
import ipaddress
import os
import secrets
import socket
import stat
from pathlib import Path
from typing import NamedTuple, Optional, Tuple

from ensemble.errors import UsageError

#: days that a certificate of ours is good for
_DAYS = 3650
#: a token has at least so many characters
_SHORTEST = 16


class Credentials(NamedTuple):
    """What a server shows and asks for."""

    cert: Path
    key: bytes
    chain: bytes


def state_dir() -> Path:
    """Where what is made lies: `ensemble/server` in $XDG_STATE_HOME, or in ~/.local/state."""
    state = os.environ.get("XDG_STATE_HOME")
    base = Path(state) if state and os.path.isabs(state) else Path.home() / ".local" / "state"
    return base / "ensemble" / "server"


def token(path: Optional[Path], folder: Path) -> Tuple[str, Path]:
    """The token in the file, or the one in the folder, made where there is none; and where it is. Raises UsageError."""
    if path is None:
        path = folder / "token"
        if not path.exists():
            _private(folder)
            _write(path, secrets.token_urlsafe(32).encode() + b"\n")
    text = _secret(path, "token").decode(errors="replace").strip()
    if len(text) < _SHORTEST or not text.isascii() or not text.isprintable() or " " in text:
        raise UsageError(
            f"{path} holds no token: {_SHORTEST} or more printable ASCII characters without a space, on one line "
            "(as `openssl rand -hex 32` prints them)"
        )
    return text, path


def tls(cert: Optional[Path], key: Optional[Path], folder: Path, host: str) -> Credentials:
    """The certificate and key in those files, or those in the folder, made where there are none. Raises UsageError."""
    if (cert is None) != (key is None):
        raise UsageError("--tls-cert and --tls-key go together: give both, or none to have them made")
    if cert is None or key is None:
        cert, key = folder / "cert.pem", folder / "key.pem"
        if not (cert.exists() and key.exists()):
            _private(folder)
            _make(cert, key, host)
    try:
        chain = cert.read_bytes()
    except OSError as exc:
        raise UsageError(f"the certificate {cert} cannot be read: {exc.strerror}") from None
    found = Credentials(cert, _secret(key, "key"), chain)
    _fit(found, key)
    return found


def _fit(found: Credentials, key: Path) -> None:
    """Do the two belong together, and is the certificate still good? gRPC itself would say nothing."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key

    try:
        shown = x509.load_pem_x509_certificate(found.chain)
        owned = load_pem_private_key(found.key, None)
    except (ValueError, TypeError) as exc:
        raise UsageError(
            f"{found.cert} and {key} are no certificate and key in PEM without a password: {exc}"
        ) from None
    as_bytes = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if shown.public_key().public_bytes(*as_bytes) != owned.public_key().public_bytes(*as_bytes):
        raise UsageError(f"{key} is not the key of the certificate {found.cert}")
    end = shown.not_valid_after_utc
    if end < datetime.datetime.now(datetime.timezone.utc):
        raise UsageError(
            f"the certificate {found.cert} ended on {end:%Y-%m-%d}: remove it to have a new one made, or renew it"
        )


def _make(cert: Path, key: Path, host: str) -> None:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    secret = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "ensemble-server")])
    names = list(dict.fromkeys(["localhost", socket.gethostname(), host]))
    alternatives: list[x509.GeneralName] = []
    for each in [*names, "127.0.0.1", "::1"]:
        try:
            alternatives.append(x509.IPAddress(ipaddress.ip_address(each)))
        except ValueError:
            # a host's name that a certificate cannot hold is one that no client can ask for
            with contextlib.suppress(ValueError):
                alternatives.append(x509.DNSName(each))
    now = datetime.datetime.now(datetime.timezone.utc)
    shown = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(secret.public_key())
        .serial_number(x509.random_serial_number())
        # clocks of other machines may be behind
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(list(dict.fromkeys(alternatives))), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(secret, hashes.SHA256())
    )
    _write(key, secret.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    _write(cert, shown.public_bytes(Encoding.PEM))


def _private(folder: Path) -> None:
    """Make the folder for secrets. Raises UsageError where others can get into it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        info = os.lstat(folder)
    except OSError as exc:
        raise UsageError(f"cannot make the folder for certificate and token, {folder}: {exc.strerror}") from None
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid():
        raise UsageError(f"{folder} is no folder of yours: name another one with --state")
    if stat.S_IMODE(info.st_mode) & 0o077:
        raise UsageError(f"others can get into {folder}, where certificate and token lie: chmod 700 {folder}")


def _write(path: Path, data: bytes) -> None:
    """A file of mode 0600, there only as a whole."""
    new = path.with_suffix(".new")
    try:
        new.unlink(missing_ok=True)
        fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(fd, "wb") as file:
            file.write(data)
        new.rename(path)
    except OSError as exc:
        raise UsageError(f"cannot write {path}: {exc.strerror}") from None


def _secret(path: Path, what: str) -> bytes:
    """The content of a file that its owner alone can read. Raises UsageError."""
    try:
        with open(path, "rb") as file:
            info = os.fstat(file.fileno())
            if info.st_mode & 0o077:
                raise UsageError(f"others can read the {what} in {path}: chmod 600 {path}")
            return file.read(1 << 16)
    except OSError as exc:
        raise UsageError(f"the {what} in {path} cannot be read: {exc.strerror}") from None
