"""OHIF, as MONAI Label serves it, in a real browser: what a person sees and presses there.

Chromium comes from the system's packages; Playwright drives it. Nothing is pressed that is not on the screen; what is
shown is read from the viewer's own objects (``window.services``, ``window.cornerstone``) and from screenshots.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.affines import apply_affine
from PIL import Image
from playwright.sync_api import BrowserContext, Locator, Page, Response, expect, sync_playwright
from scipy.ndimage import distance_transform_edt

from dicomfiles import Labelled
from needs import not_installed
from tiny_study import ROOT

PICTURES = ROOT / ".artifacts" / "ohif"
SECONDS = 300
"""The longest wait for one thing: there is no GPU, and other tests may run beside."""

_FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--use-angle=swiftshader", "--enable-unsafe-swiftshader", "--disable-quic"),
    *("--no-first-run", "--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
_LPS = np.array([-1.0, -1.0, 1.0])
_LISTEN = """
addEventListener('DOMContentLoaded', () => {
  window.heard = [];
  new MutationObserver(changes => {
    for (const change of changes) {
      for (const node of change.addedNodes) {
        const text = (node.innerText || '').trim();
        if (text && text.length < 600) { window.heard.push(text); }
      }
    }
  }).observe(document.body, {childList: true, subtree: true});
});
"""
_SEGMENTS = """() => {
  const {cache, metaData} = window.cornerstone;
  const shown = services.segmentationService.getSegmentations()[0];
  const {imageIds} = shown.representationData.Labelmap;
  const encoded = bytes => {
    let text = '';
    for (let at = 0; at < bytes.length; at += 32768) {
      text += String.fromCharCode(...bytes.subarray(at, at + 32768));
    }
    return btoa(text);
  };
  return {
    names: Object.fromEntries(Object.values(shown.segments).map(s => [s.label, s.segmentIndex])),
    slices: imageIds.map(id => {
      const image = cache.getImage(id);
      const plane = metaData.get('imagePlaneModule', image.referencedImageId);
      return {
        position: [...plane.imagePositionPatient], across: [...plane.rowCosines], down: [...plane.columnCosines],
        spacing: [plane.columnPixelSpacing, plane.rowPixelSpacing], width: image.columns, height: image.rows,
        values: encoded(new Uint8Array(image.getPixelData())),
      };
    }),
  };
}"""


def find_chromium() -> str:
    """The program; skips the test when it is not there, unless ``SEMISAM_CLIENTS`` is set."""
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        not_installed("Chromium")
    return program


@contextmanager
def browser(folder: Path) -> Iterator[Page]:
    """A browser that has never been used.

    Args:
        folder: for its files; new.
    """
    program = find_chromium()
    with sync_playwright() as playwright:
        context = playwright.chromium.launch_persistent_context(
            folder,
            executable_path=program,
            headless=True,
            args=_FLAGS,
            viewport={"width": 1400, "height": 800},
            timeout=SECONDS * 1000,
        )
        context.set_default_timeout(SECONDS * 1000)
        expect.set_options(timeout=SECONDS * 1000)
        listen(context)
        yield context.pages[0]
        context.close()


def listen(context: BrowserContext) -> None:
    """Keep the notices of all pages that are opened from now on, for ``heard``."""
    context.add_init_script(_LISTEN)


@dataclass(frozen=True)
class Shown:
    """The segments on the screen.

    Args:
        array: ``[D, H, W]`` uint8, voxels across, down, and from slice to slice.
        affine: ``[4, 4]``, RAS.
        names: structure to value.
    """

    array: np.ndarray
    affine: np.ndarray
    names: Mapping[str, int]

    def on(self, scan: Labelled) -> dict[str, np.ndarray]:
        """Each structure as a mask on the scan's grid, by its place in the patient."""
        found = {}
        for name, value in self.names.items():
            at = np.argwhere(self.array == value)
            voxels = apply_affine(np.linalg.inv(scan.affine) @ self.affine, at)
            assert len(at) == 0 or np.abs(voxels - voxels.round()).max() < 0.05, "not the scan's grid"
            mask = np.zeros(scan.array.shape, bool)
            mask[tuple(voxels.round().astype(int).T)] = True
            found[name] = mask
        return found


class Ohif:
    """One OHIF window.

    Args:
        page: where.
        url: of the MONAI Label server.
        pictures: name of the subfolder of ``PICTURES`` for screenshots.
    """

    def __init__(self, page: Page, url: str, pictures: str) -> None:
        self.page = page
        self.url = url
        self._pictures = PICTURES / pictures
        self._pictures.mkdir(parents=True, exist_ok=True)

    # --- open and look --------------------------------------------------------------------------------------------

    def open(self, study: str, *, mode: str = "monai-label") -> None:
        """Open a study, and wait until it is shown."""
        self.page.goto(f"{self.url}/ohif/{mode}?StudyInstanceUIDs={study}")
        self.loaded()

    def open_files(self, files: Iterable[Path], patient: str) -> None:
        """Open DICOM files of this computer: load them, then the patient, then the mode."""
        self.page.goto(f"{self.url}/ohif/local")
        chooser = self.page.locator("input[type=file]").first
        chooser.wait_for(state="attached")
        chooser.set_input_files(list(files))
        self.choose_patient(patient)

    def choose_patient(self, patient: str) -> None:
        """From the list of studies: the patient, then the mode."""
        self.page.get_by_text(patient).first.click()
        button, link = (self.page.get_by_role(kind, name="MONAI Label") for kind in ("button", "link"))
        button.or_(link).first.click()
        self.loaded()

    def loaded(self) -> None:
        """Wait until the scan is shown."""
        self.page.wait_for_function(
            """() => window.services?.cornerstoneViewportService?.getRenderingEngine?.()?.getViewports().length
                && [...services.displaySetService.getActiveDisplaySets()].length
                && services.cornerstoneViewportService.getRenderingEngine().getViewports().every(v =>
                  v.getNumberOfSlices?.() > 0 && v.getImageData?.())"""
        )
        self.page.wait_for_timeout(1500)
        hide = self.page.get_by_text("Confirm and Hide")
        if hide.count():
            hide.click()

    def connect(self) -> None:
        """The round button beside the server's address."""
        self.page.locator(".settingsTable button").click()
        self.tab("Auto-Segmentation").wait_for()
        self.page.wait_for_function("() => window.services.segmentationService.getLabelmapVolume('1')")
        self.page.wait_for_timeout(1500)  # OHIF colours the segments after a second

    @property
    def address(self) -> str:
        """The address of the server in the panel."""
        return self.page.locator("#monailabelServerURL").input_value()

    @property
    def series(self) -> str:
        """UID of the series on the screen."""
        return str(
            self.page.evaluate(
                """() => {
                  const {viewports, activeViewportId} = services.viewportGridService.getState();
                  const uid = viewports.get(activeViewportId).displaySetInstanceUIDs[0];
                  return services.displaySetService.getDisplaySetByUID(uid).SeriesInstanceUID;
                }"""
            )
        )

    def segments(self) -> Shown:
        """What is drawn over the scan."""
        found = self.page.evaluate(_SEGMENTS)
        slices = found["slices"]
        first = slices[0]
        normal = np.cross(first["across"], first["down"])
        slices.sort(key=lambda one: float(np.dot(one["position"], normal)))
        shape = first["width"], first["height"]
        planes = [np.frombuffer(base64.b64decode(s["values"]), np.uint8).reshape(shape[::-1]).T for s in slices]
        affine = np.eye(4)
        affine[:3, 0] = np.array(first["across"]) * first["spacing"][0]
        affine[:3, 1] = np.array(first["down"]) * first["spacing"][1]
        ends = np.array(slices[0]["position"]), np.array(slices[-1]["position"])
        affine[:3, 2] = (ends[1] - ends[0]) / (len(slices) - 1)
        affine[:3, 3] = ends[0]
        affine[:3] *= _LPS[:, None]
        return Shown(np.stack(planes, axis=2), affine, found["names"])

    def heard(self) -> list[str]:
        """All notices since the page was opened."""
        return list(self.page.evaluate("() => window.heard"))

    def wait_heard(self, part: str, since: int = 0) -> str:
        """Wait for a notice with this text in it."""
        self.page.wait_for_function(
            "([part, since]) => window.heard.slice(since).some(text => text.includes(part))", arg=[part, since]
        )
        return next(text for text in self.heard()[since:] if part in text)

    def picture(self, name: str) -> np.ndarray:
        """Keep a screenshot; ``[H, W, 3]`` uint8."""
        content = self.page.screenshot(path=self._pictures / f"{name}.png")
        return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))

    def show(self, scan: Labelled, voxel: np.ndarray) -> None:
        """Scroll all three views to a voxel of the scan."""
        self.page.evaluate(
            """world => {
              for (const view of services.cornerstoneViewportService.getRenderingEngine().getViewports()) {
                view.jumpToWorld?.(world);
                view.render();
              }
            }""",
            self._world(scan, voxel[None])[0],
        )
        self.page.wait_for_timeout(1000)

    def pixels(self, scan: Labelled, voxels: np.ndarray, view: str = "mpr-axial") -> np.ndarray:
        """Where voxels ``[N, 3]`` lie in a screenshot: x and y, ``[N, 2]``."""
        found = self.page.evaluate(
            """([points, id]) => {
              const view = services.cornerstoneViewportService.getCornerstoneViewport(id);
              const place = view.element.getBoundingClientRect();
              return points.map(p => view.worldToCanvas(p)).map(c => [c[0] + place.x, c[1] + place.y]);
            }""",
            [self._world(scan, voxels), view],
        )
        return np.array(found)

    def colour(self, name: str) -> np.ndarray:
        """The colour of a segment, ``[3]``."""
        found = self.page.evaluate(
            "([id, n]) => services.segmentationService.getSegmentColor(id, '1', n)",
            ["mpr-axial", self.segments().names[name]],
        )
        return np.array(found[:3], float)

    @staticmethod
    def _world(scan: Labelled, voxels: np.ndarray) -> list[list[float]]:
        return (apply_affine(scan.affine, voxels) * _LPS).tolist()

    # --- the panel ------------------------------------------------------------------------------------------------

    def tab(self, name: str) -> Locator:
        """A part of the panel, by its heading."""
        return self.page.locator(".tab").filter(has=self.page.locator("label.tab-label", has_text=name))

    def unfold(self, name: str) -> Locator:
        """Open a part of the panel if it is closed."""
        tab = self.tab(name)
        if not tab.locator("input.tab-switch").is_checked():
            tab.locator("label.tab-label").click()
        return tab

    def run(self, model: str) -> Response:
        """Choose a model and press *Run*; returns when the answer is shown, or the failure is."""
        part = self.unfold("Auto-Segmentation")
        part.locator("select.selectBox").select_option(model)
        return self._press_run(part, model)

    def run_classes(self, model: str, structures: Iterable[str]) -> Response:
        """*Class Prompts*: choose a model, tick structures, press *Run*."""
        part = self.unfold("Class Prompts")
        part.locator("select.selectBox").select_option(model)
        for name in structures:
            part.locator("tr").filter(has=self.page.get_by_text(name, exact=True)).locator("input").check()
        return self._press_run(part, model)

    def _press_run(self, part: Locator, model: str) -> Response:
        since = len(self.heard())
        with self.page.expect_response(lambda r: f"/infer/{model}" in r.url) as waiting:
            part.get_by_role("button", name="Run").click()
        answer = waiting.value
        self.wait_heard("uccess" if answer.ok else "Failed", since)
        self.page.wait_for_timeout(1000)
        return answer

    def choose(self, structure: str) -> None:
        """A row of *Point Prompts*; ``background`` is for negative clicks."""
        rows = self.unfold("Point Prompts").locator("tr.clickable-row")
        rows.filter(has=self.page.get_by_text(structure, exact=True)).click()
        self.page.wait_for_timeout(300)

    def click(self, scan: Labelled, voxel: np.ndarray) -> None:
        """A click in the axial view; the slice is scrolled to first."""
        self.show(scan, voxel)
        x, y = self.pixels(scan, voxel[None])[0]
        self.page.mouse.move(x - 4, y)
        self.page.mouse.move(x, y)
        self.page.mouse.down()
        self.page.wait_for_timeout(100)
        self.page.mouse.up()
        self.page.wait_for_timeout(500)

    def run_points(self) -> tuple[Response, dict[str, Any]]:
        """*Run* of *Point Prompts*; the answer, and what was asked."""
        answer = self._press_run(self.unfold("Point Prompts"), "prompt")
        sent = answer.request.post_data or ""
        return answer, json.loads(next(line for line in sent.splitlines() if line.startswith("{")))

    def clear_points(self) -> None:
        """*Clear All Points*."""
        self.unfold("Point Prompts").get_by_text("Clear All Points").click()
        self.page.wait_for_timeout(300)

    def set_options(self, section: str, name: str, values: Mapping[str, str]) -> None:
        """*Options / Configurations*."""
        self.page.get_by_text("Options / Configurations").click()
        self.page.locator("select[name=selectSection]").select_option(section)
        self.page.locator("select[name=selectName]").select_option(name)
        for key, value in values.items():
            field = self.page.locator(f"#{section}{name}{key}")
            if field.evaluate("e => e.tagName") == "SELECT":
                field.select_option(value)
            else:
                field.fill(value)
        self.picture("options")
        self.page.get_by_role("button", name="Confirm").click()
        self.page.locator("select[name=selectSection]").wait_for(state="detached")

    def press_train(self) -> Response:
        """*Update Model*, or *Stop Training*."""
        button = self.unfold("Active Learning").locator("button").last
        with self.page.expect_response(lambda r: "/train/" in r.url and r.request.method != "GET") as waiting:
            button.click()
        return waiting.value

    def train_button(self, text: str) -> None:
        """Wait until the button says this."""
        expect(self.unfold("Active Learning").locator("button").last).to_have_text(text)

    def status(self) -> dict[str, tuple[str, str]]:
        """Text and tooltip of each bar."""
        rows = self.unfold("Active Learning").locator("tr").filter(has=self.page.locator("td[title]"))
        found = {}
        for row in rows.all():
            cells = row.locator("td")
            found[cells.nth(0).inner_text().rstrip(":")] = (
                cells.nth(1).inner_text().strip(),
                cells.nth(1).get_attribute("title") or "",
            )
        return found

    def next_sample(self, *, go: bool = True) -> dict[str, Any]:
        """*Next Sample*, and *OK* in the window that opens; the server's answer."""
        part = self.unfold("Active Learning")
        with self.page.expect_response(lambda r: "/activelearning/" in r.url) as waiting:
            part.get_by_role("button", name="Next Sample").click()
        answer: dict[str, Any] = waiting.value.json()
        form = self.page.locator(".nextSampleForm")
        if waiting.value.ok:
            form.get_by_role("button", name="OK").wait_for()
            self.picture("next_sample")
        if go:
            self.page.once("dialog", lambda dialog: dialog.accept())
            with self.page.expect_navigation():
                form.get_by_role("button", name="OK").click()
            self.loaded()
        return answer

    # --- the list of segments -------------------------------------------------------------------------------------

    def save(self, name: str) -> Response:
        """*Export DICOM SEG* to the DICOM server, from the list of segments."""
        self._export_menu()
        item = self.page.get_by_role("menuitem", name="Export DICOM SEG")
        item.wait_for()
        self.picture("export")
        item.click()
        self.page.locator("input[type=text]:visible").last.fill(name)
        with self.page.expect_response(lambda r: r.request.method == "POST" and "/proxy/dicom" in r.url) as waiting:
            self.page.get_by_role("button", name="Save").click()
        self.page.wait_for_timeout(1000)
        return waiting.value

    def download(self, file: Path) -> None:
        """*Download DICOM SEG*, from the list of segments."""
        self._export_menu()
        with self.page.expect_download() as waiting:
            self.page.get_by_role("menuitem", name="Download DICOM SEG").click()
        waiting.value.save_as(file)

    def _export_menu(self) -> None:
        button = self.page.locator("[data-cy=panelSegmentation-btn]")
        if button.count():  # else it is the only panel
            button.click()
        self.page.get_by_text("Add Segment").wait_for()
        self.picture("segments")
        self.page.locator("xpath=//button[@role='combobox']/preceding::button[1]").last.click()
        self.page.get_by_role("menuitem", name="Export & Download").hover()

    def load_stored(self, description: str) -> None:
        """Double-click a SEG in the list of series, and *Yes*."""
        entry = self.page.locator("[data-cy=study-browser-thumbnail-no-image]").filter(has_text=description).last
        entry.dblclick()
        self.page.get_by_role("button", name="Yes").click()
        self.page.wait_for_function("() => services.segmentationService.getSegmentations().length > 0")
        self.page.wait_for_timeout(2000)


def deepest(mask: np.ndarray) -> np.ndarray:
    """The voxel ``[3]`` of a mask that is farthest from its border within an axial slice, in the middle of it."""
    middle = int(np.round(np.argwhere(mask)[:, 2].mean()))
    inside = distance_transform_edt(np.pad(mask[:, :, middle], 1))[1:-1, 1:-1]
    row, column = np.unravel_index(inside.argmax(), inside.shape)
    return np.array([row, column, middle])


def tinted(pixels: np.ndarray, colour: np.ndarray) -> np.ndarray:
    """Which pixels ``[..., 3]`` of a grey picture have this colour laid over them."""
    chroma = pixels - pixels.min(axis=-1, keepdims=True).astype(float)
    wanted = colour - colour.min()
    length = np.linalg.norm(chroma, axis=-1)
    return (length > 0.15 * np.linalg.norm(wanted)) & (
        chroma @ wanted > 0.97 * np.linalg.norm(wanted) * np.maximum(length, 1e-6)
    )
