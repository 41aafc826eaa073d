"""The API reference: one page for each public module, generated from its docstrings by pdoc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from types import ModuleType

from labkit.disk import write_whole

_TEMPLATES = Path(__file__).parent / "pages" / "reference"


def public_modules(name: str = "labkit") -> Iterator[ModuleType]:
    """Yield a module and, recursively, all modules in its `__all__`.

    Args:
        name: Dotted name of the module.
    """
    module = import_module(name)
    yield module
    for member in public_names(module):
        if isinstance(getattr(module, member), ModuleType):
            yield from public_modules(f"{name}.{member}")


def public_names(module: ModuleType) -> list[str]:
    """Return the public names of a module: its `__all__`, or the functions and classes that it defines.

    Args:
        module: A module of labkit.
    """
    if hasattr(module, "__all__"):
        return list(module.__all__)
    own = {name for name, member in vars(module).items() if getattr(member, "__module__", "") == module.__name__}
    return sorted(name for name in own if not name.startswith("_"))


def write_reference(folder: str | Path) -> list[Path]:
    """Write the API reference as HTML pages that load nothing from the network.

    Args:
        folder: Folder for the pages. It is created if it does not exist.

    Returns:
        The pages. The first one, labkit.html, links to all others.
    """
    import pdoc.doc
    import pdoc.render
    from pygments.formatters import HtmlFormatter

    modules = list(public_modules())
    for module in modules:
        for name in public_names(module):  # pdoc reads the dictionary of a module, which may be filled on first use
            setattr(module, name, getattr(module, name))
    pdoc.render.configure(docformat="google", search=False, show_source=False, template_directory=_TEMPLATES)
    for name, style in (("light_code", "xcode"), ("dark_code", "github-dark")):  # custom.css contains them
        pdoc.render.env.globals[name] = HtmlFormatter(style=style).get_style_defs(".pdoc-code")
    documents = {module.__name__: pdoc.doc.Module(module) for module in modules}
    pages = []
    for name, document in documents.items():
        page = Path(folder) / f"{name.replace('.', '/')}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        text = pdoc.render.html_module(document, documents)
        text = text.replace('<a class="headerlink"', '<a class="headerlink" aria-label="Link to this place"')
        text = re.sub(r"<h6[^>]*>(.*?)</h6>", r'<p class="part">\1</p>', text)  # no headings are between h1 and h6
        write_whole(page, text.encode())
        pages.append(page)
    return pages
