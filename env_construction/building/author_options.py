"""Command-line options of the authors, and the author that they make. The same for `build.py` and for the stage
scripts.

The fact author takes none. The LLM author (`author.py`) needs an endpoint and a model, and something to ask about:
`--questions` or `--domains`. A key comes from the environment variable OPENAI_API_KEY and from nowhere else.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from env_construction.building.author import Author, Topic
from env_construction.building.mixed_author import MixedAuthor, names_of
from env_construction.environment.jsonl import BadInput, read_jsonl, read_text
from env_construction.environment.schema import SCENARIOS
from env_construction.facts.fact_author import FactAuthor
from env_construction.worlds.stateful_author import StatefulAuthor
from env_construction.worlds.world_author import WorldAuthor

if TYPE_CHECKING:
    from env_construction.llm.author import LlmAuthor

AUTHORS = (FactAuthor.name, WorldAuthor.name, StatefulAuthor.name, "llm")


@dataclass(frozen=True)
class LlmOptions:
    """What `--base-url` and its companions say. `folder` is where the ledger and, unless `cache` is given, the cache
    are kept.
    """

    base_url: str
    model: str
    folder: Path
    questions: Path | None = None
    domains: tuple[str, ...] = ()
    budget: float | None = None
    price_in: float = 0.0
    price_out: float = 0.0
    concurrency: int = 8
    cache: Path | None = None
    tries: int = 3
    temperature: float = 0.7
    max_tokens: int = 8192
    timeout_s: float = 180.0


LLM_ONLY = ("base_url", "model", "questions", "domains", "budget", "price_in", "price_out", "cache")
"""Options without a default that no other author reads."""


def refuse_llm_options(arguments: argparse.Namespace) -> None:
    """Raises BadInput if an option of the LLM author is given with another author, which would ignore it."""
    for name in LLM_ONLY if arguments.author != "llm" else ():
        if getattr(arguments, name) is not None:
            raise BadInput(f"--{name.replace('_', '-')}: only the LLM author uses this; add --author llm")


def add_llm_options(parser: argparse.ArgumentParser) -> None:
    """Options of the LLM author."""
    group = parser.add_argument_group("LLM author (--author llm); the key comes from OPENAI_API_KEY")
    group.add_argument("--base-url", help="OpenAI-compatible endpoint, for example http://localhost:8000/v1")
    group.add_argument("--model", help="model to ask")
    group.add_argument(
        "--questions", type=Path, help="your questions: text, one a line, or JSONL with question[, scenario]"
    )
    group.add_argument("--domains", help="domains to write questions for, separated by commas")
    group.add_argument("--budget", type=float, help="USD to spend at most on this output folder, all runs together")
    group.add_argument("--price-in", type=float, help="USD per million prompt tokens")
    group.add_argument("--price-out", type=float, help="USD per million completion tokens")
    group.add_argument("--concurrency", type=int, default=8, help="environments under way at a time (default: 8)")
    group.add_argument("--cache", type=Path, help="folder of kept answers (default: .llm_cache beside the output)")
    group.add_argument("--tries", type=int, default=3, help="proposals a stage, and final validations (default: 3)")
    group.add_argument("--temperature", type=float, default=0.7, help="sampling temperature (default: 0.7)")
    group.add_argument("--max-tokens", type=int, default=8192, help="tokens a reply at most (default: 8192)")
    group.add_argument("--timeout", type=float, default=180.0, help="seconds to wait for a reply (default: 180)")


def llm_options(arguments: argparse.Namespace, folder: Path) -> LlmOptions:
    """Raises BadInput for what is missing or makes no sense."""
    if not arguments.base_url or not arguments.model:
        raise BadInput("the LLM author needs --base-url and --model")
    prices = (arguments.price_in, arguments.price_out)
    if arguments.budget is not None and None in prices:
        raise BadInput("--budget needs --price-in and --price-out (USD per million tokens)")
    if arguments.tries < 1 or arguments.concurrency < 1 or arguments.max_tokens < 1 or arguments.timeout <= 0:
        raise BadInput("--tries, --concurrency, --max-tokens and --timeout must be above 0")
    if any(value is not None and value < 0 for value in (*prices, arguments.budget)):
        raise BadInput("--budget, --price-in and --price-out must not be negative")
    return LlmOptions(
        base_url=arguments.base_url,
        model=arguments.model,
        folder=folder,
        questions=arguments.questions,
        domains=tuple(name.strip() for name in (arguments.domains or "").split(",") if name.strip()),
        budget=arguments.budget,
        price_in=arguments.price_in or 0.0,
        price_out=arguments.price_out or 0.0,
        concurrency=arguments.concurrency,
        cache=arguments.cache,
        tries=arguments.tries,
        temperature=arguments.temperature,
        max_tokens=arguments.max_tokens,
        timeout_s=arguments.timeout,
    )


def make_author(name: str, options: LlmOptions | None = None) -> Author:
    """The author of that name. Raises BadInput with the valid names, and where the LLM author has no endpoint."""
    if len(names := names_of(name)) > 1:
        if "llm" in names or len(set(names)) < len(names):
            raise BadInput(f"author {name!r}: only different authors that need no language model can take turns")
        return MixedAuthor({each: make_author(each) for each in names})
    if name == FactAuthor.name:
        return FactAuthor()
    if name == WorldAuthor.name:
        return WorldAuthor()
    if name == StatefulAuthor.name:
        return StatefulAuthor()
    if name != "llm":
        raise BadInput(f"author {name!r} is unknown; valid: {', '.join(AUTHORS)}, or several as facts+worlds")
    if options is None:
        raise BadInput("the LLM author needs --base-url and --model")
    return make_llm_author(options)


def known_labels(name: str) -> dict[str, set[str]]:
    """The domains, relations and functions of an author, by kind. Raises BadInput for an author without labels."""
    if name == "llm":
        raise BadInput("--hold-out: the LLM author's questions have no labels; remove the option")
    found: dict[str, set[str]] = {}
    for each in names_of(name):
        author = make_author(each)
        assert isinstance(author, FactAuthor | WorldAuthor | StatefulAuthor)
        for kind, labels in author.labels().items():
            found.setdefault(kind, set()).update(labels)
    return found


def make_llm_author(options: LlmOptions) -> LlmAuthor:
    """The LLM author with its endpoint, ledger, cache and sandbox. Raises BadInput."""
    # the client library takes a second to import, which the fact author need not pay
    from env_construction.llm.author import LlmAuthor
    from env_construction.llm.endpoint import Endpoint, EndpointOptions
    from env_construction.llm.ledger import Ledger, Prices
    from env_construction.sandbox.tool_sandbox import ToolSandbox

    endpoint = Endpoint(
        EndpointOptions(
            base_url=options.base_url,
            model=options.model,
            temperature=options.temperature,
            max_tokens=options.max_tokens,
            timeout_s=options.timeout_s,
        ),
        Ledger(options.folder / "ledger.json", Prices(options.price_in, options.price_out, options.budget)),
        options.cache or options.folder / ".llm_cache",
    )
    return LlmAuthor(endpoint, ToolSandbox(timeout_s=2.0, cpu_s=2.0), options.tries)


def read_topics(options: LlmOptions) -> list[Topic]:
    """The user's questions, or one topic for each domain. Raises BadInput with file, line and key."""
    if (options.questions is None) == (not options.domains):
        raise BadInput("give either --questions FILE or --domains a,b")
    if options.questions is None:
        return [Topic(domain=domain) for domain in options.domains]
    path = options.questions
    if path.suffix == ".jsonl":
        topics = [_topic(f"{path}:{number}", record) for number, record in read_jsonl(path, required=("question",))]
    else:
        topics = [Topic(question=line.strip()) for line in read_text(path).split("\n") if line.strip()]
    if not topics:
        raise BadInput(f"{path}: holds no question")
    return topics


def _topic(where: str, record: dict[str, Any]) -> Topic:
    question, scenario = record["question"], record.get("scenario")
    if not isinstance(question, str) or not question.strip():
        raise BadInput(f"{where}: key 'question': expected text")
    if scenario is not None and scenario not in SCENARIOS:
        raise BadInput(f"{where}: key 'scenario': expected one of {', '.join(SCENARIOS)}")
    return Topic(question=question.strip(), scenario=scenario)
