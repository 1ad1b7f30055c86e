"""Writes requirements.txt and requirements-dev.txt from pyproject.toml, where version ranges stand.

python -m scripts.requirements      # or: make format
"""

import pathlib
import tomllib

REPOSITORY = pathlib.Path(__file__).resolve().parents[1]
HEADERS = {
    "requirements.txt": "# All packages for training and evaluation with Python 3.11 to 3.13.\n"
    '# For a GPU, also: pip install "jax[cuda13]"\n',
    "requirements-dev.txt": "# The packages that the tests and benchmarks need as well.\n",
}
GENERATED = "# Made from pyproject.toml by scripts/requirements.py.\n"


def render() -> dict[str, str]:
    """{file name: its content}."""
    project = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    packages = {
        "requirements.txt": project["dependencies"] + extras["tensorboard"] + extras["datasets"],
        "requirements-dev.txt": ["-r requirements.txt", *extras["dev"]],
    }
    return {
        name: HEADERS[name] + GENERATED + "\n".join([*lines, ""])
        for name, lines in packages.items()
    }


if __name__ == "__main__":
    for name, content in render().items():
        (REPOSITORY / name).write_text(content, encoding="utf-8")
