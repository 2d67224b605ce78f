"""Next-token learning with a weight on each token: one optimizer step at a time, on a CPU or a GPU."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from functools import partial

import torch
from torch.nn.functional import cross_entropy

from train.teaching.sequences import Sequence


def orthogonalize(grad: torch.Tensor, coefficients: tuple[float, float, float], steps: int, eps: float) -> torch.Tensor:
    """The Newton-Schulz iteration of Muon (https://github.com/KellerJordan/Muon) in the precision of `grad`, a matrix.

    torch's own works in bfloat16, which a CPU without it emulates: an update then takes longer than its gradients.
    """
    a, b, c = coefficients
    wide = grad.T if grad.size(0) > grad.size(1) else grad
    wide = wide / wide.norm().clamp(min=eps)  # singular values of at most 1
    for _ in range(steps):
        gram = wide @ wide.T
        wide = a * wide + (b * gram + c * gram @ gram) @ wide
    return wide.T if grad.size(0) > grad.size(1) else wide


class Learner:
    """Next-token learning with weights.

    `optimizer`: "muon" uses Muon for the layers' matrices and AdamW for embeddings and norms; "adamw" for all.

    Muon stays, because AdamW needs several times as long from scratch: the tiny model's copy loss (nats per token) was
    0.35 with Muon (rate 3e-3) after 63 s on one core, and 1.48 with AdamW (rate 2e-3) after 301 s.

    `threads`: compute the gradients of a batch in this many parts at the same time. For a tiny model on a CPU, this is
    faster than torch's own threads: 8,000 tokens per second on two cores instead of 5,900; 4,200 on one core.
    """

    def __init__(
        self, model: torch.nn.Module, pad: int, learning_rate: float, optimizer: str = "muon", threads: int = 1
    ) -> None:
        self.model = model
        self.pad = pad
        self.learning_rate = learning_rate
        inner = {
            name: p
            for name, p in model.named_parameters()
            if optimizer == "muon" and p.ndim == 2 and "embed" not in name and "lm_head" not in name
        }
        outer = [p for name, p in model.named_parameters() if name not in inner]
        self.optimizers: list[torch.optim.Optimizer] = [
            torch.optim.AdamW(outer, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0)
        ]
        if inner:
            torch.optim._muon._zeropower_via_newtonschulz = orthogonalize  # type: ignore[assignment]
            self.optimizers.append(
                torch.optim.Muon(inner.values(), lr=learning_rate, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
            )
        self.threads = threads
        self._pool = ThreadPoolExecutor(threads, initializer=partial(torch.set_num_threads, 1)) if threads > 1 else None

    def step(self, batch: list[Sequence], scale: float) -> float:
        """One update at `scale` times the learning rate; returns the weighted mean loss in nats per token."""
        self.model.train()
        loss = self._backward(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = self.learning_rate * scale
            optimizer.step()
            optimizer.zero_grad()
        return loss

    def _backward(self, batch: list[Sequence]) -> float:
        """Set the gradients of the batch's weighted mean loss; returns the loss."""
        if self._pool is None:
            losses, weights = self._losses(batch)
            loss = losses / weights.clamp(min=1.0)
            loss.backward()
            return float(loss.detach())
        parameters = list(self.model.parameters())

        def part(rows: list[Sequence]) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
            losses, weights = self._losses(rows)
            # Not backward(): the threads would add to the same gradients at the same time.
            return torch.autograd.grad(losses, parameters), losses.detach(), weights

        parts = [batch[first :: self.threads] for first in range(min(self.threads, len(batch)))]
        done = list(self._pool.map(part, parts))
        total = torch.stack([weights for _, _, weights in done]).sum().clamp(min=1.0)
        for parameter, *shares in zip(parameters, *(gradients for gradients, _, _ in done), strict=True):
            parameter.grad = torch.stack(shares).sum(0) / total
        return float(torch.stack([losses for _, losses, _ in done]).sum() / total)

    @torch.no_grad()
    def loss(self, sequences: list[Sequence], rows: int = 16) -> float:
        """The weighted mean loss in nats per token, without an update."""
        self.model.eval()
        parts = [self._losses(sequences[start : start + rows]) for start in range(0, len(sequences), rows)]
        return float(sum(losses for losses, _ in parts) / sum(weights for _, weights in parts))

    def _losses(self, batch: list[Sequence]) -> tuple[torch.Tensor, torch.Tensor]:
        """Sums of the weighted losses and of the weights."""
        longest = max(len(item.tokens) for item in batch)
        tokens = torch.full((len(batch), longest), self.pad)
        weights = torch.zeros((len(batch), longest))
        for row, item in enumerate(batch):
            tokens[row, : len(item.tokens)] = torch.tensor(item.tokens)
            weights[row, : len(item.weights)] = torch.tensor(item.weights)
        # Right padding and causal attention: no mask is needed, padded positions carry weight 0.
        device = next(self.model.parameters()).device
        tokens, weights = tokens.to(device), weights.to(device)
        logits = self.model(input_ids=tokens, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none")
        target_weights = weights[:, 1:].flatten()
        return (losses * target_weights).sum(), target_weights.sum()
