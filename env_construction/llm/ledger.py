"""The cost of the requests to a language model, and a budget that is never exceeded.

Out: `ledger.json`, replaced atomically after every request: requests, tokens and cost, in total and by stage. A second
run adds to it. So a budget applies to the output folder, however often the run is stopped and resumed. Replies from the
cache cost nothing and are counted separately. Thread-safe.

Before a request is sent, its maximum cost is reserved. A request that might exceed the budget waits until the requests
in flight are settled. If none is in flight, `BudgetSpent` ends the run.
"""

from __future__ import annotations

import json
import threading
from dataclasses import asdict, dataclass, field
from pathlib import Path

from env_construction.building.author import BudgetSpent
from env_construction.environment.jsonl import BadInput

_PER = 1_000_000


@dataclass(frozen=True)
class Prices:
    """USD per million tokens of prompt and of completion, and the total budget; None is no limit."""

    prompt: float = 0.0
    completion: float = 0.0
    budget: float | None = None

    def cost(self, prompt_tokens: int, completion_tokens: int) -> float:
        return (prompt_tokens * self.prompt + completion_tokens * self.completion) / _PER


@dataclass
class Account:
    """Counts of one stage, or of all. `estimated`: requests without token counts from the server; `retries`: resent."""

    requests: int = 0
    cached: int = 0
    retries: int = 0
    faults: int = 0
    estimated: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_usd: float = 0.0


@dataclass
class _Books:
    total: Account = field(default_factory=Account)
    stages: dict[str, Account] = field(default_factory=dict)


class Ledger:
    """The accounts of a run. `path` None keeps them in memory. Raises BadInput if the file is not a ledger."""

    def __init__(self, path: Path | None, prices: Prices) -> None:
        self.path = path
        self.prices = prices
        self._books = _Books()
        self._reserved = 0.0
        self._settled = threading.Condition()
        if path is not None and path.exists():
            self._read(path)

    @property
    def total(self) -> Account:
        return self._books.total

    def reserve(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Reserve the maximum cost of a request, in USD. Blocks while others are in flight; raises BudgetSpent."""
        most = self.prices.cost(prompt_tokens, completion_tokens)
        with self._settled:
            while self.prices.budget is not None and self._committed() + most > self.prices.budget:
                if self._reserved <= 1e-12:
                    raise BudgetSpent(
                        f"the budget of ${self.prices.budget:g} is spent (${self.total.cost_usd:.4f}; "
                        "the next request may cost "
                        f"up to ${most:.4f})"
                    )
                self._settled.wait()
            self._reserved += most
        return most

    def settle(
        self, stage: str, reserved: float, prompt_tokens: int, completion_tokens: int, estimated: bool = False
    ) -> None:
        """Replace the reservation of an answered request with its true cost."""
        cost = self.prices.cost(prompt_tokens, completion_tokens)
        with self._settled:
            self._reserved = max(0.0, self._reserved - reserved)
            for account in self._accounts(stage):
                account.requests += 1
                account.estimated += estimated
                account.prompt_tokens += prompt_tokens
                account.completion_tokens += completion_tokens
                account.cost_usd += cost
            self._write()
            self._settled.notify_all()

    def release(self, stage: str, reserved: float) -> None:
        """Release the reservation of a request that failed permanently."""
        with self._settled:
            self._reserved = max(0.0, self._reserved - reserved)
            for account in self._accounts(stage):
                account.faults += 1
            self._write()
            self._settled.notify_all()

    def count_cached(self, stage: str) -> None:
        with self._settled:
            for account in self._accounts(stage):
                account.cached += 1

    def count_retry(self, stage: str) -> None:
        with self._settled:
            for account in self._accounts(stage):
                account.retries += 1

    def save(self) -> None:
        """Write the file. Every settled request wrote it already, but not every reply from the cache."""
        with self._settled:
            self._write()

    def _committed(self) -> float:
        return self.total.cost_usd + self._reserved

    def _accounts(self, stage: str) -> tuple[Account, Account]:
        return self._books.total, self._books.stages.setdefault(stage, Account())

    def _read(self, path: Path) -> None:
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
            self._books = _Books(
                Account(**found["total"]), {name: Account(**values) for name, values in found["stages"].items()}
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise BadInput(f"{path}: expected a ledger ({error}); restore or delete the file") from None

    def _write(self) -> None:
        if self.path is None:
            return
        record = {
            "total": asdict(self.total),
            "stages": {name: asdict(account) for name, account in sorted(self._books.stages.items())},
            "prices": asdict(self.prices),
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        partial = self.path.with_name(self.path.name + ".partial")
        partial.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        partial.replace(self.path)
