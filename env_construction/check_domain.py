"""Say what is missing or inconsistent in domain files of the world author: file, key, what is wrong, what to do.

In: YAML files in the form that the head of `env_construction/worlds/domains.py` describes; without any, all shipped ones. A file outside
of `env_construction/worlds/domains/` is checked together with the shipped ones, to whose types it may refer. Out: one line for
each finding, then how many types and relations the files have and how many relations lead into other domains. Exit code 1 if anything is found.

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
    """All domains, and one line for each finding in these files. Raises BadInput for what cannot be read at all."""
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
        raise BadInput(f"{missing[0]}: no such file; give a domain file, for example {shipped_domains()[0]}")
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
        f"{len(paths)} domains, {len(types)} types, {len(relations)} relations, {len(leaving)} of them into other domains; "
        f"{len(findings)} findings"
    )
    return 1 if findings else 0


if __name__ == "__main__":
    run_main(main)
