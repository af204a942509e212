"""A session of the API: a token pair that is refreshed in time, and revoked at the end."""

import os
import time
from random import uniform
from threading import Semaphore
from typing import Any

from locust.contrib.fasthttp import FastHttpSession
from locust.exception import StopTest

AUTH = "/api/v1/auth"
# The demo data's administrator with DEMO_PASSWORD of app/domains/register/demo_data.py: for development only.
EMAIL = os.environ.get("LOCUST_EMAIL") or "owen.tarrant@tarnbeck.example"
PASSWORD = os.environ.get("LOCUST_PASSWORD") or "try-the-register"
# An access token is refreshed this long before it expires, because a request takes time.
SPARE_SECONDS = 30.0
OK = 200

# All users sign in to one account from one address, and an attempt counts as failed until it succeeds. A few attempts
# at a time stay below the limit of the throttling.
sign_in_slots = Semaphore(4)


class AuthSession:
    """A session of the run's account, with the header for its requests."""

    def __init__(self, client: FastHttpSession) -> None:
        """Sign in. Raises `StopTest` if that fails, because all requests need a token."""
        self._client = client
        with sign_in_slots:
            response = self._send("token", data={"username": EMAIL, "password": PASSWORD})
        if response.status_code != OK:
            raise StopTest(f"{EMAIL} cannot sign in: {response.error or response.text}")
        self._store(response.json())
        # Random, so that the users do not all refresh at the same time.
        self._refresh_at -= uniform(0, self._refresh_at - time.monotonic())

    def header(self) -> dict[str, str]:
        """Return the header of the next request, with a new token if the old one expires soon."""
        if time.monotonic() >= self._refresh_at:
            response = self._send("refresh", json={"refresh_token": self._refresh_token})
            # After a failure the next request tries again; the old token may still be valid.
            if response.status_code == OK:
                self._store(response.json())
        return {"Authorization": f"Bearer {self._access_token}"}

    def sign_out(self) -> None:
        """End the session."""
        self._send("logout", headers=self.header())

    def _store(self, pair: dict[str, Any]) -> None:
        self._access_token, self._refresh_token = pair["access_token"], pair["refresh_token"]
        self._refresh_at = time.monotonic() + pair["expires_in"] - SPARE_SECONDS

    def _send(self, operation: str, **arguments: Any) -> Any:
        # Not part of the mix of reads and writes: a user sends this once and then every ten minutes.
        return self._client.post(f"{AUTH}/{operation}", context={"in_mix": False}, **arguments)
