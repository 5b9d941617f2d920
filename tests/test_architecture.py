"""ARCHITECTURE.md says who imports whom, and who may not import what; this holds it to its word."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = [name for name in ("pipelines", "dedup", "training") if (ROOT / name).is_dir()]
BEAM = (
    *(
        "collect",
        "embed",
        "embed_transforms",
        "encode",
        "encode_transforms",
        "export",
        "export_transforms",
        "files",
        "jobs",
        "match",
    ),
    *("neighbours", "repeats", "transforms"),
)
HEAVY = ("apache_beam", "torch", "faiss", "cv2", "aiohttp", "pyarrow", "numpy", "PIL", "rich", "jinja2")


def modules() -> dict[str, Path]:
    paths = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
    names = [".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths]
    return dict(zip(names, paths, strict=True))


def ours(path: Path) -> set[str]:
    """The modules of ours that a file imports, anywhere in it."""
    known, found = modules(), set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in PACKAGES:
            inside = {f"{node.module}.{alias.name}" for alias in node.names} & known.keys()
            found |= inside or {node.module}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name.split(".")[0] in PACKAGES}
    return found


def documented() -> dict[str, set[str]]:
    """The block of ARCHITECTURE.md whose lines are `module: the modules that it imports`."""
    text = (ROOT / "ARCHITECTURE.md").read_text()
    block = re.search(r"```imports\n(.*?)```", text, re.DOTALL)
    assert block, "ARCHITECTURE.md has no ```imports block"
    lines = [line.split(":") for line in block[1].splitlines()]
    return {name.strip(): set(imports.split()) for name, imports in lines}


def brief(name: str) -> str:
    """A module as the document names it: those of `pipelines` without the package."""
    return name.removeprefix("pipelines.")


def test_imports_are_those_of_the_document() -> None:
    actual = {name: ours(path) for name, path in modules().items() if name not in PACKAGES}
    short = {brief(name): {brief(item) for item in found} for name, found in actual.items()}
    assert {name: sorted(found) for name, found in short.items()} == {
        name: sorted(found) for name, found in documented().items()
    }


def test_no_circles() -> None:
    graph, done = documented(), set[str]()
    while len(done) < len(graph):
        ready = {name for name, imports in graph.items() if name not in done and imports <= done}
        assert ready, f"these import each other: {sorted(graph.keys() - done)}"
        done |= ready


def loaded_by(statement: str) -> set[str]:
    """Which heavy packages a fresh interpreter has loaded after `statement`."""
    code = f"{statement}\nimport sys\nprint(*[name for name in {HEAVY} if name in sys.modules])"
    return set(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split())


@pytest.mark.parametrize(
    ("statement", "loaded"),
    [
        ("import pipelines.cli", set()),
        ("import pipelines.collect", set()),
        ("import pipelines.captions", set()),
        ("import pipelines.status", set()),
        ("import pipelines.embed, pipelines.match, pipelines.repeats, pipelines.export", set()),
        ("import dedup.learn, dedup.review", set()),
        ("import training.dvae.learn, training.tokenizer.learn, pipelines.encode", set()),
        ("import pipelines.shards, pipelines.verify", {"pyarrow", "numpy"}),
        ("import pipelines.engine", {"cv2", "numpy", "aiohttp", "pyarrow", "PIL"}),
    ],
)
def test_what_a_fresh_interpreter_loads(statement: str, loaded: set[str]) -> None:
    assert loaded_by(statement) <= loaded


def test_training_imports_no_beam_and_nothing_of_dedup() -> None:
    found = {name: imports for name, imports in documented().items() if name.startswith("training.")}
    assert not [name for name, imports in found.items() if any(item.startswith("dedup.") for item in imports)]
    loaded = loaded_by("import training.dvae.trainer, training.encoding, training.tokenizer.bpe, training.report")
    assert loaded & {"apache_beam", "faiss", "aiohttp"} == set()
    assert {
        name for name, imports in documented().items() if name.startswith("dedup.") and "training" in str(imports)
    } == set()


def test_a_collecting_worker_needs_no_torch_and_no_faiss() -> None:
    assert loaded_by("import pipelines.transforms, pipelines.engine") & {"torch", "faiss"} == set()


@pytest.mark.parametrize("name", BEAM)
def test_beam_is_imported_where_the_document_says(name: str) -> None:
    assert "apache_beam" in (ROOT / f"pipelines/{name}.py").read_text()


def test_beam_is_imported_nowhere_else() -> None:
    allowed = {ROOT / f"pipelines/{name}.py" for name in BEAM}
    others = [path for path in modules().values() if path not in allowed]
    assert [path.name for path in others if re.search(r"^\s*(import|from) apache_beam", path.read_text(), re.M)] == []
