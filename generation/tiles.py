"""Codes drawn for a tile: so many rows at a time, whatever is asked for, so that no row's numbers depend on it. torch.

A matrix product rounds differently for another number of rows. Every pass therefore has all rows of a tile, those that
nobody asked for among them, and a candidate's codes depend on its caption and its seed alone.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from gesso.generation.sampling import draw_codes, uniforms
from gesso.generation.settings import Sampling
from gesso.training.prior.decoding import Decoder
from gesso.training.prior.model import Prior

OnRow = Callable[[int, Tensor], None]  # a finished row of the grid, and the codes so far (b, N)
WARM_UP = 3  # steps before a CUDA graph is captured


class Tile:
    """Draws the codes of `candidates` rows for each of `captions` captions. On a GPU a step is a CUDA graph."""

    def __init__(
        self, prior: Prior, captions: int, candidates: int, graph: bool = True, compiled: bool = False
    ) -> None:
        self.captions, self.candidates, self.rows = captions, candidates, captions * candidates
        self.decoder = Decoder(prior, captions, candidates, compiled)
        self._device, self._grid = prior.image.weight.device, prior.config.tokens.grid
        self._count = self._grid**2
        self._graphed = graph and self._device.type == "cuda"
        self._graph: tuple[Sampling, torch.cuda.CUDAGraph] | None = None

        def zeros(size: tuple[int, ...], dtype: torch.dtype) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=self._device)

        self._codes = zeros((self.rows, self._count), torch.int64)
        self._numbers = zeros((self.rows, self._count), torch.float64)
        self._logits = zeros((self.rows, prior.config.tokens.codes), prior.image.weight.dtype)
        self._position = zeros((1,), torch.int64)

    @torch.inference_mode()
    def draw(
        self,
        text: Tensor,
        seeds: Sequence[int],
        sampling: Sampling,
        prefix: Tensor,
        on_row: OnRow | None = None,
    ) -> Tensor:
        """int64 (n, T) captions, a seed for each row, (p,) first codes of all → int64 (b, N) on the device, which the
        next call writes over."""
        step, begin, prefix = self._step_of(sampling), len(prefix), prefix.to(self._device)
        self._codes.zero_()
        self._codes[:, :begin] = prefix
        self._numbers.copy_(uniforms(seeds, self._count))
        self._position.fill_(begin)
        self._logits.copy_(self.decoder.prefill(text.to(self._device), prefix))
        for position in range(begin, self._count):
            step(position)
            if on_row and (position + 1) % self._grid == 0:
                on_row(position // self._grid, self._codes)
        return self._codes

    def _step_of(self, sampling: Sampling) -> Callable[[int], None]:
        """What draws a position's codes; replays of a graph count the positions themselves."""
        if not self._graphed:
            return lambda position: self._step(position, sampling)
        seedless = replace(sampling, seed=0)
        if self._graph is None or self._graph[0] != seedless:
            self._graph = (seedless, self._capture(seedless))
        graph = self._graph[1]
        return lambda position: graph.replay()

    def _step(self, position: int, sampling: Sampling) -> None:
        """Draws the codes of a position from the logits, and computes those of the next."""
        codes = draw_codes(self._logits, self._numbers[:, position], sampling)
        self._codes[:, position] = codes
        if position + 1 < self._count:
            self._logits = self.decoder.advance(codes, position)

    def _step_in_place(self, sampling: Sampling) -> None:
        """The same at `self._position`, which it counts up, by the same operations on the same memory every time."""
        codes = draw_codes(self._logits, self._numbers.index_select(1, self._position).squeeze(1), sampling)
        self._codes.index_copy_(1, self._position, codes[:, None])
        self._logits.copy_(self.decoder.advance(codes, self._position))
        self._position.add_(1)

    def _capture(self, sampling: Sampling) -> torch.cuda.CUDAGraph:
        """Warms up on a stream of its own, as graphs want it, and captures a step."""
        stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(self._device))
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._position.zero_()
                self._step_in_place(sampling)
            self._position.zero_()
        torch.cuda.current_stream(self._device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._step_in_place(sampling)
        return graph
