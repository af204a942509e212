"""One sign-in: a token pair that is kept fresh, and given back at the end."""

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
# An access token is not used any more when it has less than this left: a request may take a while.
SPARE_SECONDS = 30.0
OK = 200

# All sign in as one user from one address, and what is being checked counts as a failed attempt until it succeeds. Of a
# few at a time there are never enough to be throttled.
signing_in = Semaphore(4)


class SignedIn:
    """A session of the user of the run, with the header that requests need."""

    def __init__(self, client: FastHttpSession) -> None:
        """Sign in. Raises `StopTest` when that is refused: nothing else would be answered."""
        self._client = client
        with signing_in:
            response = self._send("token", data={"username": EMAIL, "password": PASSWORD})
        if response.status_code != OK:
            raise StopTest(f"{EMAIL} can't sign in: {response.error or response.text}")
        self._keep(response.json())
        # As if they had come one by one over the last minutes, so that they don't all refresh at the same time.
        self._refresh_at -= uniform(0, self._refresh_at - time.monotonic())

    def header(self) -> dict[str, str]:
        """Return the header of a request to come, with a new token if the old one expires soon."""
        if time.monotonic() >= self._refresh_at:
            response = self._send("refresh", json={"refresh_token": self._refresh_token})
            # Unanswered it is tried again with the next request; the old token may still do.
            if response.status_code == OK:
                self._keep(response.json())
        return {"Authorization": f"Bearer {self._access_token}"}

    def sign_out(self) -> None:
        """End the session."""
        self._send("logout", headers=self.header())

    def _keep(self, pair: dict[str, Any]) -> None:
        self._access_token, self._refresh_token = pair["access_token"], pair["refresh_token"]
        self._refresh_at = time.monotonic() + pair["expires_in"] - SPARE_SECONDS

    def _send(self, what: str, **arguments: Any) -> Any:
        # No part of the mix of reads and writes: a user does so once and then every ten minutes.
        return self._client.post(f"{AUTH}/{what}", context={"in_the_mix": False}, **arguments)
