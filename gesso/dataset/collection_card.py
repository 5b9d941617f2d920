"""README.md of a collection: what a person should know of it, and the front matter by which it is loaded. No files."""

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from gesso.dataset import features
from gesso.dataset.card import name_of, size_category, step_meaning, table, yaml_lines
from gesso.dataset.layout import MANIFEST
from gesso.dataset.records import SUCCESS

Json = dict[str, Any]

BODY = """\
# Image-text pairs

{samples:,} pictures with captions, from links on the web, collected by gesso and not yet deduplicated. A sample is
`KEY.jpg`, `KEY.txt` and `KEY.json` in a tar; the parquet beside it has a row for every link, kept or not.
`{manifest}` has the size and checksum of every file, and the settings.

```python
from datasets import load_dataset

pictures = load_dataset("PATH", split="train", streaming=True)  # jpg, txt, json
```

## Funnel

{funnel}"""


def render(funnel: Mapping[str, int], schema: pa.Schema) -> str:
    """`schema` is that of the rows."""
    rows = [(name_of(name), f"{count:,}", step_meaning(name)) for name, count in funnel.items()]
    samples = funnel[SUCCESS]
    body = BODY.format(samples=samples, manifest=MANIFEST, funnel=table(("step", "number", "meaning"), rows))
    return front_matter(samples, schema) + "\n" + body


def front_matter(samples: int, schema: pa.Schema) -> str:
    """The YAML block that hubs read."""
    fields: Json = {
        "pretty_name": "Image-text pairs, collected by gesso",
        "license": "unknown",
        "task_categories": ["text-to-image"],
        "size_categories": [size_category(samples)],
        "tags": ["webdataset", "image-text"],
    }
    lines = [line for name, value in fields.items() for line in yaml_lines(name, value)]
    lines += ["configs:", "- config_name: default", "  data_files:", "  - split: train", '    path: "*.tar"']
    lines += [features.yaml_line(schema)]
    return "\n".join(["---", *lines, "---", ""])
