"""The documentation pages in a real browser, which requests nothing from other servers."""

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, ConsoleMessage, Locator, Page, Request, async_playwright, expect

from app.core.permissions import SCOPES
from app.domains.register.demo_data import DEMO_PASSWORD, DEMO_USERS
from tests.catalogue import COLLECTIONS
from tests.waiting import HANG_TIMEOUT

pytestmark = pytest.mark.browser

MILLISECONDS = HANG_TIMEOUT * 1000
expect.set_options(timeout=MILLISECONDS)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("There is no Chromium. On Debian and Ubuntu: apt-get install chromium", pytrace=False)
    async with async_playwright() as playwright:
        # Chromium's sandbox does not run as root or in a container, and the pages are trusted.
        browser = await playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"], timeout=MILLISECONDS
        )
        yield browser
        await browser.close()


class Watched:
    """A page, with its errors and its requests to other servers."""

    def __init__(self, page: Page, server: str) -> None:
        self.page = page
        self.errors: list[str] = []
        self.elsewhere: list[str] = []
        self._server = server
        page.on("console", self._on_console)
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("request", self._on_request)

    def _on_console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            self.errors.append(message.text)

    def _on_request(self, request: Request) -> None:
        if not request.url.startswith((self._server, f"blob:{self._server}", "data:")):
            self.elsewhere.append(request.url)


@pytest.fixture
async def watched(browser: Browser, live_server: str) -> AsyncIterator[Watched]:
    page = await browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(MILLISECONDS)
    yield Watched(page, live_server)
    await page.close()


async def open_swagger_ui(watched: Watched, server: str) -> None:
    await watched.page.goto(f"{server}/docs")
    await expect(watched.page.locator(".opblock-tag-section h3 a").first).to_be_visible()


async def sign_in(page: Page, email: str, password: str) -> Locator:
    """Fill in the dialog of the Authorize button, and return its form."""
    await page.locator("button.authorize").first.click()
    form = page.locator(".auth-container").filter(has_text="OAuth2, password")
    await form.get_by_label("username:").fill(email)
    await form.get_by_label("password:", exact=True).fill(password)
    await form.get_by_role("button", name="Apply given OAuth2 credentials").click()
    return form


async def execute(page: Page, operation_id: str) -> Locator:
    """Send the request of an operation with the values of the page, and return the displayed response."""
    operation = page.locator(f"#operations-{operation_id}")
    await operation.locator("button.opblock-summary-control").click()
    await operation.locator("button.execute").click()
    return operation.locator(".live-responses-table")


def status(response: Locator) -> Locator:
    return response.locator("tbody .response-col_status").first


async def test_swagger_ui_renders_the_collections_in_order(watched: Watched, live_server: str) -> None:
    await open_swagger_ui(watched, live_server)
    names = await watched.page.locator(".opblock-tag-section h3 a").all_inner_texts()
    assert tuple(names[: len(COLLECTIONS)]) == COLLECTIONS
    assert watched.errors == []
    assert watched.elsewhere == []


async def test_swagger_ui_is_unauthorised_before_sign_in(watched: Watched, live_server: str) -> None:
    await open_swagger_ui(watched, live_server)
    response = await execute(watched.page, "departments-get_department")
    await expect(status(response)).to_contain_text("401")
    await expect(response).to_contain_text('"code": "unauthorized"')
    # Chromium reports every response of this kind.
    assert watched.errors == ["Failed to load resource: the server responded with a status of 401 (Unauthorized)"]


async def test_swagger_ui_signs_in_reads_and_writes_the_unchanged_example(watched: Watched, live_server: str) -> None:
    page = watched.page
    await open_swagger_ui(watched, live_server)
    _, editor, _ = DEMO_USERS
    form = await sign_in(page, editor, DEMO_PASSWORD)
    await expect(form.get_by_role("button", name="Remove authorization")).to_be_visible()
    await page.locator("button.close-modal").click()
    read = await execute(page, "departments-get_department")
    await expect(status(read)).to_contain_text("200")
    await expect(read).to_contain_text('"code": "TARN"')
    written = await execute(page, "processes-create_process")
    await expect(status(written)).to_contain_text("201")
    assert watched.errors == []
    assert watched.elsewhere == []
    # The browser stores nothing.
    assert await page.evaluate("localStorage.length + sessionStorage.length + document.cookie.length") == 0
    await page.reload()
    await expect(status(await execute(page, "departments-get_department"))).to_contain_text("401")


async def test_dialog_reports_a_wrong_password_and_has_only_fields_of_the_user(
    watched: Watched, live_server: str
) -> None:
    await open_swagger_ui(watched, live_server)
    form = await sign_in(watched.page, "unknown@tarnbeck.example", "not the password")
    await expect(form.locator(".errors").first).to_be_visible()
    fields = form.locator("input:not([type=checkbox]), select")
    shown = [await field.get_attribute("id") for field in await fields.all() if await field.is_visible()]
    assert shown == ["oauth_username", "oauth_password"]
    assert await form.locator(".scopes .name").all_inner_texts() == list(SCOPES)


async def test_redoc_renders_and_searches(watched: Watched, live_server: str) -> None:
    await watched.page.goto(f"{live_server}/redoc")
    await expect(watched.page.get_by_role("heading", name="Process Register")).to_be_visible()
    await expect(watched.page.get_by_role("heading", name="Create a process")).to_be_visible()
    await watched.page.get_by_placeholder("Search...").fill("holder")
    results = watched.page.locator("[data-role='search:results'] li")
    await expect(results.filter(has_text="List the holders of a role").first).to_be_visible()
    # The styles apply, too: the menu is beside the text.
    menu = await watched.page.locator(".menu-content").bounding_box()
    assert menu is not None
    assert menu["width"] < 400
    assert watched.errors == []
    assert watched.elsewhere == []
