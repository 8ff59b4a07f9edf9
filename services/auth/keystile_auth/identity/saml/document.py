"""Reading SAML documents that strangers send, before any library of SAML or of signatures sees them.

What is read later is a document of its own with the assertion as its root: the bytes between its tags, as they came.
The signature is checked on that document, so there is nothing else in it that could be read in its place, which is
what signature wrapping needs.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat
from xml.sax.saxutils import quoteattr

SAML = "urn:oasis:names:tc:SAML:2.0:assertion"
PROTOCOL = "urn:oasis:names:tc:SAML:2.0:protocol"
METADATA = "urn:oasis:names:tc:SAML:2.0:metadata"
DSIG = "http://www.w3.org/2000/09/xmldsig#"
XENC = "http://www.w3.org/2001/04/xmlenc#"

_MAX_DEPTH = 40
_MAX_ELEMENTS = 20_000
_XML_NAMESPACE = "http://www.w3.org/XML/1998/namespace"
_HARMLESS_XML = {f"{_XML_NAMESPACE} lang", f"{_XML_NAMESPACE} space"}


# A tag, whose attributes' values may have a `>` in them.
_TAG = re.compile(rb"""<[^"'>]*(?:(?:"[^"]*"|'[^']*')[^"'>]*)*>""")


class DocumentError(Exception):
    """A document that is not taken; `str()` is a few words for the audit log, nothing of the document."""


@dataclass(slots=True, eq=False)
class Element:
    """An element: `name` and the names in `attributes` are `namespace name`, or a name alone without one.

    `start` and `end` are where it stands in the document's bytes; `declared` are the namespaces of its own tag.
    """

    name: str
    attributes: dict[str, str]
    start: int
    declared: dict[str, str]
    end: int = -1
    children: list["Element"] = field(default_factory=list)
    text: str = ""

    def all(self) -> Iterator["Element"]:
        """This element and everything in it, in the document's order."""
        yield self
        for child in self.children:
            yield from child.all()

    def having(self, namespace: str, name: str) -> list["Element"]:
        """The children of this name."""
        return [each for each in self.children if each.name == f"{namespace} {name}"]


@dataclass(frozen=True, slots=True)
class Document:
    """A document that was read: its bytes, UTF-8, and its root."""

    data: bytes
    root: Element

    def all(self, namespace: str, name: str) -> list[Element]:
        """All elements of this name, at whatever depth."""
        return [each for each in self.root.all() if each.name == f"{namespace} {name}"]

    def alone(self, path: list[Element]) -> bytes:
        """An element as a document of its own.

        Its bytes stay as they are. The namespaces that were declared around it are declared on it, which changes
        nothing that exclusive canonicalization sees.

        Args:
            path: the elements around it from the root on, and itself.
        """
        *around, element = path
        inherited: dict[str, str] = {}
        for each in around:
            inherited |= each.declared
        more = "".join(
            f" xmlns{':' + prefix if prefix else ''}={quoteattr(uri)}"
            for prefix, uri in inherited.items()
            if prefix not in element.declared
        )
        data = self.data[element.start : element.end]
        after_name = next(index for index, byte in enumerate(data) if byte in b" \t\r\n/>")
        return data[:after_name] + more.encode() + data[after_name:]


def read(data: bytes, *, with_comments: bool = False) -> Document:
    """Read a document that has elements, attributes and text, and nothing else.

    Args:
        data: XML 1.0 in UTF-8; whoever calls has bounded its length.
        with_comments: whether comments are passed over instead of refused: they part texts for careless readers.

    Raises:
        DocumentError: it is no such thing; has a document type, an entity, a comment, a CDATA section or a processing
            instruction; two equal identifiers; or is too deep or too large.
    """
    data = data.removeprefix(BOM_UTF8)  # some write it before their metadata
    try:
        data.decode("utf-8", "strict")
    except UnicodeDecodeError:
        raise DocumentError("not UTF-8") from None
    document = Document(data, _Reader(with_comments=with_comments).read(data))
    identifiers = [
        value
        for element in document.root.all()
        for name, value in element.attributes.items()
        # By whichever of them: what one library calls an identifier another may not.
        if name.rpartition(" ")[2].lower() == "id"
    ]
    if len(set(identifiers)) != len(identifiers):
        raise DocumentError("two elements with one ID")
    return document


class _Reader:
    """Makes the tree. Expat itself bounds what one token may cost."""

    def __init__(self, *, with_comments: bool) -> None:
        # The encoding is given, so that no declaration in the document chooses another.
        self._parser = parser = expat.ParserCreate("utf-8", " ")
        parser.buffer_text = True
        parser.XmlDeclHandler = self._declaration
        parser.StartDoctypeDeclHandler = _refuse("a document type")
        parser.EntityDeclHandler = _refuse("an entity")
        parser.ExternalEntityRefHandler = _refuse("an external entity")
        if not with_comments:
            parser.CommentHandler = _refuse("a comment")
        parser.ProcessingInstructionHandler = _refuse("a processing instruction")
        parser.StartCdataSectionHandler = _refuse("a CDATA section")
        parser.StartNamespaceDeclHandler = self._namespace
        parser.StartElementHandler = self._start
        parser.EndElementHandler = self._end
        parser.CharacterDataHandler = self._text
        self._declared: dict[str, str] = {}
        self._open: list[Element] = []
        self._root: Element | None = None
        self._count = 0

    def read(self, data: bytes) -> Element:
        self._data = data
        try:
            self._parser.Parse(data, True)
        except expat.ExpatError:
            raise DocumentError("not XML") from None
        if self._root is None:
            raise DocumentError("not XML")
        return self._root

    def _declaration(self, version: str, encoding: str | None, _: int) -> None:
        if version != "1.0" or (encoding or "UTF-8").upper() != "UTF-8":
            raise DocumentError("not XML 1.0 in UTF-8")

    def _namespace(self, prefix: str | None, uri: str | None) -> None:
        self._declared[prefix or ""] = uri or ""

    def _start(self, name: str, attributes: dict[str, str]) -> None:
        self._count += 1
        if self._count > _MAX_ELEMENTS or len(self._open) >= _MAX_DEPTH:
            raise DocumentError("too many elements")
        # `xml:id` would be an identifier to some, and `xml:base` another place.
        if not _HARMLESS_XML.issuperset(each for each in attributes if each.startswith(_XML_NAMESPACE)):
            raise DocumentError("xml:id or xml:base in the document")
        element = Element(name, attributes, self._parser.CurrentByteIndex, self._declared)
        self._declared = {}
        if self._open:
            self._open[-1].children.append(element)
        else:
            self._root = element
        self._open.append(element)

    def _end(self, _: str) -> None:
        element = self._open.pop()
        tag = _TAG.match(self._data, element.start)
        if tag is None:
            raise DocumentError("not XML")
        # Where expat is after `<name/>` says nothing; else it is at `</name>`.
        is_empty = tag[0].endswith(b"/>")
        element.end = tag.end() if is_empty else self._data.index(b">", self._parser.CurrentByteIndex) + 1

    def _text(self, text: str) -> None:
        self._open[-1].text += text


def _refuse(what: str) -> Callable[..., Any]:
    def handler(*_: object) -> None:
        raise DocumentError(f"{what} in the document")

    return handler
