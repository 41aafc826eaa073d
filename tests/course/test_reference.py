"""The API reference contains every public name and needs no network, and the examples in docstrings run."""

import doctest
import re
import sys
from types import ModuleType

import pytest
from bs4 import BeautifulSoup

from labkit.course.reference import public_modules, public_names, write_reference

MODULES = {module.__name__: module for module in public_modules()}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """Write the reference, and return its pages by the names of their modules."""
    folder = tmp_path_factory.mktemp("reference")
    pages = {}
    for page in write_reference(folder):
        name = page.relative_to(folder).with_suffix("").as_posix().replace("/", ".")
        pages[name] = BeautifulSoup(page.read_text(encoding="utf-8"), "html.parser")
    return pages


def test_every_public_name_is_in_the_reference(reference):
    assert list(reference) == list(MODULES)
    for name, module in MODULES.items():
        ids = {element["id"] for element in reference[name].select("[id]")}
        links = {link["href"] for link in reference[name].select("a[href]")}
        for member in public_names(module):
            if isinstance(getattr(module, member), ModuleType):
                assert f"{name.rpartition('.')[2]}/{member}.html" in links, f"{name}.{member}"
            else:
                assert member in ids, f"{name}.{member}"


def test_the_pages_load_nothing_from_the_network(reference):
    for name, page in reference.items():
        assert not page.select("link, script[src], iframe, object, embed, meta[http-equiv]"), name
        assert all(image["src"].startswith("data:") for image in page.select("[src]")), name
        styles = "".join(style.text for style in page.select("style"))
        sources = re.findall(r"""(?:url\(|@import\s+)["']?([^)"']*)""", styles)
        assert all(source.startswith("data:") for source in sources), name


def test_the_pages_are_readable_in_the_dark_theme_and_link_to_the_course(reference):
    for name, page in reference.items():
        styles = "".join(style.text for style in page.select("style"))
        dark = re.split(r"prefers-color-scheme: ?dark", styles)[-1]
        assert re.search(r"--pdoc-background: ?#15181c", dark) and "#0d1117" in dark, name
        back = "../" * (1 + name.count(".")) + "index.html"
        assert page.select_one(f'nav a[href="{back}"]').text == "The course"


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_in_docstrings_run(name):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    module = MODULES[name]
    examples = doctest.DocTestFinder(recurse=False).find(module, name, globs={})
    for member in (getattr(module, member) for member in public_names(module)):
        source = sys.modules.get(getattr(member, "__module__", None) or "")
        if callable(member) and source is not None and source.__name__.startswith("labkit"):
            examples += doctest.DocTestFinder().find(member, f"{name}.{member.__name__}", module=source, globs={})
    output: list[str] = []
    failed = sum(runner.run(example, out=output.append).failed for example in examples)
    assert not failed, "".join(output)
