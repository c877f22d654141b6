"""The pictures of the dashboard in the README: `make screenshots`. A whole house, with an evening's trouble in it."""

import tempfile
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.conftest import ROOT, Place, fill_in_login, open_browser, open_place

IMAGES = ROOT / "docs" / "images"
WIDTH = 1280
HEIGHTS = {"attention": 420, "sagas": 900, "saga": 1180}


def populate(place: Place) -> str:
    """The saga to look at: its compensation has failed."""
    place.stuck(key="order-1038", labels={"customer": "4705", "region": "eu"})
    place.start(key="order-1039", labels={"customer": "4711", "region": "eu"})
    place.tell("charge-payment", "BUSY", "BUSY")
    place.start(key="order-1040", labels={"customer": "4720", "region": "us"})
    place.tell("confirm-order", "REFUSED")
    place.start(key="order-1041", labels={"customer": "4702", "region": "eu"})
    looked_at = place.stuck(key="order-1042", labels={"customer": "4711", "region": "eu"})
    for n in range(2):
        place.holding(key=f"prepaid-{n + 77}", labels={"customer": f"471{n}"})
    place.tell("charge-payment", "HELD")
    place.start(key="order-1043", labels={"customer": "4719", "region": "us"}, wait=0)
    place.start(key="order-1044", labels={"customer": "4731", "region": "eu"})
    return looked_at["id"]


def main() -> None:
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(prefix="saga-screenshots-") as directory,
        open_place(Path(directory)) as place,
        open_browser() as browser,
    ):
        looked_at = populate(place)
        page = browser.new_page(base_url=place.url, color_scheme="light")
        page.goto("/admin/login")
        fill_in_login(page, "admin")
        expect(page.locator(".group .number")).to_have_text(["2sagas", "2sagas"])
        for name, path in {"attention": "", "sagas": "sagas", "saga": f"sagas/{looked_at}"}.items():
            page.set_viewport_size({"width": WIDTH, "height": HEIGHTS[name]})
            page.goto(f"/admin/{path}")
            page.screenshot(path=IMAGES / f"{name}.png")
        place.release()
    for image in sorted(IMAGES.glob("*.png")):
        print(f"{image.relative_to(ROOT)}  {image.stat().st_size // 1000} KB")


if __name__ == "__main__":
    main()
