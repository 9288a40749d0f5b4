"""The public names: `_NAMES` in gem_detector/__init__.py is the one list, the stub follows from it.

python tools/public_names.py           rewrite gem_detector/__init__.pyi
python tools/public_names.py --check   compare, and resolve every name
"""

import ast
import importlib
import sys
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "gem_detector"


def names() -> dict[str, str]:
    "`_NAMES` as written in the source, without importing the package."
    for node in ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "_NAMES":
            return ast.literal_eval(node.value)
    raise SystemExit("gem_detector/__init__.py has no _NAMES")


def imported(module: str, listed: list[str]) -> str:
    "One import statement of the stub, each name re-exported."
    one_line = f"from .{module} import " + ", ".join(f"{name} as {name}" for name in listed)
    if len(one_line) <= 100:
        return one_line + "\n"
    rows = "".join(f"    {name} as {name},\n" for name in listed)
    return f"from .{module} import (\n{rows})\n"


def stub() -> str:
    "The text of `__init__.pyi`."
    modules = defaultdict(list)
    for name, module in names().items():
        modules[module].append(name)
    title = ast.get_docstring(ast.parse((PACKAGE / "__init__.py").read_text(encoding="utf-8")))
    imports = "".join(imported(module, sorted(modules[module])) for module in sorted(modules))
    return f'"""{title}"""\n\n{imports}\n__version__: str\n__all__: list[str]\n'


def problems() -> list[str]:
    "What is wrong with the list or the stub, one sentence each."
    found = []
    listed = list(names())
    if listed != sorted(listed):
        found.append("_NAMES in gem_detector/__init__.py is not sorted")
    path = PACKAGE / "__init__.pyi"
    if not path.exists() or path.read_text(encoding="utf-8") != stub():
        found.append("gem_detector/__init__.pyi is stale: run python tools/public_names.py")
    for name, module in names().items():
        try:
            if not hasattr(importlib.import_module(f"gem_detector.{module}"), name):
                found.append(f"_NAMES: gem_detector.{module} has no {name}")
        except ModuleNotFoundError as error:
            found.append(f"_NAMES: {name}: {error}")
    return found


def main() -> int:
    "Command line."
    if "--check" not in sys.argv[1:]:
        (PACKAGE / "__init__.pyi").write_text(stub(), encoding="utf-8")
        return 0
    found = problems()
    print("\n".join(found) or f"public names: {len(names())}, all resolve and the stub agrees")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
