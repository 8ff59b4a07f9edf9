"""Reading XML that strangers send, and the times in it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keystile_auth.identity.saml.document import DocumentError, Element, read
from keystile_auth.identity.saml.times import duration_of, seconds_of

NAMES = st.sampled_from(["a", "b", "p:c", "q:d"])
TEXTS = st.sampled_from(["", "x", "&lt;", "ä€😀", "&#62;", ">", "\n "])


@st.composite
def elements(draw: st.DrawFn, depth: int = 3) -> str:
    """An element with attributes, whose values may have what looks like the end of a tag."""
    name = draw(NAMES)
    attributes = draw(st.dictionaries(st.sampled_from(["k", "l", "p:m"]), st.sampled_from(["", ">", "/>", "'", "ä"])))
    spaces = [" xmlns:p='urn:p'", ' xmlns:q="urn:&#x71;"', " xmlns='urn:default'", ""]
    declared = draw(st.sampled_from(spaces[2:]))
    head = f"<{name}{declared}" + "".join(f' {key}="{value}"' for key, value in attributes.items())
    if draw(st.booleans()) or depth == 0:
        return head + draw(st.sampled_from(["/>", " />", f"></{name}>", f"></{name} >"]))
    inside = "".join(draw(TEXTS) + each for each in draw(st.lists(elements(depth - 1), max_size=3)))
    return f"{head}>{inside}{draw(TEXTS)}</{name}>"


def seen(element: Element) -> object:
    return element.name, element.attributes, element.text, [seen(each) for each in element.children]


def paths(path: list[Element]) -> list[list[Element]]:
    return [path, *(found for child in path[-1].children for found in paths([*path, child]))]


@given(elements())
def test_every_element_alone_is_what_it_was_in_its_document(text: str) -> None:
    document = read(f"<r xmlns:p='urn:p&amp;' xmlns:q=\"urn:q'&quot;\">{text}</r>".encode())
    for path in paths([document.root]):
        alone = read(document.alone(path))
        assert seen(alone.root) == seen(path[-1])


@given(st.one_of(st.binary(max_size=200), st.text(max_size=200).map(lambda text: f"<a>{text}</a>".encode())))
def test_whatever_comes_is_read_or_refused(data: bytes) -> None:
    refused = None
    try:
        read(data)
    except DocumentError as problem:
        refused = str(problem)
    assert refused is None or re.fullmatch(r"[\w :.-]+", refused)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "not XML"),
        ("<a>", "not XML"),
        ("<a/><a/>", "not XML"),
        ("<p:a/>", "not XML"),
        ("<a b='1' b='2'/>", "not XML"),
        ("<!DOCTYPE a><a/>", "a document type"),
        ("<a><!-- --></a>", "a comment"),
        ("<a><?b?></a>", "a processing instruction"),
        ("<a><![CDATA[]]></a>", "a CDATA section"),
        ('<?xml version="1.1"?><a/>', "not XML"),
        ('<?xml version="1.0" encoding="latin1"?><a/>', "not XML"),
        ("<a>&b;</a>", "not XML"),
        ("<a ID='1'><b Id='1'/></a>", "two elements with one ID"),
        ("<a id='1'><b xmlns:x='urn:x' x:ID='1'/></a>", "two elements with one ID"),
        ("<a xml:id='1'/>", "xml:id"),
        ("<a xml:base='1'/>", "xml:id or xml:base"),
        ("<a>" * 41 + "</a>" * 41, "too many elements"),
        ("<a>" + "<b/>" * 20_000 + "</a>", "too many elements"),
    ],
)
def test_documents_that_have_more_than_elements_and_texts_are_refused(text: str, reason: str) -> None:
    with pytest.raises(DocumentError, match=reason):
        read(text.encode())


def test_what_is_harmless_is_read() -> None:
    text = '\ufeff<?xml version="1.0" encoding="utf-8"?><a xml:lang="de" ID="1"><b ID="2">x<c/>y</b></a>'
    document = read(text.encode())
    assert document.root.children[0].text == "xy"
    assert document.alone([document.root, document.root.children[0]]) == b'<b ID="2">x<c/>y</b>'
    assert read(b"<a>x<!-- -->y</a>", with_comments=True).root.text == "xy"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1970-01-01T00:00:00Z", 0),
        ("1970-01-01T00:00:00.1234567Z", 0.123456),
        ("1970-01-01T01:00:00+01:00", 0),
        ("1969-12-31T23:00:00-01:00", 0),
    ],
)
def test_times_are_read(text: str, seconds: float) -> None:
    assert seconds_of(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    "text", ["", "now", "1970-01-01", "1970-01-01T00:00:00", "1970-13-01T00:00:00Z", " 1970-01-01T00:00:00Z", "9" * 99]
)
def test_a_time_without_its_zone_is_none(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time|month must be in"):
        seconds_of(text)


@pytest.mark.parametrize(("text", "seconds"), [("PT1H", 3600), ("P1DT2M3S", 86523), ("PT0.5S", 0), ("P7D", 604800)])
def test_durations_are_read(text: str, seconds: int) -> None:
    assert duration_of(text) == seconds


@pytest.mark.parametrize("text", ["", "P", "PT", "P1Y", "P1M", "1H", "-PT1H", "PT1H "])
def test_a_duration_of_months_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        duration_of(text)
