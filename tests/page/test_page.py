"""The page in a real browser, against real servers: what it shows, what it asks, and what it cannot be made to do."""

import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Route, expect

import frostline
from frostline_server.repository import rollout as rollouts
from frostline_server.repository.rollout import Rollout
from frostline_server.repository.take_back import TakenBack
from tests.support import https, raw_media, raw_rows
from tests.support.http_calls import ask
from tests.support.onnx_models import LABELS, beyond, passed_through, write_artifact
from tests.support.pages import (
    MARKUP,
    SEVEN,
    TIMEOUT_MS,
    ZERO,
    Visit,
    another_site,
    browsing,
    visiting,
    write_crowd,
    write_digits,
    write_models,
)
from tests.support.servers import Running, running
from tests.support.tokens import TOKENS, entry, write_access_file

CROWD = 1000


@pytest.fixture(scope="module")
def browser(tool: Callable[[str], str]) -> Iterator[Browser]:
    with browsing(tool("chromium")) as started:
        yield started


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    models = tmp_path_factory.mktemp("models")
    write_models(models)
    with running(models, http=True, require="churn,mood", poll_s=0.2) as started:
        yield started


@pytest.fixture(scope="module")
def client(server: Running) -> Iterator[frostline.Client]:
    with frostline.connect(server.address) as connected:
        yield connected


@pytest.fixture
def visit(browser: Browser, server: Running) -> Iterator[Visit]:
    with visiting(browser, server.server.http_url) as opened:
        yield opened
        assert opened.complaints == []


def written(share: float) -> str:
    """A probability as the page writes it."""
    if 0 < share < 0.001:
        return "< 0.1 %"
    return "> 99.9 %" if 0.999 < share < 1 else f"{float(share) * 100:.1f} %"


def shares_of(prediction: Any, labels: list[str]) -> dict[str, str]:
    """The most probable labels of a prediction, as the page writes them."""
    ranked = sorted(zip(labels, prediction.softmax[0], strict=True), key=lambda each: -each[1])[:10]
    return {label: written(share) for label, share in ranked}


def test_it_says_how_the_server_is_and_who_asks(visit: Visit) -> None:
    expect(visit.page.locator("#health")).to_have_text("Ready")
    expect(visit.page.locator("#counts")).to_contain_text("7 ready")
    expect(visit.page.locator("#counts")).to_contain_text("1 failed")
    expect(visit.page.locator("#who")).not_to_have_text("…")
    assert visit.page.locator("#list .name").all_inner_texts() == [
        "broken",
        "churn",
        "digits",
        "fruit",
        "markup",
        "mood",
        "offers",
        "pair",
    ]


def test_the_example_of_a_table_is_answered_as_the_python_client_is(visit: Visit, client: frostline.Client) -> None:
    visit.show("churn")
    visit.predict()
    same = client.predict("churn", [{"tenure": 12.0, "plan": "basic", "signup": "2024-05-31"}], version="1")
    assert visit.answers() == list(same.labels)
    assert visit.shares() == shares_of(same, ["no", "yes"])
    expect(visit.page.locator(".answer")).to_contain_text("Version 1 answered in")


def test_cells_that_training_did_not_know_are_said_in_words(visit: Visit, client: frostline.Client) -> None:
    visit.show("churn")
    visit.page.get_by_label("tenure").fill("1000000")
    visit.page.get_by_label("plan", exact=True).select_option(label="another value …")
    visit.page.get_by_label("plan, another value").fill("platinum")
    visit.page.get_by_label("signup").fill("")
    visit.predict()
    row = {"tenure": 1e6, "plan": "platinum", "signup": None}
    assert visit.answers() == list(client.predict("churn", [row], version="1").labels)
    notes = visit.page.locator(".answer .note").all_inner_texts()
    assert [note.partition(" (")[0] for note in notes] == ["Missing: signup", "Unknown: plan", "Outside: tenure"]


def test_a_number_is_read_as_it_is_written_or_refused_beside_its_field(visit: Visit) -> None:
    visit.show("churn")
    sent = visit.requests("/predict")
    field = visit.page.get_by_label("tenure", exact=True)
    for text in ("1,5", "1.234,56", "1 000", "0x10", "NaN", "abc", ".5", "1e400"):
        field.fill(text)
        visit.predict()
        expect(visit.page.locator(".tryit .error")).to_contain_text(f"tenure: {text}")
        expect(visit.page.locator(".field-error")).to_contain_text(text)
        expect(field).to_have_attribute("aria-invalid", "true")
    assert sent == []
    field.fill(" +12.50 ")
    field.hover()
    visit.page.mouse.wheel(0, 200)
    visit.predict()
    assert len(visit.answers()) == 1
    assert json.loads(sent[-1].post_data or "")["rows"][0]["tenure"] == 12.5
    expect(visit.page.locator(".field-error")).to_have_text("")


def test_the_limits_of_a_field_are_within_what_training_saw(visit: Visit) -> None:
    numbers = [0.1, 493.123456, -7.7, 999734.5625, 16777216, 1e-40, 3.4e38]
    limits = [float(np.float32(number)) for number in numbers]
    told = visit.page.evaluate(
        "limits => import('./page/dom.js').then(({ limit }) => limits.map(limit))", [float(each) for each in limits]
    )
    assert [np.float32(text) for text in told] == [np.float32(each) for each in limits]
    assert told[:3] == [str(np.float32(each)) for each in limits[:3]]


def test_a_category_with_a_line_break_is_sent_as_it_is_though_no_field_shows_it(
    browser: Browser, tmp_path: Path
) -> None:
    plans = ("Street 3\nTown", "Lane 1\r\nTown", *(f"plan {number}" for number in range(12)))
    row = {"tenure": 12.0, "plan": plans[0], "signup": "2024-05-31"}
    raw_rows.write(tmp_path, "typed", plans=plans, card={"example": row})
    raw_rows.write(tmp_path, "chosen", card={"example": row})
    with running(tmp_path, http=True) as posted, visiting(browser, posted.server.http_url) as visit:
        sent = visit.requests("/predict")

        def plan() -> str:
            told = len(sent)
            visit.predict()
            visit.page.wait_for_function("() => document.querySelector('.answer')")
            assert len(sent) == told + 1
            return str(json.loads(sent[-1].post_data or "")["rows"][0]["plan"])

        visit.show("chosen")
        assert plan() == plans[0]
        visit.show("typed")
        assert plan() == plans[0]
        field = visit.page.get_by_label("plan", exact=True)
        for text, meant in (("Lane 1Town", plans[1]), ("plan 3", "plan 3"), ("Lane 2Town", "Lane 2Town")):
            field.fill(text)
            assert plan() == meant
        assert visit.complaints == []


def test_a_date_keeps_its_time_where_only_the_limits_have_one_or_another_version(
    browser: Browser, tmp_path: Path
) -> None:
    columns = raw_rows.rows_card()["columns"]
    days = [*columns[:2], {**columns[2], "lowest": "2019-01-02T00:00:00"}]
    raw_rows.write(tmp_path)
    raw_rows.write(tmp_path, version=2, card={"columns": days})
    (tmp_path / "churn" / "config.pbtxt").write_text("version_policy { all {} }")
    with running(tmp_path, http=True) as dated, visiting(browser, dated.server.http_url) as visit:
        sent = visit.requests("/predict")
        field = visit.page.get_by_label("signup", exact=True)
        visit.show("churn/2")
        expect(field).to_have_attribute("type", "date")
        visit.page.reload()
        visit.show("churn/1")
        expect(field).to_have_attribute("type", "datetime-local")
        expect(field).to_have_value("2024-05-31T00:00")
        field.fill("2019-01-02T23:30")
        visit.show("churn/2")
        expect(field).to_have_value("2019-01-02T23:30")
        visit.predict()
        assert len(visit.answers()) == 1
        assert json.loads(sent[-1].post_data or "")["rows"][0]["signup"] == "2019-01-02T23:30"
        assert visit.complaints == []


def test_an_answer_that_is_not_of_the_present_row_says_so(visit: Visit) -> None:
    visit.show("churn")
    visit.predict()
    assert len(visit.answers()) == 1
    note = visit.page.get_by_text("This is the answer to the row before.")
    expect(note).to_be_hidden()
    visit.page.get_by_label("tenure", exact=True).fill("13")
    expect(note).to_be_visible()
    visit.page.get_by_label("tenure", exact=True).fill("12")
    expect(note).to_be_hidden()
    visit.show("mood")
    visit.page.get_by_label("text", exact=True).fill("kept")
    visit.page.go_back()
    visit.page.go_forward()
    expect(visit.page.get_by_label("text", exact=True)).to_have_value("kept")
    expect(visit.page.get_by_label("Ask another version too:")).to_be_hidden()


def test_every_digit_of_a_value_is_shown(browser: Browser, tmp_path: Path) -> None:
    model = passed_through(["n", 2], output="values")
    onnx.helper.set_model_props(model, {"frostline.task": "regression"})
    write_artifact(tmp_path, "size", model=model, golden=False, labels=["width", "height"])
    with running(tmp_path, http=True) as measured, visiting(browser, measured.server.http_url) as visit:
        url, values = measured.server.http_url, [123456.789, 1.2345678e-9]
        told = ask(url, "/v2/models/size/predict", {"rows": [values]}, headers={"Content-Type": "application/json"})
        visit.page.get_by_label("input", exact=True).fill(json.dumps(values))
        visit.predict()
        expect(visit.page.locator(".values dd")).to_have_count(2)
        shown = visit.page.locator(".values dd").all_inner_texts()
        assert [float(text) for text in shown] == [*told.json["predictions"][0]["values"].values()]


def test_whole_numbers_beyond_those_of_a_browser_keep_their_digits(browser: Browser, tmp_path: Path) -> None:
    write_artifact(tmp_path, "beyond", model=beyond(2**53), golden=False, labels=None)
    with running(tmp_path, http=True) as counting, visiting(browser, counting.server.http_url) as visit:
        visit.page.get_by_label("input", exact=True).fill("[1, -1]")
        visit.predict()
        expect(visit.page.locator(".answer pre")).to_have_text('{"more":[9007199254740993,9007199254740991]}')
        # As read by browsers of another age too.
        text = '{"a":[-9007199254740993, 1.0000000000000002e16, "9007199254740993, \\"9007199254740993"]}'
        read = "text => import('./page/strict.js').then(({ exactly, written }) => written(exactly(text)))"
        kept = text.replace(" ", "", 2).replace("1.0000000000000002e16", "10000000000000002")
        assert visit.page.evaluate(read, text) == kept
        visit.page.evaluate("delete JSON.rawJSON")
        assert visit.page.evaluate(read, text) == kept.replace("-9007199254740993", '"-9007199254740993"')


def test_two_versions_answer_the_same_row_side_by_side(visit: Visit, client: frostline.Client) -> None:
    visit.show("churn/1")
    visit.page.get_by_label("Ask another version too:").select_option("2")
    visit.predict()
    row = [{"tenure": 12.0, "plan": "basic", "signup": "2024-05-31"}]
    assert visit.answers(2) == [client.predict("churn", row, version=each).labels[0] for each in ("1", "2")]
    told = visit.page.locator(".answer > .hint").all_inner_texts()
    assert [each.partition(" answered")[0] for each in told] == ["Version 1", "Version 2"]


def test_a_text_is_answered_as_the_python_client_is(visit: Visit, client: frostline.Client) -> None:
    visit.show("mood")
    visit.page.get_by_label("text", exact=True).fill("\N{FOX FACE} and more than counts")
    visit.predict()
    same = client.predict("mood", ["\N{FOX FACE} and more than counts"])
    assert visit.answers() == list(same.labels)
    assert visit.shares() == shares_of(same, ["no", "yes"])
    expect(visit.page.locator(".answer")).to_contain_text("Outside: text")


@pytest.mark.parametrize(
    ("name", "kind"), [("apple.png", "image/png"), ("apple.bmp", "image/bmp"), ("apple.txt", "text/plain")]
)
def test_a_dropped_picture_is_answered_as_the_python_client_is_whatever_its_name(
    name: str, kind: str, visit: Visit, client: frostline.Client
) -> None:
    content, _ = raw_media.picture_files()["png"]
    visit.show("fruit")
    dropped = visit.page.evaluate_handle(
        """([name, type, bytes]) => {
            const files = new DataTransfer();
            files.items.add(new File([new Uint8Array(bytes)], name, { type }));
            return files;
        }""",
        [name, kind, list(content)],
    )
    visit.page.dispatch_event(".drop", "drop", {"dataTransfer": dropped})
    same = client.predict("fruit", [io.BytesIO(content)])
    assert visit.answers() == list(same.labels)
    assert visit.shares() == shares_of(same, ["no", "yes"])
    expect(visit.page.get_by_alt_text(f"The picture that is asked about: {name}")).to_be_visible()


@pytest.mark.parametrize(("label", "strokes"), [("7", SEVEN), ("0", ZERO)])
def test_a_drawn_digit_is_recognised(label: str, strokes: Any, visit: Visit, client: frostline.Client) -> None:
    visit.show("digits")
    sent = visit.requests("/predict")
    visit.draw(strokes)
    assert visit.answers() == [label]
    rows = np.array(json.loads(sent[-1].post_data or "")["rows"], np.float32)
    assert rows.shape == (1, 64)
    assert rows.max() == 16
    same = client.predict("digits", rows)
    assert same.labels == (label,)
    assert visit.shares() == shares_of(same, [str(digit) for digit in range(10)])


def test_pixels_that_are_no_list_are_refused_by_the_server(visit: Visit) -> None:
    visit.show("digits")
    visit.page.click("summary:text-is('Its pixels as numbers')")
    for text in ("5", "null", '{"a": 1}', '"x"'):
        visit.page.get_by_label("input", exact=True).fill(text)
        with visit.page.expect_response("**/predict") as refused:
            visit.predict()
        expect(visit.page.locator(".tryit .error")).to_have_text(refused.value.json()["error"])
    visit.page.get_by_label("input", exact=True).fill(json.dumps([0] * 64))
    visit.predict()
    expect(visit.page.locator(".tryit .error")).to_have_text("Draw a digit first.")
    assert [each for each in visit.complaints if "status of 400" not in each] == []
    visit.complaints.clear()


def test_a_digit_is_drawn_for_a_whole_input_and_with_the_ink_that_a_sentence_names(
    browser: Browser, tmp_path: Path
) -> None:
    write_digits(tmp_path, send="8x8 pixels, ink from 0 to 1.0.")
    (tmp_path / "digits" / "config.pbtxt").write_text("max_batch_size: 0")
    with running(tmp_path, http=True) as whole, visiting(browser, whole.server.http_url) as visit:
        visit.predict()
        expect(visit.page.locator(".tryit .error")).to_have_text("Draw a digit first.")
        sent = visit.requests("/predict")
        visit.draw(SEVEN)
        assert visit.answers() == ["7"]
        pixels = np.array(json.loads(sent[-1].post_data or "")["inputs"]["input"], np.float32)
        assert pixels.shape == (1, 64)
        assert pixels.max() == 1
        assert visit.complaints == []


def test_a_network_with_several_inputs_takes_each_as_json(visit: Visit, client: frostline.Client) -> None:
    visit.show("pair")
    left, right = [1.0, 2.0, 3.0, 4.0], [[0.5, 0.0], [0.0, 0.5]]
    visit.page.get_by_label("left", exact=True).fill(json.dumps(left))
    visit.page.get_by_label("right", exact=True).fill(json.dumps(right))
    visit.predict()
    same = client.predict("pair", {"left": [left], "right": [right]})
    assert visit.answers() == list(same.labels)
    assert visit.shares() == shares_of(same, list(LABELS))


def test_what_the_server_refuses_is_said_in_its_own_words(visit: Visit) -> None:
    visit.show("digits")
    visit.page.click("summary:text-is('Its pixels as numbers')")
    visit.page.get_by_label("input", exact=True).fill("[1, 2]")
    visit.predict()
    error = visit.page.locator(".tryit .error")
    expect(error).to_contain_text("64")
    visit.page.get_by_label("input", exact=True).fill("[1, 2")
    visit.predict()
    expect(error).to_contain_text("this is not JSON")
    visit.page.get_by_label("input", exact=True).fill("[1e400]")
    visit.predict()
    expect(error).to_contain_text("1e400 is too large for a number.")
    # The browser notes every answer of status 400.
    assert [each for each in visit.complaints if "status of 400" not in each] == []
    visit.complaints.clear()


def test_the_commands_it_shows_do_what_the_form_does(visit: Visit, tool: Callable[[str], str]) -> None:
    visit.show("churn")
    visit.page.get_by_label("plan", exact=True).select_option("zoë 🙂")
    visit.predict()
    label = visit.answers()
    visit.page.click("summary:text-is('The same with curl or Python')")
    line = visit.page.get_by_role("region", name="curl").inner_text()
    visit.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    visit.page.get_by_role("button", name="Copy the curl code").click()
    expect(visit.page.get_by_text("copied")).to_be_visible()
    assert visit.page.evaluate("navigator.clipboard.readText()") == line
    told = subprocess.run([tool("bash"), "-c", f"{line} --silent"], capture_output=True, check=True, timeout=30)
    assert [row["label"] for row in json.loads(told.stdout)["predictions"]] == label
    program = visit.page.get_by_role("region", name="Python").inner_text()
    compile(program, "copied", "exec")
    assert 'client.predict("churn", [{"tenure": 12, "plan": "zoë 🙂"' in program


def test_the_python_program_has_numbers_where_json_has_words(visit: Visit) -> None:
    visit.show("pair")
    program = visit.page.get_by_role("region", name="Python")
    visit.page.click("summary:text-is('The same with curl or Python')")
    visit.page.get_by_label("left", exact=True).fill('["NaN", "Infinity", "-Infinity", 1]')
    expect(program).to_contain_text('"left": [[float("nan"), float("inf"), float("-inf"), 1]]')
    visit.show("mood")
    visit.page.click("summary:text-is('The same with curl or Python')")
    visit.page.get_by_label("text", exact=True).fill("NaN")
    expect(program).to_contain_text('client.predict("mood", ["NaN"]')


def test_the_python_program_of_an_encrypted_page_encrypts_too(browser: Browser, tmp_path: Path) -> None:
    files = https.Files(tmp_path)
    files.write("frostline.test")
    raw_rows.write(tmp_path / "models")
    with (
        running(tmp_path / "models", http=True, **files.settings) as secure,
        visiting(browser, secure.server.http_url, ignore_https_errors=True) as visit,
    ):
        visit.predict()
        label = visit.answers()[0]
        visit.page.click("summary:text-is('The same with curl or Python')")
        program = visit.page.get_by_role("region", name="Python").inner_text()
        assert f'connect("{secure.address}", tls=True)' in program
        # As the program's comment says.
        program = program.replace("tls=True", f"tls={str(files.authority)!r}")
        told = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
        assert label in told.stdout


def test_what_the_server_sends_is_never_taken_for_markup(visit: Visit) -> None:
    visit.show("markup")
    visit.predict()
    assert len(visit.answers()) == 1
    assert set(visit.shares()) == {MARKUP, "<b>two</b>", "&three;"}
    assert visit.page.locator("main img[src='x']").count() == 0
    assert visit.page.title() == "markup \N{EN DASH} Frostline"


def test_a_failed_version_shows_its_reason(visit: Visit) -> None:
    visit.show("broken")
    reason = "model.onnx cannot be read"
    expect(visit.page.locator(".tryit .error")).to_contain_text(reason)
    row = visit.page.locator("table", has_text="reason").get_by_role("row", name="1 failed")
    expect(row).to_contain_text(reason)
    assert visit.page.locator("#list a[href='#/broken'] .badge").all_inner_texts() == ["failed"]


@contextmanager
def load(request: Callable[[], object]) -> Iterator[None]:
    """Make one request after the other until the block ends."""
    enough = threading.Event()

    def make() -> None:
        while not enough.is_set():
            request()

    thread = threading.Thread(target=make)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()


def test_failures_are_a_line_of_their_own(visit: Visit, server: Running) -> None:
    visit.show("churn")
    with load(lambda: ask(server.server.http_url, "/v2/models/churn/infer", {"inputs": []})):
        rates = visit.page.get_by_role("img", name=re.compile("Requests a second: .*failed [0-9.,]*[1-9]"))
        expect(rates).to_be_visible(timeout=TIMEOUT_MS)
        expect(visit.page.locator(".failing")).to_be_visible()


def test_the_live_charts_move_under_load(visit: Visit, client: frostline.Client) -> None:
    rows = [{"tenure": -50.0, "plan": "pro", "signup": "2020-02-29"}]
    assert client.predict("churn", rows).labels == ("yes",)
    visit.show("churn")
    with load(lambda: client.predict("churn", rows)):
        for title in ("Requests a second", "Time of a request", "Rows in a batch, mean"):
            chart = visit.page.get_by_role("img", name=title)
            visit.page.wait_for_function(
                r"chart => /: (answered |p50 )?[0-9.,]*[1-9]/.test(chart.getAttribute('aria-label'))",
                arg=chart.element_handle(),
            )
            assert chart.locator(".line-1").get_attribute("d")
        expect(visit.page.locator(".shares .bar-name").first).to_have_text("yes", timeout=TIMEOUT_MS)
    visit.page.click("summary:text-is('These numbers as a table')")
    expect(
        visit.page.get_by_role("region", name="Numbers of the last minute").locator("tbody tr").nth(1)
    ).to_be_visible()


def test_without_counted_labels_their_shares_are_not_shown(browser: Browser, tmp_path: Path) -> None:
    model = passed_through(["n", 1], output="logits")
    onnx.helper.set_model_props(model, {"frostline.task": "binary"})
    write_artifact(tmp_path, "spam", model=model, golden=False, labels=["no", "yes"])
    write_artifact(tmp_path, "classes")
    with running(tmp_path, http=True) as live, visiting(browser, live.server.http_url) as visit:
        visit.show("spam")
        expect(visit.page.get_by_role("img", name="Rows in the queue: 0 now")).to_be_visible()
        expect(visit.page.locator(".shares")).to_be_hidden()
        visit.show("classes")
        expect(visit.page.locator(".shares")).to_contain_text("no predictions counted yet")


def test_one_column_is_not_called_several(visit: Visit) -> None:
    def cut(route: Route) -> None:
        response = route.fetch()
        schema = response.json()
        route.fulfill(response=response, json=schema | {"columns": schema["columns"][:1]})

    visit.page.route("**/schema", cut)
    visit.show("churn/2")
    expect(visit.page.locator(".subtitle")).to_contain_text("· 1 column ·")
    visit.page.unroute_all()


def test_the_versions_show_their_traffic_device_and_proof(visit: Visit) -> None:
    visit.show("churn")
    row = visit.page.get_by_role("row", name="1 ready")
    expect(row).to_contain_text("stable")
    expect(row).to_contain_text("cpu")
    expect(row).to_contain_text("verified")
    expect(visit.page.get_by_role("row", name="2 ready")).to_contain_text("canary")


def test_the_card_of_a_version_is_shown_with_its_pictures(visit: Visit) -> None:
    visit.show("churn/1")
    facts = visit.page.locator(".facts")
    expect(facts).to_contain_text("single-label")
    expect(facts).to_contain_text("no, yes")
    picture = visit.page.get_by_alt_text("Learning curves")
    picture.scroll_into_view_if_needed()
    visit.page.wait_for_function("image => image.naturalWidth === 8", arg=picture.element_handle())
    picture.click()
    expect(visit.page.get_by_role("dialog").get_by_alt_text("Learning curves")).to_be_visible()
    visit.page.get_by_role("button", name="Close").click()
    expect(visit.page.get_by_role("dialog")).to_have_count(0)


def test_nothing_is_changed_without_a_confirmation(visit: Visit, client: frostline.Client) -> None:
    visit.show("churn")
    before = [(model.name, model.version, model.state) for model in client.models()]
    visit.page.get_by_role("button", name="Roll back").click()
    expect(visit.page.get_by_role("dialog")).to_contain_text("Roll back churn?")
    visit.page.keyboard.press("Escape")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)
    assert [(model.name, model.version, model.state) for model in client.models()] == before


def test_a_promotion_says_what_will_be_and_stays_open_when_it_is_refused(visit: Visit) -> None:
    visit.show("churn")
    visit.page.get_by_role("button", name="Promote version 2").click()
    dialog = visit.page.get_by_role("dialog")
    dialog.get_by_label("with a copy of the requests").check()
    expect(dialog.locator(".afterwards")).to_contain_text("version 2 is canary with 1\xa0% and also gets a copy")
    expect(dialog.get_by_role("button", name="End the trial first")).to_be_visible()
    dialog.get_by_label("percent of the requests").fill("1,5")
    dialog.get_by_role("button", name="Promote").click()
    expect(dialog.get_by_text("The share must be a number")).to_be_focused()
    visit.page.keyboard.press("Escape")


def test_without_a_stable_version_the_one_that_answers_is_made_stable_first(browser: Browser, tmp_path: Path) -> None:
    for version in (1, 2):
        raw_rows.write(tmp_path, "churn", version, shift=version)
    (tmp_path / "churn" / "config.pbtxt").write_text("version_policy { all {} }")
    with (
        running(tmp_path, http=True, poll_s=0.2) as untried,
        visiting(browser, untried.server.http_url) as visit,
    ):
        page = visit.page
        page.get_by_role("button", name="Promote version 1").click()
        dialog = page.get_by_role("dialog")
        expect(dialog.get_by_label("for a share of the requests")).to_be_disabled()
        dialog.get_by_role("button", name="Make version 2 stable first").click()
        dialog.get_by_label("for a share of the requests").check()
        dialog.get_by_role("button", name="Promote").click()
        expect(page.locator(".result")).to_contain_text("version 1 is canary with 10 %")
        expect(page.locator(".result")).to_be_focused()
        # A version arrives, and answers: the form and its answer stay as they are.
        page.get_by_label("tenure", exact=True).fill("7")
        page.get_by_label("tenure", exact=True).press("Enter")
        assert len(visit.answers()) == 1
        raw_rows.write(tmp_path, "churn", 3, shift=3.0)
        (tmp_path / "churn" / "rollout.json").write_text('{"labels": {"stable": 3}}')
        expect(page.locator(".subtitle")).to_contain_text("version 3 answers", timeout=TIMEOUT_MS)
        expect(page.get_by_role("heading", name="About version 3")).to_be_visible()
        expect(page.get_by_label("tenure", exact=True)).to_be_focused()
        expect(page.get_by_label("tenure", exact=True)).to_have_value("7")
        assert len(visit.answers()) == 1
        # One that takes other rows has its form shown when the user asks for it.
        raw_rows.write(tmp_path, "churn", 4, plans=("basic", "gold"))
        (tmp_path / "churn" / "rollout.json").write_text('{"labels": {"stable": 4}}')
        expect(page.locator(".news").first).to_contain_text("Version 4 answers now", timeout=TIMEOUT_MS)
        expect(page.get_by_label("plan", exact=True)).not_to_contain_text("gold")
        page.get_by_role("button", name="Reload the form").click()
        expect(page.get_by_label("plan", exact=True)).to_contain_text("gold")
        expect(page.get_by_label("tenure", exact=True)).to_have_value("7")


def test_with_a_canary_the_stable_version_is_described(visit: Visit) -> None:
    visit.show("mood")
    asked = visit.requests("/schema")
    visit.show("churn")
    expect(visit.page.locator(".subtitle")).to_contain_text("version 1 answers")
    assert [request.url.rpartition("/v2/")[2] for request in asked] == ["models/churn/versions/1/schema"]


def test_what_is_not_there_is_said_plainly(visit: Visit) -> None:
    visit.show("churn/9")
    expect(visit.page.locator(".tryit .error")).to_have_text("churn has no version 9 here; it has versions 1, 2.")
    expect(visit.page.locator(".about, .live:visible")).to_have_count(0)
    visit.page.evaluate("location.hash = '#/nosuch'")
    expect(visit.page.locator("main h1")).to_have_text("No model nosuch")
    assert visit.page.title() == "No model nosuch \N{EN DASH} Frostline"


def test_a_server_that_hangs_is_not_called_ready(visit: Visit) -> None:
    visit.show("churn")
    chart = visit.page.get_by_role("img", name="Rows in the queue: 0 now")
    expect(chart).to_be_visible()
    visit.page.route("**/v2/**", lambda _: None)
    visit.predict()
    expect(visit.page.get_by_text("Waiting for the answer")).to_be_visible()
    expect(visit.page.locator("#health")).to_contain_text(re.compile(r"No answer for \d+ s"), timeout=TIMEOUT_MS)
    expect(visit.page.get_by_role("img", name="Rows in the queue: 0 at the last answer")).to_be_visible()
    visit.page.get_by_role("button", name="Cancel").click()
    expect(visit.page.locator(".tryit .error")).to_have_text("You cancelled the question.")
    visit.page.unroute_all()
    expect(visit.page.locator("#health")).to_have_text("Ready", timeout=TIMEOUT_MS)


def test_a_version_is_promoted_and_rolled_back(visit: Visit) -> None:
    visit.show("offers")
    visit.page.get_by_role("button", name="Promote version 2").click()
    visit.page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(visit.page.locator(".result")).to_contain_text("version 2 is stable")
    expect(visit.page.get_by_role("row", name="2 ready")).to_contain_text("stable", timeout=TIMEOUT_MS)
    visit.page.get_by_role("button", name="Roll back").click()
    visit.page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    expect(visit.page.locator(".result")).to_contain_text("version 1 is stable")
    expect(visit.page.get_by_role("row", name="1 ready")).to_contain_text("stable", timeout=TIMEOUT_MS)


def test_a_promotion_after_somebody_elses_is_refused_and_a_take_back_is_said(visit: Visit, server: Running) -> None:
    folder = server.config.models / "offers"
    rollouts.write(folder, Rollout({"stable": 1}))
    visit.show("offers")
    expect(visit.page.get_by_role("row", name="1 ready")).to_contain_text("stable", timeout=TIMEOUT_MS)
    visit.page.get_by_role("button", name="Promote version 1").click()
    rollouts.write(folder, Rollout({"stable": 2}))
    visit.page.get_by_role("dialog").get_by_role("button", name="Promote").click()
    expect(visit.page.get_by_role("dialog")).to_contain_text("version 2 is live by now, and not version 1")
    assert [each for each in visit.complaints if "status of 409" not in each] == []
    visit.complaints.clear()
    visit.page.get_by_role("button", name="Cancel").click()
    rollouts.write(folder, Rollout({"stable": 1}, taken_back=TakenBack(2, "it fails", "2026-01-02T03:04:05+00:00")))
    said = "version 2 was taken back at 2026-01-02T03:04:05+00:00: it fails"
    expect(visit.page.get_by_role("region", name="Versions", exact=True)).to_contain_text(said, timeout=TIMEOUT_MS)


def test_a_model_is_loaded_and_unloaded(browser: Browser, tmp_path: Path) -> None:
    write_crowd(tmp_path, 1)
    with (
        running(tmp_path, http=True, model_control="explicit") as idle,
        visiting(browser, idle.server.http_url) as visit,
    ):
        expect(visit.page.locator(".tryit .error")).to_have_text("model-0000 is not loaded.")
        for word, words in (("Load", "1 ready"), ("Unload", "0 ready"), ("Load", "1 ready")):
            visit.page.get_by_role("button", name=word, exact=True).click()
            visit.page.get_by_role("dialog").get_by_role("button", name=word, exact=True).click()
            expect(visit.page.locator(".result")).to_have_text(f"{word}: done.")
            expect(visit.page.locator("#counts")).to_contain_text(words)
        visit.predict()
        assert len(visit.answers()) == 1
        expect(visit.page.get_by_role("img", name="Requests a second: ")).not_to_have_attribute(
            "aria-label", re.compile("nothing yet$"), timeout=TIMEOUT_MS
        )


def test_who_may_only_predict_and_observe_sees_nothing_to_change(
    browser: Browser, server: Running, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"access_file": write_access_file(tmp_path / "access.toml"), "allow_anonymous": "auto"}
    with (
        running(server.config.models, http=True, **settings) as guarded,
        visiting(browser, guarded.server.http_url) as visit,
    ):
        visit.show("churn")
        expect(visit.page.get_by_role("button", name="Roll back")).to_have_count(0)
        visit.page.click("#account summary")
        visit.page.get_by_label("Token").fill(TOKENS["control"])
        visit.page.get_by_role("button", name="Use this token").click()
        expect(visit.page.locator("#who")).to_have_text("control")
        visit.page.get_by_label("Token").fill("p\N{EN DASH}1")
        visit.page.get_by_role("button", name="Use this token").click()
        expect(visit.page.locator("#token-error")).to_contain_text("has another character")
        assert visit.page.evaluate("[sessionStorage.length, document.cookie]") == [1, ""]


def test_who_may_only_predict_names_a_model_until_the_token_is_withdrawn(
    browser: Browser, server: Running, tmp_path: Path
) -> None:
    access = write_access_file(tmp_path / "access.toml")
    with (
        running(server.config.models, http=True, access_file=access, allow_anonymous="none") as guarded,
        visiting(browser, f"{guarded.server.http_url}/#/churn") as visit,
    ):
        page = visit.page
        page.get_by_label("Token").fill(TOKENS["predict"])
        page.get_by_role("button", name="Use this token").click()
        visit.predict()
        assert len(visit.answers()) == 1
        expect(page.locator("#found")).to_have_text("The list of models needs the role observe.")
        page.get_by_label("The name of a model").fill("mood")
        page.get_by_label("The name of a model").press("Enter")
        expect(page.locator("main h1")).to_have_text("mood")
        expect(page.locator(".live, table")).to_have_count(0)
        access.write_text(entry("other", "o" * 32, "observe"))
        expect(page.locator("#who")).to_have_text("token refused", timeout=TIMEOUT_MS)
        expect(page.get_by_role("button", name="Predict")).to_have_count(0)


def test_a_thousand_models_are_searched_and_scrolled(browser: Browser, tmp_path: Path) -> None:
    write_crowd(tmp_path, CROWD)
    with (
        running(tmp_path, http=True, model_control="explicit") as crowded,
        visiting(browser, crowded.server.http_url) as visit,
    ):
        page = visit.page
        expect(page.locator("#found")).to_have_text("1,000 models")
        asked = visit.requests("/v2/models/model-0")
        page.locator("#list").evaluate("list => { list.scrollTop = list.scrollHeight; }")
        expect(page.get_by_role("link", name="model-0999")).to_be_in_viewport()
        page.get_by_label("Search models").fill("0 78")
        page.keyboard.press("Enter")
        expect(page.locator("main h1")).to_have_text("model-0078")
        page.get_by_label("Search models").fill("0 77")
        expect(page.locator("#found")).to_have_text("19 of 1,000 models")
        page.keyboard.press("ArrowDown")
        page.keyboard.press("End")
        page.keyboard.press("Enter")
        expect(page.locator("main h1")).to_have_text("model-0977")
        assert {request.url.split("/")[5] for request in asked} <= {"model-0000", "model-0078", "model-0977"}
        assert visit.complaints == []


def faults(visit: Visit) -> list[tuple[str, str]]:
    """The serious and the critical faults that axe finds in what is shown."""
    found = Axe().run(visit.page).response["violations"]
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in found if fault["impact"] in ("serious", "critical")]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(scheme: str, browser: Browser, server: Running) -> None:
    with visiting(browser, server.server.http_url, color_scheme=scheme) as visit:
        for model in ("churn", "mood", "fruit", "digits", "broken"):
            visit.show(model)
            if model == "churn":
                visit.page.get_by_role("button", name="Promote version 2").click()
                assert faults(visit) == []
                visit.page.keyboard.press("Escape")
                visit.predict()
                visit.answers()
                visit.page.click("summary:text-is('The same with curl or Python')")
            assert faults(visit) == [], model


def test_it_works_by_keyboard_on_a_narrow_screen_and_in_the_other_colours(browser: Browser, server: Running) -> None:
    with visiting(browser, server.server.http_url, color_scheme="light") as visit:
        page = visit.page
        page.set_viewport_size({"width": 360, "height": 700})
        for model in ("mood", "fruit", "digits", "broken", "churn"):
            visit.show(model)
            widths = "[...document.querySelectorAll('.tryit *')].map(each => each.getBoundingClientRect().right)"
            assert page.evaluate(f"Math.max(...{widths})") <= 360, model
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button", name="Switch to dark colours").press("Enter")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != ground
        page.get_by_label("tenure").press("Enter")
        assert len(visit.answers()) == 1
        expect(page.locator(".answer .headline")).to_be_in_viewport()


def test_a_page_of_another_site_cannot_act(browser: Browser, server: Running, client: frostline.Client) -> None:
    unload = f"{server.server.http_url}/v2/repository/models/mood/unload"
    html = f"""<!doctype html><title>Somebody else</title>
        <iframe src="{server.server.http_url}/"></iframe>
        <form method="post" enctype="text/plain" action="{unload}" target="hidden"><input name="{{}}"></form>
        <iframe name="hidden"></iframe>
        <script>
          document.forms[0].submit();
          const said = (promise) => promise.then(() => "answered", () => "refused");
          window.tried = Promise.all([
            said(fetch("{unload}", {{ method: "POST", mode: "no-cors", body: "{{}}" }})),
            said(fetch("{unload}", {{ method: "POST", headers: {{ "Content-Type": "application/json", "X-Frostline": "page" }}, body: "{{}}" }})),
            said(fetch("{server.server.http_url}/v2/me").then((answer) => answer.text())),
          ]);
        </script>"""
    with another_site(html) as url:
        context = browser.new_context()
        statuses: list[int] = []
        try:
            page = context.new_page()
            page.on("response", lambda answer: statuses.extend([answer.status] if answer.url == unload else []))
            page.goto(url)
            tried = page.evaluate("window.tried")
            page.wait_for_load_state("networkidle")
            framed = page.frames[1]
            assert framed.query_selector("main") is None
        finally:
            context.close()
    # What a page sends without asking first reaches the server, and is refused there; its answer is hidden from it.
    assert tried == ["refused", "refused", "refused"]
    assert statuses
    assert set(statuses) <= {400, 403, 415}
    assert [model.state for model in client.models() if model.name == "mood"] == ["READY"]
