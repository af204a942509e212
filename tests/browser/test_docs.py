"""The documentation pages in a real browser that reaches no network but ours."""

import shutil
from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser, ConsoleMessage, Page, Request, async_playwright, expect

pytestmark = pytest.mark.browser

# A page of megabytes on a busy machine takes its time.
expect.set_options(timeout=30_000)


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.fail("There is no Chromium. On Debian and Ubuntu: apt-get install chromium", pytrace=False)
    async with async_playwright() as playwright:
        # Chromium's own sandbox needs what a container or root does not have; the pages are ours.
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        await browser.close()


class Watched:
    """A page, with what went wrong in it and where it went."""

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
    yield Watched(page, live_server)
    await page.close()


async def test_swagger_ui_renders_and_an_operation_executes(watched: Watched, live_server: str) -> None:
    page = watched.page
    await page.goto(f"{live_server}/docs")
    tags = page.locator(".opblock-tag-section h3 a")
    await expect(tags.first).to_be_visible()
    names = await tags.all_inner_texts()
    assert names[:6] == ["processes", "departments", "locations", "resources", "roles", "users"]
    operation = page.locator("#operations-departments-get_department")
    await operation.locator("button.opblock-summary-control").click()
    await operation.locator("button.execute").click()
    await expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("200")
    await expect(operation.locator(".live-responses-table")).to_contain_text('"code": "TARN"')
    assert watched.errors == []
    assert watched.elsewhere == []


async def test_swagger_ui_writes_with_the_example_as_it_stands(watched: Watched, live_server: str) -> None:
    page = watched.page
    await page.goto(f"{live_server}/docs")
    operation = page.locator("#operations-processes-create_process")
    await operation.locator("button.opblock-summary-control").click()
    await operation.locator("button.execute").click()
    await expect(operation.locator(".live-responses-table tbody .response-col_status").first).to_contain_text("201")
    assert watched.errors == []


async def test_redoc_renders(watched: Watched, live_server: str) -> None:
    await watched.page.goto(f"{live_server}/redoc")
    await expect(watched.page.get_by_role("heading", name="Process Register")).to_be_visible()
    await expect(watched.page.get_by_role("heading", name="Create Process")).to_be_visible()
    assert watched.errors == []
    assert watched.elsewhere == []
