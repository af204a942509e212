"""The service conforms to its OpenAPI document in thousands of generated requests."""

import asyncio
import re
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from sqlalchemy import URL

from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from app.utils.db_init import initialise
from tests.conftest import COMMAND_ENV, LONG_TIMEOUT_APP, LONG_TIMEOUT_ENV, new_database, settings_for
from tests.waiting import HANG_TIMEOUT, wait_until_ready

MIN_CASES = 5000


@pytest.fixture
async def service(server_url: URL, template: URL, root: Path, tmp_path: Path) -> AsyncIterator[str]:
    """The address of a service with the demo data, on a separate database and port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    async with new_database(server_url, template.database) as url:
        await initialise(settings_for(url), url, lambda _: None, demo_data=True)
        settings = {
            "ENV": "test",
            "DATABASE_URL": url.render_as_string(hide_password=False),
            "PORT": str(port),
            "LOG_LEVEL": "ERROR",
            # All requests come from one address, and many have wrong passwords.
            "SIGN_IN_ATTEMPTS": "1000000",
            "SIGN_IN_ATTEMPTS_PER_ACCOUNT": "1000000",
            "SIGN_IN_ATTEMPTS_PER_ADDRESS": "1000000",
        }
        with (tmp_path / "service.log").open("wb") as log:
            process = await asyncio.create_subprocess_exec(
                *LONG_TIMEOUT_APP,
                "serve",
                cwd=root,
                env=COMMAND_ENV | LONG_TIMEOUT_ENV | settings,
                stdout=log,
                stderr=log,
            )
            try:
                address = f"http://127.0.0.1:{port}"
                yield await asyncio.to_thread(wait_until_ready, address, lambda: process.returncode)
            finally:
                process.terminate()
                await process.wait()


async def test_service_conforms_to_its_openapi_document(service: str, root: Path, tmp_path: Path) -> None:
    _, editor, administrator = DEMO_USERS
    given = {
        "SCHEMATHESIS_HOOKS": str(root / "tests" / "schemathesis_hooks.py"),
        "SERVICE": service,
        "ADMINISTRATOR": administrator,
        "OTHER_USER": editor,
        "PASSWORD": DEMO_PASSWORD,
    }
    schemathesis = await asyncio.create_subprocess_exec(
        *(str(Path(sys.executable).with_name("st")), "--config-file", str(root / "tests" / "schemathesis.toml")),
        *("run", f"{service}/openapi.json", "--checks", "all", "--no-color"),
        cwd=tmp_path,
        env=COMMAND_ENV | given,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(schemathesis.communicate(), 12 * HANG_TIMEOUT)
    finally:
        if schemathesis.returncode is None:
            schemathesis.kill()
    report = output.decode()
    log = (tmp_path / "service.log").read_text()
    assert schemathesis.returncode == 0, f"{report}\n{log}"
    found = re.search(r"(\d+) generated, (\d+) passed", report)
    assert found, report
    generated, passed = map(int, found.groups())
    assert generated == passed >= MIN_CASES, report
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"✅ {phase}" in report
    assert "Traceback" not in log, log
