"""Certificates that signed themselves, and a broker that asks for one."""

import subprocess
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class CertificateFiles:
    """A certificate of 127.0.0.1 that signed itself, and its key."""

    certificate: Path
    key: Path


def self_signed(folder: Path, name: str) -> CertificateFiles:
    pair = CertificateFiles(folder / f"{name}.pem", folder / f"{name}.key")
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *subject]
    files = ["-keyout", str(pair.key), "-out", str(pair.certificate)]
    subprocess.run([*command, *files], capture_output=True, check=True)
    return pair


def mutual_tls(server: CertificateFiles, client: CertificateFiles) -> dict[str, str]:
    """Return the settings of a broker that takes this client alone; its files lie beside theirs."""
    store = server.certificate.with_suffix(".store.pem")
    store.write_text(server.key.read_text() + server.certificate.read_text())
    return {
        "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,CLIENT:SSL,INTER:PLAINTEXT",
        "ssl.keystore.type": "PEM",
        "ssl.keystore.location": str(store),
        "ssl.truststore.type": "PEM",
        "ssl.truststore.location": str(client.certificate),
        "ssl.client.auth": "required",
    }
