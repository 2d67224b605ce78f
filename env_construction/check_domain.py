"""Check domain files of the world author: report the file, the key, the problem and its solution.

In: YAML files (default: all shipped ones). The docstring of `env_construction/worlds/domains.py` describes the format.
Your own file may refer to types of the shipped domains.
Out: one line for each finding, then the number of types and relations, and of relations that lead into other domains.
The exit code is 1 if there are findings.

Example:
    python -m env_construction.check_domain env_construction/worlds/domains/literature.yaml
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from env_construction.environment.command_line import ScriptParser
from env_construction.environment.jsonl import BadInput, run_main
from env_construction.worlds.domain_rules import problems_of
from env_construction.worlds.domains import Catalog, read_catalog, shipped_domains


def check_domains(paths: Sequence[Path]) -> tuple[Catalog, list[str]]:
    """All domains, and one line for each finding in these files. Raises BadInput for an unreadable file."""
    shipped = [path for path in shipped_domains() if path.resolve() not in {other.resolve() for other in paths}]
    catalog = read_catalog([*shipped, *paths])
    findings = []
    for path in paths:
        for kind in catalog.domains[path.stem].types.values():
            findings += [f"{path}: {key}: {problem}" for key, problem in problems_of(catalog, kind)]
    return catalog, findings


def main() -> int:
    parser = ScriptParser(__doc__, "python -m env_construction.check_domain")
    parser.add_argument("files", type=Path, nargs="*", help="domain files (default: all that are shipped)")
    paths = parser.parse_args().files or shipped_domains()
    missing = [str(path) for path in paths if not path.is_file()]
    if missing:
        raise BadInput(f"{missing[0]}: no such file; pass a domain file, for example {shipped_domains()[0]}")
    catalog, findings = check_domains(paths)
    print("\n".join(findings), end="\n" if findings else "")
    types = [kind for path in paths for kind in catalog.domains[path.stem].types.values()]
    relations = [attribute for kind in types for attribute in kind.attributes.values()]
    leaving = [
        attribute
        for attribute in relations
        if attribute.kind == "entity"
        and catalog.types[attribute.generator.target].domain != catalog.types[attribute.owner].domain
    ]
    print(
        f"{len(paths)} domains, {len(types)} types, {len(relations)} relations, {len(leaving)} of them into other "
        f"domains; {len(findings)} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    run_main(main)
