"""The documentation site: `sphinx-build -W -n -b html docs site`."""

import re
import sys
from importlib import import_module
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
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
html_static_path = ["static"]
html_css_files = ["width.css"]
myst_heading_anchors = 3
copybutton_exclude = ".linenos, .gp, .go"

default_role = "code"  # `name` in a docstring
highlight_language = "text"  # of literal blocks in docstrings
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_inherit_docstrings = False  # torch's text about forward and hooks says nothing about a layer of ours
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # their types stand in the signature

# The reference: each name in `__all__` of these has an entry, under the module that stands first. What else has one is
# named by a page.
PUBLIC_MODULES = (
    "fastvit",
    "fastvit.models",
    "fastvit.deploy",
    "fastvit.explain",
    "fastvit.trained",
    "fastvit.predictor",
    "fastvit.errors",
)
NAMED = re.compile(r"^\.\. auto(?:function|class):: (\S+)", re.MULTILINE)


def public_names() -> dict[str, str]:
    """The full name, in the reference, of each public class and function."""
    names: dict[str, str] = {}
    for module_name in PUBLIC_MODULES:
        module = import_module(module_name)
        own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == module_name]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            names.setdefault(name, f"{module_name}.{name}")
    for path in sorted((Path(__file__).parent / "api").glob("*.md")):
        for full_name in NAMED.findall(path.read_text(encoding="utf-8")):
            names.setdefault(full_name.rpartition(".")[2], full_name)
    return names


PUBLIC_NAMES = public_names()

# The pages are built without a network, so types of other libraries, and what of ours is not public, have no link.
nitpick_ignore_regex = [
    (r"py:.*", rf"(?!({'|'.join(map(re.escape, PUBLIC_NAMES.values()))})$)[\w.]+"),
]


class LinkPublicNames(SphinxTransform):
    """Where the text names something public as code, it becomes a link to the reference.

    A plain lower-case word such as `export` may mean anything: it is linked with its module only.
    """

    default_priority = 400
    pattern = re.compile(r"(fastvit\.(?:\w+\.)*)?(\w+)(?:\(.*\))?$")

    def apply(self, **_: object) -> None:
        for literal in list(self.document.findall(nodes.literal)):
            found = self.pattern.match(literal.astext())
            if not found or isinstance(literal.parent, pending_xref | nodes.reference):
                continue
            module, name = found.groups()
            if name in PUBLIC_NAMES and (module or "_" in name or name[0].isupper()):
                literal.replace_self(reference_to(name, literal))


def reference_to(name: str, shown: nodes.Node) -> pending_xref:
    target = PUBLIC_NAMES[name]
    return pending_xref(
        "", shown.deepcopy(), refdomain="py", reftype="obj", reftarget=target, refexplicit=True, refwarn=True
    )


def resolve_public_name(
    app: Sphinx, env: BuildEnvironment, node: pending_xref, content: nodes.Node
) -> nodes.Node | None:
    """A public name by where it is defined (`fastvit.reparam.Affine`), or bare (`UserError`), as docstrings have it."""
    target = PUBLIC_NAMES.get(node["reftarget"].rpartition(".")[2])
    if node.get("refdomain") != "py" or target is None or target == node["reftarget"]:
        return None
    python = env.get_domain("py")
    return python.resolve_xref(env, node["refdoc"], app.builder, "obj", target, node, content)


def setup(app: Sphinx) -> None:
    app.add_transform(LinkPublicNames)
    app.connect("missing-reference", resolve_public_name)
