"""What every backend must hold, whatever it computes with. A backend's test class inherits one of these and says how to
make it; `tolerance` is the largest |difference of logits| that counts as equal (0: bit by bit)."""

from __future__ import annotations

import numpy as np

from runtime.contract import EncoderBackend, GenerationBackend


class EncoderBackendContract:
    """A batch is the sum of its rows: padding, order and neighbours do not matter."""

    tolerance: float
    vocab_size: int

    def rows(self) -> list[np.ndarray]:
        random = np.random.default_rng(5)
        return [random.integers(5, self.vocab_size, length) for length in (4, 9, 9, 17, 30)]

    def run(self, backend: EncoderBackend, rows: list[np.ndarray], width: int | None = None) -> np.ndarray:
        longest = width or max(map(len, rows))
        ids, mask, types = (np.zeros((len(rows), longest), np.int64) for _ in range(3))
        for number, row in enumerate(rows):
            ids[number, : len(row)] = row
            mask[number, : len(row)] = 1
            types[number, len(row) // 2 : len(row)] = 1
        return backend.forward(ids, mask, types)

    def test_batch_equals_single(self, backend: EncoderBackend) -> None:
        together = self.run(backend, self.rows())
        alone = np.concatenate([self.run(backend, [row]) for row in self.rows()])
        assert together.shape == alone.shape
        assert np.abs(together - alone).max() <= self.tolerance

    def test_order_does_not_matter(self, backend: EncoderBackend) -> None:
        rows = self.rows()
        forward, backward = self.run(backend, rows), self.run(backend, rows[::-1])
        assert np.abs(forward - backward[::-1]).max() <= self.tolerance

    def test_padding_does_not_matter(self, backend: EncoderBackend) -> None:
        rows = self.rows()
        assert np.abs(self.run(backend, rows) - self.run(backend, rows, width=40)).max() <= self.tolerance

    def test_rows_differ(self, backend: EncoderBackend) -> None:
        assert np.ptp(self.run(backend, self.rows())[:, 0] - self.run(backend, self.rows())[:, -1]) > 0


class GenerationBackendContract:
    """A slot is a sequence: what its neighbours hold, how it was filled and where it lies do not matter."""

    tolerance: float
    vocab_size: int

    def prompt(self, length: int, seed: int = 5) -> list[int]:
        return np.random.default_rng(seed).integers(3, self.vocab_size, length).tolist()

    def close(self, one: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.abs(one - other).max() <= self.tolerance)

    def test_a_chunked_prefill_equals_a_whole_one(self, backend: GenerationBackend) -> None:
        prompt = self.prompt(20)
        whole = backend.prefill(0, prompt, all_logits=True)
        first = backend.prefill(1, prompt[:7], all_logits=True)
        second = backend.prefill(1, prompt[7:], start=7, all_logits=True)
        assert whole.shape == (20, self.vocab_size)
        assert self.close(whole, np.concatenate([first, second]))
        assert self.close(backend.prefill(0, prompt), whole[-1:])

    def test_decoding_equals_prefilling_one_more(self, backend: GenerationBackend) -> None:
        prompt = self.prompt(12)
        backend.prefill(0, prompt[:-1])
        step = backend.decode(np.asarray(prompt[-1:]), np.asarray([11]))
        assert self.close(step, backend.prefill(1, prompt))

    def test_neighbours_of_other_lengths_do_not_matter(self, backend: GenerationBackend) -> None:
        prompts = [self.prompt(length, seed=length) for length in (3, 25, 11)]
        tokens = np.asarray([4, 5, 6])
        for slot, prompt in enumerate(prompts):
            backend.prefill(slot, prompt)
        together = backend.decode(tokens, np.asarray([len(prompt) for prompt in prompts]))
        for number, prompt in enumerate(prompts):
            backend.prefill(0, prompt)
            alone = backend.decode(tokens[number : number + 1], np.asarray([len(prompt)]))
            assert self.close(together[number], alone[0])

    def test_a_moved_sequence_goes_on_where_it_was(self, backend: GenerationBackend) -> None:
        backend.prefill(0, self.prompt(9, seed=1))
        backend.prefill(2, self.prompt(14, seed=2))
        backend.move(2, 0, 14)
        moved = backend.decode(np.asarray([7]), np.asarray([14]))
        assert self.close(moved, backend.prefill(1, [*self.prompt(14, seed=2), 7]))

    def test_a_copied_prefix_goes_on_where_it_was(self, backend: GenerationBackend) -> None:
        prompt = self.prompt(14, seed=2)
        whole = backend.prefill(2, prompt, all_logits=True)
        backend.prefill(0, self.prompt(9, seed=1))
        backend.move(2, 0, 8)
        assert self.close(backend.prefill(0, prompt[8:], start=8, all_logits=True), whole[8:])

    def test_swapped_sequences_go_on_where_they_were(self, backend: GenerationBackend) -> None:
        prompts = [self.prompt(9, seed=1), self.prompt(14, seed=2)]
        for slot, prompt in enumerate(prompts):
            backend.prefill(slot, prompt)
        backend.swap(0, 1, 14)
        swapped = backend.decode(np.asarray([7, 8]), np.asarray([14, 9]))
        assert self.close(swapped[0], backend.prefill(2, [*prompts[1], 7])[0])
        assert self.close(swapped[1], backend.prefill(2, [*prompts[0], 8])[0])

    def test_a_copied_prefix_serves_two(self, backend: GenerationBackend) -> None:
        prefix, rests = self.prompt(12, seed=1), (self.prompt(5, seed=2), self.prompt(8, seed=3))
        backend.prefill(0, [*prefix, *rests[0]])
        backend.move(0, 1, len(prefix))
        reused = backend.prefill(1, rests[1], start=len(prefix))
        assert self.close(reused, backend.prefill(2, [*prefix, *rests[1]]))
        # The one that the prefix came from is untouched.
        going_on = backend.decode(np.asarray([7]), np.asarray([17]))
        assert self.close(going_on, backend.prefill(2, [*prefix, *rests[0], 7]))

    def test_a_reused_slot_remembers_nothing(self, backend: GenerationBackend) -> None:
        fresh = backend.prefill(0, self.prompt(6, seed=3)).copy()
        backend.prefill(0, self.prompt(30, seed=4))
        assert self.close(backend.prefill(0, self.prompt(6, seed=3)), fresh)


class SourceBackendContract:
    """The same of an encoder-decoder, whose prompts are sources: lengths count a source and its text."""

    tolerance: float
    vocab_size: int

    def source(self, length: int, seed: int = 5) -> list[int]:
        return np.random.default_rng(seed).integers(3, self.vocab_size, length).tolist()

    def told(self, backend: GenerationBackend, slot: int, source: list[int], text: list[int]) -> np.ndarray:
        """Logits after `text`, whose tokens come one after the other in slot 0, which is then copied to `slot`."""
        logits = backend.prefill(0, source)
        for place, token in enumerate(text):
            logits = backend.decode(np.asarray([token]), np.asarray([len(source) + place]))
        if slot:
            backend.move(0, slot, len(source) + len(text))
        return logits[0].copy()

    def close(self, one: np.ndarray, other: np.ndarray) -> bool:
        return bool(np.abs(one - other).max() <= self.tolerance)

    def test_neighbours_of_other_lengths_do_not_matter(self, backend: GenerationBackend) -> None:
        sources = [self.source(length, seed=length) for length in (1, 25, 11)]
        texts: list[list[int]] = [[4, 5, 6, 7], [], [9, 10]]
        for slot in (2, 1, 0):
            self.told(backend, slot, sources[slot], texts[slot])
        tokens = np.asarray([20, 21, 22])
        lengths = np.asarray([len(source) + len(text) for source, text in zip(sources, texts, strict=True)])
        together = backend.decode(tokens, lengths)
        for number in range(3):
            alone = self.told(backend, 0, sources[number], [*texts[number], int(tokens[number])])
            assert self.close(together[number], alone)
        assert np.abs(together[0] - together[1]).max() > 0.01

    def test_swapped_sequences_go_on_where_they_were(self, backend: GenerationBackend) -> None:
        sources, texts = [self.source(9, seed=1), self.source(30, seed=2)], [[4] * 20, [5]]
        expected = [self.told(backend, 0, source, [*text, 8]) for source, text in zip(sources, texts, strict=True)]
        self.told(backend, 1, sources[1], texts[1])
        self.told(backend, 0, sources[0], texts[0])
        backend.swap(0, 1, 31)
        swapped = backend.decode(np.asarray([8, 8]), np.asarray([31, 29]))
        assert self.close(swapped[0], expected[1])
        assert self.close(swapped[1], expected[0])

    def test_a_copied_sequence_serves_two(self, backend: GenerationBackend) -> None:
        source = self.source(12)
        expected = [self.told(backend, 0, source, [4, token]) for token in (5, 6)]
        self.told(backend, 1, source, [4])
        both = backend.decode(np.asarray([5, 6]), np.asarray([13, 13]))
        assert self.close(both[0], expected[0])
        assert self.close(both[1], expected[1])

    def test_a_reused_slot_remembers_nothing(self, backend: GenerationBackend) -> None:
        fresh = self.told(backend, 0, self.source(6, seed=3), [4, 5])
        self.told(backend, 0, self.source(30, seed=4), [6] * 20)
        assert self.close(self.told(backend, 0, self.source(6, seed=3), [4, 5]), fresh)
