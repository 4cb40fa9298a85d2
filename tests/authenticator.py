"""A device that holds a passkey, and a browser that asks it: what WebAuthn's two ceremonies give back, by its specification."""

import hashlib
import json
import secrets
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import cbor2
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from sqlalchemy import Engine
from webauthn import base64url_to_bytes
from webauthn.helpers import bytes_to_base64url as base64url

from app.config import Settings
from app.models import User
from app.models.base import now as clock
from app.services.accounts import challenges, passkeys

PLACE = "https://box.example"
PRESENT, VERIFIED, ATTESTED = 0x01, 0x04, 0x40


@dataclass
class Authenticator:
    """`sign_count` rises with each use; a device that `counts` nothing always says 0. `origin` is where the browser is."""

    origin: str = PLACE
    counts: bool = True
    sign_count: int = 0
    verifies: bool = True
    handle: str = ""
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    credential_id: bytes = field(default_factory=lambda: secrets.token_bytes(32))

    def create(self, options: dict[str, Any]) -> str:
        """The answer to navigator.credentials.create(), as the page sends it."""
        self.handle = options["user"]["id"]
        numbers = self.key.public_key().public_numbers()
        public = cbor2.dumps({1: 2, 3: -7, -1: 1, -2: numbers.x.to_bytes(32), -3: numbers.y.to_bytes(32)})
        held = bytes(16) + len(self.credential_id).to_bytes(2) + self.credential_id + public
        data = self._data(options["rp"]["id"], ATTESTED) + held
        attestation = cbor2.dumps({"fmt": "none", "attStmt": {}, "authData": data})
        return self._answer(
            clientDataJSON=self._client_data("webauthn.create", options["challenge"]),
            attestationObject=base64url(attestation),
        )

    def get(self, options: dict[str, Any]) -> str:
        """The answer to navigator.credentials.get()."""
        self.sign_count += self.counts
        data = self._data(options["rpId"], 0)
        client_data = self._client_data("webauthn.get", options["challenge"])
        signed = data + hashlib.sha256(base64url_to_bytes(client_data)).digest()
        return self._answer(
            clientDataJSON=client_data,
            authenticatorData=base64url(data),
            signature=base64url(self.key.sign(signed, ec.ECDSA(SHA256()))),
            userHandle=self.handle,
        )

    def _data(self, host: str, flags: int) -> bytes:
        flags |= PRESENT | (VERIFIED if self.verifies else 0)
        return hashlib.sha256(host.encode()).digest() + bytes([flags]) + self.sign_count.to_bytes(4)

    def _client_data(self, kind: str, challenge: str) -> str:
        told = {"type": kind, "challenge": challenge, "origin": self.origin, "crossOrigin": False}
        return base64url(json.dumps(told).encode())

    def _answer(self, **response: str) -> str:
        name = base64url(self.credential_id)
        return json.dumps({"id": name, "rawId": name, "type": "public-key", "response": response})


def add_passkey(
    engine: Engine, settings: Settings, user: User, *, name: str = "laptop", now: datetime | None = None, **device: Any
) -> Authenticator:
    """A device with a new passkey of the user's, at `PLACE`."""
    at_place = settings.model_copy(update={"public_url": PLACE})
    told = {"user_id": user.id, "address": "192.0.2.1", "settings": at_place, "now": now or clock()}
    options = challenges.to_add(engine, browser=f"of {user.id}", **told)
    made = Authenticator(**device)
    passkeys.add(engine, name=name, answer=passkeys.Answer(made.create(options), f"of {user.id}"), **told)
    return made
