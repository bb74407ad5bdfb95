"""The documentation site: `sphinx-build --fail-on-warning docs site`."""

import re
import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.transforms import SphinxTransform

import fastvit

sys.path.insert(0, str(Path(__file__).parent))

from recipe_keys import page

(Path(__file__).parent / "recipe_keys.md").write_text(page(), encoding="utf-8")

project = "fastvit"
author = "the fastvit authors"
copyright = author
version = release = fastvit.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["measurements"]
html_theme = "furo"
html_title = f"fastvit {release}"
html_show_sphinx = False
myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.xref_missing"] if False else []  # broken links are errors

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_numpy_docstring = False

# The modules with public names. What stands in a module's `__all__` has an entry in the reference.
PUBLIC_MODULES = ("fastvit", "fastvit.models", "fastvit.deploy")
PUBLIC_NAMES = {
    name: f"{module}.{name}" for module in reversed(PUBLIC_MODULES) for name in import_module(module).__all__
}


class LinkPublicNames(SphinxTransform):
    """Wherever the text names something public as code, it becomes a link to the reference."""

    default_priority = 400

    def apply(self, **_: object) -> None:
        if self.env.docname.startswith("api/"):
            return
        for literal in list(self.document.findall(nodes.literal)):
            if isinstance(literal.parent, pending_xref | nodes.reference):
                continue
            name = re.match(r"(?:fastvit\.(?:models\.|deploy\.)?)?(\w+)(?:\(.*\))?$", literal.astext())
            if name and name[1] in PUBLIC_NAMES:
                target = PUBLIC_NAMES[name[1]]
                link = pending_xref("", refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True)
                literal.replace_self(link)
                link += literal


def setup(app: object) -> None:
    app.add_transform(LinkPublicNames)
