"""The page of the layout says what the header says: fields, offsets and sizes, byte by byte."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs/memory-layout.md").read_text(encoding="utf-8")
TABLES = {"Identity": "mesh_identity", "Control": "mesh_control", "Readers' page": "mesh_readers"}
DRAWINGS = {
    "slot": "mesh_slot",
    "journal": "mesh_journal",
    "row": "mesh_row",
    "lock": "mesh_lock",
    "owner": "mesh_lock_owner",
}


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    """What the compiler makes of the header: evaluate C expressions over it."""
    if shutil.which("cc") is None:
        pytest.skip("cc is not installed: apt-get install gcc")
    directory = tmp_path_factory.mktemp("layout")

    def evaluate(*expressions):
        source = '#include <stdio.h>\n#include "layout.h"\nint main(void) {\n'
        source += "".join(f'printf("%llu\\n", (unsigned long long)({e}));\n' for e in expressions)
        (directory / "ask.c").write_text(source + "return 0; }\n")
        command = ["cc", "-std=c11", f"-I{ROOT}/mesh/_core", "ask.c", "-o", "ask"]
        subprocess.run(command, cwd=directory, check=True)
        text = subprocess.run([directory / "ask"], check=True, capture_output=True, text=True)
        return [int(line) for line in text.stdout.split()]

    return evaluate


def section(title):
    """The part of the page under a heading that begins with `title`."""
    return re.search(rf"^## {title}.*?\n(.*?)(?=^## |\Z)", PAGE, re.MULTILINE | re.DOTALL)[1]


def fields_of(struct):
    """Names of the fields of a struct in the header, without padding."""
    text = (ROOT / "mesh/_core/layout.h").read_text()
    body = re.search(rf"typedef struct \{{((?:(?!typedef).)*?)\}} {struct};", text, re.DOTALL)[1]
    body = re.sub(r"/\*.*?\*/", "", body, flags=re.DOTALL)
    names = re.findall(r"\b(\w+)(?:\[[^\]]*\])?;", body)
    return [name for name in names if not name.startswith("pad")]


@pytest.mark.parametrize("title", TABLES)
def test_tables_are_the_structs(layout, title):
    """Every field is there, in order, with its offset and size."""
    rows = re.findall(r"^\| (\d+) \| (\d+) \| `(\w+)` \|", section(title), re.MULTILINE)
    struct = TABLES[title]
    assert [name for _, _, name in rows] == fields_of(struct)
    offsets = layout(*(f"offsetof({struct}, {name})" for _, _, name in rows))
    sizes = layout(*(f"sizeof(({struct} *)0)->{name}" for _, _, name in rows))
    assert [(int(at), int(size)) for at, size, _ in rows] == list(zip(offsets, sizes, strict=True))


@pytest.mark.parametrize("label", DRAWINGS)
def test_drawings_are_the_structs(layout, label):
    """Each box of a drawing begins where its field does."""
    drawing = re.search(rf"^{label} +(\|.*)\n +(0[ \d]*)", PAGE, re.MULTILINE)
    names = [re.match(r"[\w]+", box.strip()) for box in drawing[1].split("|")[1:]]
    offsets = [int(text) for text in drawing[2].split()]
    struct = DRAWINGS[label]
    asked = [m[0] for m in names if m and m[0] in fields_of(struct)]
    found = layout(*(f"offsetof({struct}, {name})" for name in asked), f"sizeof({struct})")
    assert len(asked) >= 4
    assert offsets[: len(asked)] == found[:-1]


def test_numbers_of_the_page_are_those_of_the_header(layout):
    """Version, offsets of the parts and kinds."""
    version, control, schema, lock, page, owners = layout(
        "MESH_LAYOUT_VERSION",
        "MESH_CONTROL_OFFSET",
        "MESH_SCHEMA_OFFSET",
        "MESH_LOCK_OFFSET",
        "MESH_PAGE",
        "MESH_LOCK_OWNERS",
    )
    assert f"Layout version {version}." in PAGE
    assert re.search(rf"^{control} +256 +control", PAGE, re.MULTILINE)
    assert re.search(rf"^{schema} +schema text", PAGE, re.MULTILINE)
    assert re.search(rf"^readers_offset +{page}", PAGE, re.MULTILINE)
    assert f"A lock lies at offset {lock} of it" in PAGE
    assert f"owner[{owners}]" in PAGE
    kinds = re.search(r"`kind` \| (.*) \|", PAGE)[1]
    names = re.findall(r"MESH_(\w+) = (\d)", (ROOT / "mesh/_core/layout.h").read_text())
    assert kinds == ", ".join(f"{n} {name.lower()}" for name, n in names)
