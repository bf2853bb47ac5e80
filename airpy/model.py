"""An open model: generate, logits, text, figures."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from airpy import _core
from airpy.adapters import ACTIVE, Adapters, Choice, Chosen
from airpy.calibration import Compute, Machine, learn_compute, learn_disk, learn_link
from airpy.config import ModelConfig
from airpy.device import Device, Gpu, stay_on
from airpy.embedding import Encoded, Pooler, Pooling, Text, TextItem, choose, embed, encode
from airpy.errors import ArgumentError, BudgetError, CancelledError, StateError, UnsupportedError
from airpy.files import PathLike
from airpy.generation import CausalLMOutput, GenerateOutput, GenerationConfig, Streamer
from airpy.generation.config import Callables, Resolved, as_config, merge, refuse, resolve
from airpy.generation.inputs import Prompts, read_prompts
from airpy.generation.loop import Generation, Item, Part, Row, parts_of
from airpy.generation.shaper import Shaper
from airpy.generation.shaping import UNSHAPED
from airpy.generation.stopping import TextCutter
from airpy.generation.tensors import like
from airpy.measure import CallMeter, Cost, MemoryWatch, Phase
from airpy.perplexity import Perplexity, cut, score
from airpy.planning import Plan
from airpy.profile import Profile
from airpy.progress import CallbackProgress, PartProgress, PassBar, Progress, progress_for_call
from airpy.sequences import SequencePool
from airpy.sizes import check_count, format_size
from airpy.spans import span
from airpy.tokenizer import Tokenizer

Ids = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float32]

_MANY_ROWS = 64  # of a pass whose time is that of many columns

_BLOCK = 64  # positions that state is kept in

_RESIDENT_ROWS = 512  # of texts together where no weights stream: passes of thousands take a fifth more of the CPU's time
_TEXTS_PATIENCE = 2.0  # seconds that embed() may take in silence

# What helps where a call does not fit into max_ram, beside raising that.
_PROMPT_HELP = "give fewer or shorter prompts"
_DECODE_HELP = "lower max_new_tokens, or give fewer or shorter prompts"
_WINDOWS_HELP = "lower ctx"
_TEXTS_HELP = "give shorter texts"
_LOGITS_HELP = "ask for fewer logits (logits_to_keep), give fewer or shorter prompts, or drop the logits of earlier calls"


class Model:
    """Made by AutoModel.from_pretrained(). Any number of threads may use one; their passes queue. Close it, or use it in `with`."""

    def __init__(
        self,
        engine: _core.Engine,
        gguf: _core.GGUF,
        tokenizer: Tokenizer,
        config: ModelConfig,
        *,
        device: Device,
        metadata: Mapping[str, Any],
        options: Mapping[str, Any],
        machine: Machine | None,
        gpus: Sequence[Gpu],
        memory: MemoryWatch,
        progress: Progress,
    ) -> None:
        """options: the engine's. machine: whose calibration to correct by what passes achieve, if any. gpus: what computes, if not
        the CPU."""
        self.tokenizer, self.config, self.device = tokenizer, config, str(device)
        self._file_config = GenerationConfig(eos_token_id=tokenizer.eos_token_ids, pad_token_id=tokenizer.pad_token_id)
        self._generation_config = replace(self._file_config)
        self._engine, self._gguf, self._metadata, self._options = engine, gguf, metadata, options
        self._machine, self._gpus, self._memory, self._progress = machine, gpus, memory, progress
        solved = engine.plan
        self._solved, self._budget, self._n_ctx = solved, solved["budget"], solved["n_ctx"]
        self._pool = SequencePool(engine, self._budget)
        self._adapters = Adapters(engine, config)
        self._plan: Plan | None = None
        # Passes teach about the disk where their reads are like those of the probe; smaller ones say nothing about it.
        self._teaches = machine is not None and solved["block_bytes"] >= (options["bandwidths"] or {}).get("block_bytes", 0)
        self.prints_profile = False  # whether generate() and stream() print, at the end, what each layer took
        self._closing = False
        self._epoch = 0  # goes up with cancel(): calls that began under a lower one end
        self._lock = threading.Lock()
        self._last = CallMeter()
        self._reused = 0
        self._learned = Phase()  # disk-bound passes since the calibration was last corrected
        self._linked = Phase()  # those that the link to a GPU bound
        self._computed: dict[Compute, Phase] = {"steps": Phase(), "prompts": Phase()}  # likewise, bound by compute alone
        self._profile: Profile | None = None  # that is being taken
        self._warm = False  # whether a pass has been: the first one loads what stays

    # -- life -----------------------------------------------------------------------------------------------------------

    def close(self) -> None:
        """Ends what runs, in any thread, with StateError and frees all memory. Idempotent."""
        self._closing = True  # before any of it can be noticed
        try:
            self._epoch += 1
            if self._profile is not None:
                with suppress(StateError):  # in a forked child, where there is nothing to take
                    self._engine.cancel()
                    self._profile.end()
            self._pool.drop()
            self._engine.close()
            self._memory.end()
        finally:
            self._closing = self._engine.closed

    def eval(self) -> Model:
        """Itself: there is no training to leave."""
        return self

    def to(self, device: Any) -> Model:
        """Itself. Raises UnsupportedError for any device but its own, and for types: weights stay in the file's."""
        stay_on("to()", device, self.device)
        return self

    def __reduce__(self) -> str:
        raise UnsupportedError("a model is neither copied nor pickled; pass its path on and open it there with AutoModel.from_pretrained()")

    def __enter__(self) -> Model:
        """Raises StateError on a closed model."""
        self._check_open()
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def cancel(self) -> None:
        """Every call now under way, in any thread, ends with CancelledError within 250 ms; the model stays usable."""
        self._epoch += 1
        self._engine.cancel()

    def __repr__(self) -> str:
        return (
            f"Model({self.config.name or self.config.model_type}, {self.config.num_hidden_layers} layers, context {self._n_ctx}, "
            f"max_ram={format_size(self._budget)}, io={self._solved['io']}{', closed' if self._engine.closed else ''})"
        )

    def _repr_html_(self) -> str:
        from airpy.html import homes_of, table_of

        config, solved = self.config, self._solved
        facts = {
            "architecture": config.model_type, "layers": config.num_hidden_layers, "embedding": config.hidden_size,
            "vocabulary": config.vocab_size, "context": f"{self._n_ctx} of {config.max_position_embeddings}", "computed by": self.device,
            "max_ram": format_size(self._budget), "io": solved["io"], "file": format_size(self._gguf.bytes),
        }  # fmt: skip
        closed = ", closed" if self._engine.closed else ""
        title = f"Model {config.name or config.model_type}{closed}"
        return homes_of(title, self.plan.homes) + table_of("", list(facts), [list(facts.values())])

    @property
    def generation_config(self) -> GenerationConfig:
        """What calls follow where they say nothing; its fields that are None follow the file. May be assigned to: a GenerationConfig,
        transformers' one, a dict, or None for the file's own."""
        return self._generation_config

    @generation_config.setter
    def generation_config(self, config: GenerationConfig | Mapping[str, Any] | None) -> None:
        self._generation_config = replace(self._file_config) if config is None else as_config(config)

    @property
    def path(self) -> str:
        """The GGUF file that is open, the first of a split one: of a directory or a name on the hub the one that was made of it."""
        return self._gguf.paths[0]

    @property
    def n_ctx(self) -> int:
        """Tokens that prompt and answer may have together."""
        return int(self._n_ctx)

    @property
    def plan(self) -> Plan:
        """What stays, what streams and what that costs; print it, save it, give it to from_pretrained(plan=)."""
        if self._plan is None:
            self._plan = Plan.build(self._gguf, self._metadata, self._solved, self._options, self._gpus)
        return self._plan

    def profile(self, max_events: int | None = None) -> Profile:
        """What each thread does from here on, for use in `with`: reads, waits, parts of each layer, sampling, tokenizing. Afterwards
        print() it, take its table(), or save() a trace for a viewer. It costs less than 1 % of the time; its memory, 40 bytes for each of
        max_events, counts in max_ram meanwhile (default: 16 MiB, or a 16th of max_ram where that is less). What there is no room for is
        counted as dropped. Ends as it is, whatever ends the block. One at a time: the second one raises StateError."""
        return Profile(self, max_events)

    def _profile_of_call(self) -> Profile | None:
        """In profiling_mode a profile that has begun; None where one is being taken, which has the call as well."""
        if self.prints_profile:
            with suppress(StateError):
                return Profile(self).__enter__()
        return None

    # -- generate -------------------------------------------------------------------------------------------------------

    def generate(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
        *,
        streamer: Streamer | None = None,
        adapter: Choice = ACTIVE,
        **arguments: Any,
    ) -> Any:
        """Prompt and new ids, int64 [batch, longest], padded on the right where a row ended early; GenerateOutput with
        return_dict_in_generate=True. Arrays, or torch's tensors (on the same device) where input_ids are such.

        input_ids: array, tensor or lists, [batch, tokens] padded on the left with attention_mask, or rows of unequal length.
        Without a mask, pad_token_id where rows begin is padding, unless it begins or ends texts as well (as transformers infers it).
        inputs is another name of it.
        logits_processor: callables (ids int64 [batch, tokens], scores float32 [batch, vocab]) that return scores; stopping_criteria:
        (ids, scores or None) that return whether all rows, or each, are done; prefix_allowed_tokens_fn: (row, its ids) that returns
        the tokens that may come. They get numpy's arrays; torch's tensors where input_ids are such, or where transformers made them.
        adapter: that load_adapter() has loaded, by name or as (name, scale), None for none, or a list of those, one for each prompt;
        by default the active one. arguments: the fields of GenerationConfig. All rows' prompts are read in one pass (or as few as max_ram
        allows), then all rows' next tokens in one pass each. Raises ContextOverflowError before anything is computed, BudgetError where
        max_ram is too small for the rows, UnsupportedError and ArgumentTypeError for arguments airpy does not have.
        """
        if streamer is not None and not all(callable(getattr(streamer, name, None)) for name in ("put", "end")):
            raise ArgumentError(
                f"streamer is {type(streamer).__name__}; expected an object with put() and end(), such as TextStreamer(model.tokenizer)"
            )
        if input_ids is None:
            input_ids = arguments.pop("inputs", None)  # transformers' name
        try:
            self._check_foretells("generate()")
            callables = Callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
            how = resolve(self._merge("generate()", generation_config, arguments), self.config.vocab_size, callables)
            padding = None if how.pad in how.eos or how.pad == self.config.bos_token_id else how.pad
            prompts = read_prompts(input_ids, attention_mask, how.pad, self.config.vocab_size, padding=padding)
            adapted = self._adapters.choose(adapter, len(prompts.rows))
            prompts = prompts.repeated(how.copies)
            with _Running(self, prompts, how, adapted) as running:
                if streamer is not None:
                    streamer.put(prompts.ids.copy())
                for step in running:
                    if streamer is not None:
                        streamer.put(np.array([how.pad if token is None else token for token in step], dtype=np.int64))
                new, shaper = [row.new for row in running.rows], running.shaper
        finally:
            if streamer is not None:
                streamer.end()  # also where the arguments are refused: somebody may be waiting
        longest = max(map(len, new))
        ids = np.full((len(new), prompts.ids.shape[1] + longest), how.pad, dtype=np.int64)
        ids[:, : prompts.ids.shape[1]] = prompts.ids
        for i, row in enumerate(new):
            ids[i, prompts.ids.shape[1] : prompts.ids.shape[1] + len(row)] = row
        if not how.return_dict:
            return like(ids, prompts.tensor)
        asked = how.shaping or UNSHAPED
        scores = tuple(like(step, prompts.tensor) for step in shaper.scores) if shaper and asked.scores else None
        logits = tuple(like(step, prompts.tensor) for step in shaper.logits) if shaper and asked.logits else None
        return GenerateOutput(like(ids, prompts.tensor), scores, logits)

    def stream(
        self,
        prompt: str | Any,
        generation_config: GenerationConfig | Mapping[str, Any] | None = None,
        *,
        skip_special_tokens: bool = True,
        on_tokens: Callable[[list[int]], object] | None = None,
        logits_processor: Sequence[Callable[..., Any]] | None = None,
        stopping_criteria: Sequence[Callable[..., Any]] | None = None,
        prefix_allowed_tokens_fn: Callable[..., Any] | None = None,
        adapter: Choice = ACTIVE,
        **arguments: Any,
    ) -> Generator[str, None, None]:
        """The text that follows one prompt, a text or ids, piece by piece, never half a character; a stop string that ends it is
        left out. on_tokens gets the ids of each step, also of those that are not shown. Arguments as in generate(), checked at
        once. Leaving the loop early, or close(), ends the generation."""
        self._check_foretells("stream()")
        callables = Callables(logits_processor, stopping_criteria, prefix_allowed_tokens_fn)
        how = resolve(self._merge("stream()", generation_config, arguments), self.config.vocab_size, callables)
        if how.return_dict:
            raise ArgumentError("stream() returns text; return_dict_in_generate belongs to generate()")
        if how.copies > 1:
            raise ArgumentError("stream() gives one text; num_return_sequences belongs to generate()")
        prompts = read_prompts(self.tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, None, how.pad, self.config.vocab_size)
        if len(prompts.rows) != 1:
            raise ArgumentError(f"stream() takes one prompt, not {len(prompts.rows)}; generate() takes several")
        self._check_open()
        return self._stream(_Running(self, prompts, how, self._adapters.choose(adapter, 1)), skip_special_tokens, on_tokens)

    def _stream(
        self, running: _Running, skip_special: bool, on_tokens: Callable[[list[int]], object] | None
    ) -> Generator[str, None, None]:
        decoder = self.tokenizer.stream_decoder(running.prompts.rows[0].tolist(), skip_special_tokens=skip_special)
        cutter = TextCutter(running.how.stop_strings)
        with running:
            for step in running:
                new = [token for token in step if token is not None]
                if on_tokens is not None:
                    on_tokens(new)
                if piece := cutter.push(decoder.push(new)):
                    yield piece
        if rest := cutter.push(decoder.flush()) + cutter.flush():
            yield rest

    # -- logits ---------------------------------------------------------------------------------------------------------

    def __call__(
        self,
        input_ids: Any = None,
        attention_mask: Any = None,
        *,
        logits_to_keep: int | None = None,
        adapter: Choice = ACTIVE,
        **arguments: Any,
    ) -> CausalLMOutput:
        """Logits after each token, or after the last logits_to_keep (0 and None: all): .logits, float32 [batch, kept, vocab]; 0 for
        padding. adapter: as generate() has it. They count against max_ram while they live; BudgetError if they do not fit."""
        refuse("model()", arguments)
        self._check_open()
        self._check_foretells("model()")
        prompts = read_prompts(input_ids, attention_mask, 0, self.config.vocab_size)
        width = prompts.ids.shape[1]
        whole = isinstance(logits_to_keep, (int, np.integer)) and not isinstance(logits_to_keep, bool)
        if logits_to_keep is not None and not (whole and logits_to_keep >= 0):
            raise ArgumentError(f"logits_to_keep is {logits_to_keep!r}; expected 0 (all) or more")
        kept = min(logits_to_keep or width, width)
        wanted = [min(kept, row.size) for row in prompts.rows]
        adapted = self._adapters.choose(adapter, len(prompts.rows))
        sequences: list[_core.Sequence] = []
        watch = _Watch(self)
        try:
            items: list[Item] = []
            for row, want, chosen in zip(prompts.rows, wanted, adapted, strict=True):
                sequences.append(self._pool.take(row, chosen, want))
                items.append((sequences[-1], row[sequences[-1].length :].data, want, None, row.size))
            lengths = [row.size for row in prompts.rows]
            with span(self.tokenizer.spans, "logits"):
                result = self._run(items, watch, lambda: self._advice(lengths, sum(wanted), _LOGITS_HELP), logits=True)
        except (CancelledError, StateError) as error:
            self._explain(error)
            raise
        finally:
            self._give(sequences)
        logits = np.asarray(result.logits)
        shaped = logits.reshape(len(wanted), kept, -1) if min(wanted) == kept else self._spread(logits, wanted, kept)
        return CausalLMOutput(like(shaped, prompts.tensor))

    def _spread(self, logits: npt.NDArray[np.float32], wanted: Sequence[int], kept: int) -> npt.NDArray[np.float32]:
        """Rows with fewer logits than others, padded on the left."""
        try:
            spread = self._pool.floats(len(wanted) * kept, logits.shape[1]).reshape(len(wanted), kept, -1)
        except BudgetError as error:
            raise BudgetError(f"{error}; ask for fewer logits (logits_to_keep) or for one row at a time: padded, they are copied") from None
        start = 0
        for i, want in enumerate(wanted):
            spread[i, kept - want :] = logits[start : start + want]
            start += want
        return spread

    def _free(self) -> int:
        """Bytes of max_ram beside what is held for other things than weights, which give way."""
        stats = self._engine.stats()
        return int(stats["budget"] - stats["held"] + stats["held_by"]["pinned weights"] + stats["held_by"]["experts"])

    def perplexity(
        self, text: Any, *, ctx: int | None = None, stride: int | None = None, chunks: int | None = None, adapter: Choice = ACTIVE
    ) -> Perplexity:
        """How well the model foretells a text, or a row of ids, as llama-perplexity counts it: exp of the mean negative log-likelihood.

        The text is cut into windows of ctx tokens (512), each read by itself; the later half of each is scored, and where texts begin
        with BOS, so do windows. With a stride, a window begins every so many tokens, as they are, and its last `stride` tokens are
        scored. chunks: no more windows than that. As many windows share a pass as leave room for their logits, so that a model that
        streams is read once for all of them. A text becomes ids at once, which takes a hundred times its size for a moment: of a long
        one under a small max_ram, give the ids. adapter: as generate() has it. Raises ArgumentError where the text is shorter than a
        window, or ctx beyond n_ctx."""
        self._check_open()
        self._check_foretells("perplexity()")
        windows, (adapted,) = cut(self, text, ctx, stride, chunks), self._adapters.choose(adapter, 1)
        watch, bar = _Watch(self), progress_for_call(self._progress, "window")
        part = watch.report = PartProgress(bar, len(windows.rows))

        def run(items: list[Item]) -> _core.Result:
            part.amount = len(items)
            return self._run(items, watch, lambda: self._advice([windows.ctx] * len(items), 1, _WINDOWS_HELP), logits=True)

        def done(figures: Perplexity) -> None:
            part.done, bar.note = figures.windows, f"perplexity {figures.perplexity:.4f}"
            bar(part.done, len(windows.rows), 0, 1)

        try:
            with bar, span(self.tokenizer.spans, "perplexity"):
                return score(windows, engine=self._engine, make=lambda: self._pool.make(adapted), run=run, done=done)
        except (CancelledError, StateError) as error:
            self._explain(error)
            raise

    # -- embeddings -----------------------------------------------------------------------------------------------------

    def embed(
        self,
        texts: Sequence[Text],
        pooling: Pooling | None = None,
        normalize: bool = True,
        *,
        truncate: bool = False,
        batch_size: int | None = None,
        adapter: Choice = ACTIVE,
    ) -> Floats | list[Floats]:
        """One vector for each text, float32 [texts, width]; of a model that generates, too: of its states after the last norm.

        texts: each a str, with whatever the model wants before it, such as "query: "; a pair of them, as classifiers read a question and
        what may answer it (in the file's own text around them, its chat template "rerank", where it has one); or token ids. pooling: "mean"
        of all tokens, "cls" (the first), "last"; "none": a list with [tokens, width] for each text; "rank": what a classifier (a reranker)
        gives, [texts] or, of several labels, [texts, labels]. None: the file's; where it has none, the mean of an encoder's, the last
        token's of others. normalize: vectors have length 1; scores stay. truncate: what is beyond n_ctx is left out, of a pair at the cost
        of the longer text, or of the answer. batch_size: of so many texts at most a pass is made; else of as many as it has rows for, so
        that a model that streams is read once for all of them, or, of one that is in memory, of as many as the CPU's caches do best with.
        adapter: as generate() has it.

        Raises ContextOverflowError for a text longer than n_ctx and ArgumentError for one without tokens, before anything is computed,
        UnsupportedError for scores where there is no classifier, BudgetError where one text, or what is handed out, does not fit."""
        self._check_open()
        pooler = choose(self.config.hparams, pooling, normalize)
        most, encoded = check_count("batch_size", batch_size), encode(self, texts, truncate, pooler)
        adapted = self._adapters.choose(adapter, len(encoded))
        vectors = self._room_for_vectors(encoded, pooler)
        watch, bar = _Watch(self), progress_for_call(self._progress, "text", _TEXTS_PATIENCE)
        part = watch.report = PartProgress(bar, len(encoded))

        def run(items: list[TextItem]) -> _core.Result:
            part.amount = len(items)
            lengths = [item[4] for item in items]
            help_with = lambda: self._advice(lengths, 1, _TEXTS_HELP)  # noqa: E731
            return self._run(items, watch, help_with, logits=pooler.scores, hidden=not pooler.scores)

        def done(texts: int) -> None:
            part.done = texts
            bar(texts, len(encoded), 0, 1)

        try:
            with bar:
                rows, make = self._rows_of_texts(), lambda i: self._pool.make(adapted[i])
                for i, vector in enumerate(embed(encoded, pooler, most, most_rows=rows, make=make, run=run, done=done)):
                    vectors[i][...] = vector
        except (CancelledError, StateError) as error:
            self._explain(error)
            raise
        found: Floats | list[Floats] = vectors[:, 0] if pooler.scores and pooler.width == 1 else vectors
        return found

    def _room_for_vectors(self, texts: Sequence[Encoded], pooler: Pooler) -> Any:
        """What embed() hands out, before it is: an array, or of all tokens a list."""
        try:
            if pooler.pooling != "none":
                return self._pool.floats(len(texts), pooler.width)
            return [self._pool.floats(len(text.ids), pooler.width) for text in texts]
        except BudgetError as error:
            raise BudgetError(f"{error}; give fewer texts than {len(texts)} at a time, or raise max_ram") from None

    # -- adapters -------------------------------------------------------------------------------------------------------

    def load_adapter(self, path: PathLike, name: str = "default", *, scale: float = 1.0) -> str:
        """A LoRA adapter from PEFT's directory or a .gguf file, under that name, which becomes the active one: calls have it unless their
        adapter= says otherwise. scale: times the file's own. Its matrices stay in memory as float32 (weights give way to them; where a GPU
        computes in its memory, where state does), the model's weights are as they were, and rows of one batch may have different adapters.

        Raises FormatError and ModelError for files that are damaged or for another model, UnsupportedError for other kinds of adapters, for
        weights of experts, BudgetError where max_ram or max_vram has no room, ArgumentError for a name that is taken."""
        self._check_open()
        return self._adapters.load(path, name, scale, self._make_adapter).name

    def _make_adapter(self, matrices: list[tuple[str, int, int, int]]) -> _core.Adapter:
        return self._pool.in_budget(lambda: self._engine.adapter(matrices))

    def set_adapter(self, name: str | None) -> None:
        """Which adapter calls have that say nothing of it; None: the model alone. Raises ArgumentError where there is none of that name."""
        self._adapters.activate(name)

    def unload_adapter(self, name: str) -> None:
        """Forgets an adapter; calls under way go on with it, and its memory goes with the last of them."""
        self._pool.drop(self._adapters.unload(name).core)

    @property
    def adapters(self) -> dict[str, dict[str, Any]]:
        """Those loaded by name: path, scale, bytes (of max_ram), vram_bytes (of max_vram), and how many weights they change."""
        self._check_open()
        return self._adapters.listed()

    @property
    def active_adapter(self) -> str | None:
        """What calls have that say nothing of an adapter."""
        return self._adapters.active

    def _rows_of_texts(self) -> int:
        """Of a pass over texts, at most."""
        most: int = self._solved["max_rows"]
        return most if self.plan.lacking_bytes else min(most, _RESIDENT_ROWS)

    # -- figures --------------------------------------------------------------------------------------------------------

    def stats(self) -> dict[str, Any]:
        """Bytes, milliseconds and rates. Of the last generate(): tok_s (tokens per second by the clock, from the end of the prompt to
        the last token, with all that sampling, Python and whoever takes the text need), pass_ms, between_ms (from one pass to the
        next), bytes_disk_per_token, bytes_ram_per_token, predicted_tok_s and achieved_over_predicted (of passes alone: the predicted
        pass over the one there was), stall_ms (per pass), prompt_ms, prompt_tokens, reused_tokens,
        new_tokens. Since open: budget, peak_ram (the process's anonymous memory above the value at open, or what the engine held
        where that is more or other models were open; peak_ram_is says which), held, held_by, passes, disk_bytes, ram_bytes,
        total_reused_tokens; of mixtures of experts, expert_hits (asked for and in memory; of them expert_device_hits in VRAM) and
        expert_misses. Of the last pass: layer_busy_ms, layer_stall_ms."""
        stats = self._engine.stats()
        busy, stall = self._engine.layer_times()
        self._memory.sample(now=True)
        return {
            **self._last.figures(),
            "budget": stats["budget"],
            "peak_ram": max(self._memory.peak, stats["peak_held"]),
            "peak_ram_is": "measured" if self._memory.peak >= stats["peak_held"] else "booked by the engine",
            "mapped_bytes": self._gguf.bytes if self._solved["io"] == "mmap" else 0,
            "held": stats["held"],
            "held_by": stats["held_by"],
            "passes": stats["passes"],
            "disk_bytes": stats["pager_disk_bytes"],
            "ram_bytes": stats["pager_ram_bytes"],
            "pinned_bytes": stats["pager_pinned_bytes"],
            "expert_hits": stats["pager_expert_hits"],
            "expert_device_hits": stats["pager_expert_device_hits"],
            "expert_misses": stats["pager_expert_misses"],
            "total_reused_tokens": self._reused,
            "layer_busy_ms": [ns / 1e6 for ns in busy],
            "layer_stall_ms": [ns / 1e6 for ns in stall],
            "threads": stats["threads"],
            "kernels": stats["kernels"],
            "io": self._solved["io"],
        }

    def expert_rows(self) -> list[list[int]]:
        """How many tokens went to each expert since the model was opened: a list for each layer, empty where a layer has no experts."""
        self._check_open()
        return self._engine.expert_rows()

    @property
    def last_call(self) -> CallMeter:
        """What the last generate() cost, its prompt's passes apart from its decode passes."""
        return self._last

    def forget(self) -> None:
        """Frees the state kept for texts that begin as earlier ones did."""
        self._pool.drop()

    # -- inside ---------------------------------------------------------------------------------------------------------

    def _merge(self, where: str, config: Any, arguments: Mapping[str, Any]) -> GenerationConfig:
        return merge(where, self._generation_config.over(self._file_config), config, arguments)

    def _check_open(self) -> None:
        if self._engine.closed:
            raise StateError("the model is closed")

    def _check_foretells(self, what: str) -> None:
        hparams = self.config.hparams
        if hparams["n_labels"]:
            raise UnsupportedError(f"{what} needs a model that foretells tokens, but this is a classifier; use embed(pooling='rank')")
        if not hparams["foretells"]:
            raise UnsupportedError(f"{what} needs a model that foretells tokens, but this one makes embeddings; use embed()")

    def _explain(self, error: BaseException | None) -> None:
        """Raises StateError where close() is what ended a call, whatever the call noticed of it first."""
        if self._closing and isinstance(error, (CancelledError, StateError)):
            raise StateError("the model was closed while a call was under way") from None

    def _advice(self, lengths: list[int], wanted: int, otherwise: str) -> str:
        """What would let rows of these lengths fit, of which `wanted` logits are kept."""
        enough = self._engine.budget_for(len(lengths), sum(-(-length // _BLOCK) for length in lengths), sum(lengths), wanted)
        to = f" to {enough / (1 << 20):.1f} MiB" if enough else ""
        return f"raise max_ram{to}, {'or ' if ',' not in otherwise else ''}{otherwise}"

    def _run(
        self,
        items: Sequence[Item | TextItem],
        watch: _Watch,
        advice: Callable[[], str],
        *,
        logits: bool = False,
        hidden: bool = False,
        phase: Phase | None = None,
    ) -> _core.Result:
        """One call of the engine, cancellable at any moment, idle sequences giving way where the budget asks. advice: what the caller
        can do where that is not enough."""
        watch.check()
        with watch.report:
            try:
                result = self._run_in_budget(items, logits, hidden, watch)
            except BudgetError as error:
                if str(error).startswith("max_vram") or "more than max_vram" in str(error):  # which more RAM does not help
                    raise
                raise BudgetError(f"{error}; {advice()}") from None
        self._note(result.cost, phase, len(items), sum(len(item[1]) for item in items))
        self._memory.sample()
        return result

    def _run_in_budget(self, items: Sequence[Item | TextItem], logits: bool, hidden: bool, watch: _Watch) -> _core.Result:
        return self._pool.in_budget(lambda: self._engine.run(items, logits=logits, hidden=hidden, progress=watch))

    def _note(self, cost: Cost, phase: Phase | None, tokens: int, rows: int) -> None:
        if phase is not None:
            phase.add(cost, tokens)
        _, pass_ns, _, _, stall_ns, _ = cost
        if self._teaches and stall_ns > 0.3 * pass_ns:  # the disk was what it waited for
            with self._lock:
                self._learned.add(cost, tokens)
        # What crosses a link of a mixture's experts is foretold as if all were used alike, which teaches nothing of rates.
        guessed = bool(self._gpus) and self._solved["expert_weight_bytes"] > 0
        if self._machine is not None and self._warm and not guessed:
            with self._lock:
                if what := self._computed_as(cost, rows):
                    self._computed[what].add(cost, tokens)
                elif self._solved["bound"] == "link" and rows == 1 and stall_ns < 0.1 * pass_ns:
                    self._linked.add(cost, tokens)
        self._warm = True

    def _computed_as(self, cost: Cost, rows: int) -> Compute | None:
        """Whose time a call's passes had: that of steps or prompts, if nothing but compute bound them and their prediction."""
        passes, pass_ns, disk_bytes, _, stall_ns, _ = cost
        if stall_ns > 0.02 * pass_ns or self._solved["bound"] != ("device" if self._gpus else "compute"):
            return None
        if rows == passes == 1:
            return "steps"
        # Larger passes are predicted with the disk in it, unless nothing streams.
        streams = self._solved["disk_s"] or self._solved["link_s"]
        return "prompts" if rows >= _MANY_ROWS * passes and not disk_bytes and not streams else None

    def _learn(self) -> None:
        """Corrects the kept calibration by what the last passes achieved that were bound by one thing."""
        with self._lock:
            if self._machine is None or sys.is_finalizing():  # a stream left open ends with the interpreter, which cannot open files
                return
            if learn_disk(self._machine, self._learned.disk_bytes, self._learned.seconds):
                self._learned = Phase()
            used, work = self._options["bandwidths"] or {}, self._solved["work"]
            if passes := self._linked.passes:
                linked, predicted = max(part["linked_bytes"] for part in work), self._solved["link_s"] * passes
                if learn_link(self._machine, passes * linked, used, predicted, self._linked.seconds):
                    self._linked = Phase()
            which = max(range(len(work)), key=lambda i: work[i]["device_s"]) if work else 0  # the others wait for it
            for what, phase in self._computed.items():
                step = self._solved["device_s" if self._gpus else "compute_s"]
                predicted = step * phase.passes if what == "steps" else phase.predicted_s
                if learn_compute(self._machine, what, used, predicted, phase.seconds, which):
                    self._computed[what] = Phase()

    def _give(self, sequences: list[_core.Sequence]) -> None:
        if not self._engine.closed:
            self._pool.give(sequences)


class _Watch:
    """Looks after one call, over its passes: was it cancelled, how much memory is used, how far is it."""

    def __init__(self, model: Model) -> None:
        self._model, self._epoch = model, model._epoch
        self.report: PassBar | CallbackProgress | PartProgress = progress_for_call(model._progress)

    def check(self) -> None:
        """Raises CancelledError after cancel() and close()."""
        if self._epoch != self._model._epoch:
            raise CancelledError("cancelled")

    def __call__(self, layers_done: int, n_layers: int, passes_done: int, n_passes: int) -> None:
        self.check()
        self._model._memory.sample()
        self.report(layers_done, n_layers, passes_done, n_passes)


class _Running:
    """A generation as a context, iterated for its steps: counts what it costs and gives its sequences back, however it ends. Nothing
    of it keeps it alive in turn, so that a model goes with its last reference."""

    def __init__(self, model: Model, prompts: Prompts, how: Resolved, adapted: list[Chosen]) -> None:
        """adapted: what each prompt has, of which there are how.copies in prompts. Raises ArgumentError and ContextOverflowError
        before anything is computed."""
        self._model, self.prompts, self.how = model, prompts, how
        self._adapted = [chosen for chosen in adapted for _ in range(how.copies)]
        self._parts: list[Part] = parts_of(prompts, how, model.n_ctx, model.config.max_position_embeddings)
        self._check_scores()
        self._meter = CallMeter()
        self._last_end = 0.0  # of a pass

    def _check_scores(self) -> None:
        """What is handed out is made step by step, so whether there is room for all of it is asked here."""
        asked = self.how.shaping or UNSHAPED
        steps = max(limit for limit, _ in self._parts)
        need = 4 * (asked.scores + asked.logits) * steps * len(self._parts) * self._model.config.vocab_size
        if need and need > (free := self._model._free()):
            raise BudgetError(
                f"scores and logits of {steps} steps take {format_size(need)}, of max_ram {format_size(free)} are left; lower "
                f"max_new_tokens, give fewer prompts, or raise max_ram"
            )

    def __enter__(self) -> _Running:
        model = self._model
        self._watch = _Watch(model)
        model._check_open()
        self._generation = Generation(
            self.prompts, self.how, self._parts, self._adapted,
            tokenizer=model.tokenizer, pool=model._pool, sample=model._engine.sample,
        )  # fmt: skip
        self._profile = model._profile_of_call()
        self._span = span(model.tokenizer.spans, "generate")
        self._span.__enter__()
        return self

    def __iter__(self) -> Iterator[list[int | None]]:
        return self._generation.steps(self._run)

    @property
    def rows(self) -> list[Row]:
        return self._generation.rows

    @property
    def shaper(self) -> Shaper | None:
        return self._generation.shaper

    def _run(self, items: list[Item], logits: bool) -> _core.Result:
        meter, start = self._meter, self._last_end or time.monotonic()
        phase, otherwise = (meter.decode, _DECODE_HELP) if meter.prompt.passes else (meter.prompt, _PROMPT_HELP)
        result = self._model._run(items, self._watch, lambda: self._advice(otherwise), logits=logits, phase=phase)
        self._last_end = time.monotonic()
        phase.wall_s += self._last_end - start
        return result

    def _advice(self, otherwise: str) -> str:
        """What would let all of it fit, not the next pass alone."""
        return self._model._advice([row.prompt.size + row.limit for row in self.rows], len(self.rows), otherwise)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._span.__exit__(None, None, None)
        self._count()
        self._model._explain(error)
        if self._profile is not None:
            self._profile.end()
            print(self._profile)

    def _count(self) -> None:
        model, meter, generation = self._model, self._meter, self._generation
        if not model._engine.closed:
            generation.close()
            model._memory.sample(now=True)
        meter.prompt_tokens = sum(row.prompt.size for row in generation.rows)
        meter.new_tokens = sum(len(row.new) for row in generation.rows)
        meter.reused_tokens = generation.reused
        with model._lock:
            model._last = meter
            model._reused += generation.reused
        model._learn()
