"""llama.cpp, or its fork ik_llama.cpp, on one model, timed pass by pass: what the benchmarks hold airpy against.

    PYTHON tests/bench/peer_llama_cpp.py MODEL --threads 2 --prompt 512 --new 32 --repack off

PYTHON is one that has llama-cpp-python, best built where it runs (pip install --no-binary llama-cpp-python, with
CMAKE_ARGS=-DGGML_NATIVE=ON), or ik-llama-cpp-python. It prints one JSON object, so that a benchmark can run it in turns with airpy,
each in a process and, where memory is limited, a control group of its own. Greedy, on the CPU alone, through llama_decode on
arrays of tokens.

--repack off keeps weights as they are in the file. With it on, llama.cpp copies many formats into another order, in memory of
its own: quicker while they fit, hopeless in a group smaller than the model. (Built with -DGGML_CPU_REPACK=OFF there is no copy
either way.) --load auto, mmap, direct (read once, into memory of its own) and none (the same, buffered) are llama.cpp's ways to open
a file; the fork knows mmap and none. --sequences N decodes N texts together, one token of each in a pass, each after a prompt of its
own; several numbers are timed one after the other, each under "texts".
"""
from __future__ import annotations

import argparse
import ctypes
import json
import resource
import statistics
import sys
import time
from typing import Any

import numpy as np
import numpy.typing as npt

try:
    import llama_cpp
    IS_FORK = False
except ImportError:                                 # of the same calls, but for what the functions below hide
    from ik_llama_cpp import _ctypes_api as llama_cpp
    IS_FORK = True

Ids = npt.NDArray[np.int32]
LOAD_MODES = {"auto": "AUTO", "mmap": "MMAP", "direct": "DIRECT_IO", "none": "NONE"}


def peer_name() -> str:
    if IS_FORK:
        from ik_llama_cpp import __version__

        return f"ik-llama-cpp-python {__version__}"
    return f"llama-cpp-python {llama_cpp.__version__}"


def library() -> ctypes.CDLL:
    """The shared library, for calls without a binding."""
    return llama_cpp._lib if IS_FORK else llama_cpp.llama_cpp._lib


def be_quiet() -> Any:
    """Nothing is logged while what this returns lives."""
    silence = ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_char_p, ctypes.c_void_p)(lambda level, text, user_data: None)
    library().llama_log_set(silence, ctypes.c_void_p(0))
    return silence


def model_params(args: argparse.Namespace) -> Any:
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = 0
    if IS_FORK:
        if args.load not in ("mmap", "none"):
            raise RuntimeError(f"the fork cannot --load {args.load}")
        params.use_mmap, params.repack_tensors = args.load == "mmap", args.repack == "on"
    else:
        params.load_mode = getattr(llama_cpp, f"LLAMA_LOAD_MODE_{LOAD_MODES[args.load]}")
        params.use_extra_bufts = args.repack == "on"
    return params


def repacks(args: argparse.Namespace) -> bool:
    return bool(args.repack == "on" and (IS_FORK or b"REPACK = 1" in llama_cpp.llama_print_system_info()))


def bytes_read() -> int:
    """From disks so far, read ahead or not: of this process."""
    with open("/proc/self/io") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("read_bytes"))


class Peer:
    """A model and a context of llama.cpp; close() frees both."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._model = llama_cpp.llama_model_load_from_file(args.model.encode(), model_params(args))
        if not self._model:
            raise RuntimeError(f"llama.cpp does not load {args.model}")
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = args.ctx or max(args.sequences) * (args.prompt + args.new + 1)
        params.n_batch, params.n_ubatch = args.batch, min(args.batch, args.ubatch)
        params.n_seq_max = max(args.sequences)
        if args.kv != "auto":
            params.type_k = params.type_v = {"f16": llama_cpp.GGML_TYPE_F16, "q8_0": llama_cpp.GGML_TYPE_Q8_0}[args.kv]
            params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
        params.n_threads = params.n_threads_batch = args.threads
        if IS_FORK:                                 # its flash attention stops the process where a sequence sees nothing of a block
            params.flash_attn = max(args.sequences) == 1
        else:
            params.kv_unified = True                # sequences share the n_ctx positions, as they come; the fork knows nothing else
        self._context = llama_cpp.llama_init_from_model(self._model, params)
        if not self._context:
            raise RuntimeError(f"llama.cpp makes no context of {params.n_ctx} positions for {args.model}")
        self._batch = llama_cpp.llama_batch_init(args.batch, 0, 1)
        library().llama_n_batch.argtypes = [ctypes.c_void_p]
        self.vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self.batch_size = int(library().llama_n_batch(self._context))      # no more than n_ctx; it aborts beyond

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """One call of llama_decode over rows of (token, position, sequence, wants logits); the likeliest next token of each
        row that wants it, in order."""
        b = self._batch
        b.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            b.token[i], b.pos[i], b.n_seq_id[i], b.seq_id[i][0], b.logits[i] = token, position, 1, sequence, wanted
        status = llama_cpp.llama_decode(self._context, b)
        if status:
            raise RuntimeError(f"llama_decode returned {status} for {len(rows)} tokens")
        # Waits for the pass, where it was only queued.
        return [int(np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(self._context, i), (self.vocab,)).argmax())
                for i, row in enumerate(rows) if row[3]]

    def clear(self) -> None:
        """Forgets every sequence."""
        if IS_FORK:
            llama_cpp.llama_kv_cache_clear(self._context)
        else:
            llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)

    def share(self, source: int, to: int) -> None:
        """The positions of one sequence are another's too."""
        llama_cpp.llama_memory_seq_cp(llama_cpp.llama_get_memory(self._context), source, to, -1, -1)

    def forget(self, sequence: int, position: int) -> None:
        """What a sequence holds from a position on."""
        llama_cpp.llama_memory_seq_rm(llama_cpp.llama_get_memory(self._context), sequence, position, -1)

    def close(self) -> None:
        llama_cpp.llama_batch_free(self._batch)
        llama_cpp.llama_free(self._context)
        (llama_cpp.llama_free_model if IS_FORK else llama_cpp.llama_model_free)(self._model)


def prefill(peer: Peer, prompts: Ids) -> list[int]:
    """Reads the prompts, int32 [sequences, n], in batches that mix sequences; each one's next token."""
    last = prompts.shape[1] - 1
    rows = [(int(t), i, s, i == last) for s, prompt in enumerate(prompts) for i, t in enumerate(prompt)]
    out: list[int] = []
    for at in range(0, len(rows), peer.batch_size):
        out += peer.decode(rows[at:at + peer.batch_size])
    return out


def timed(peer: Peer, prompts: Ids, new: int, drawn: Ids | None = None) -> dict[str, Any]:
    """Seconds of the prompt and of every pass after it, and the tokens chosen. drawn: what follows the prompts in their place."""
    start = time.perf_counter()
    tokens = [prefill(peer, prompts)]
    prompt_s = time.perf_counter() - start
    passes, began = [], bytes_read()
    for position in range(prompts.shape[1], prompts.shape[1] + new - 1):
        start = time.perf_counter()
        row = tokens[-1] if drawn is None else [int(t) for t in drawn[:, position - prompts.shape[1]]]
        tokens.append(peer.decode([(t, position, s, True) for s, t in enumerate(row)]))
        passes.append(time.perf_counter() - start)
    sequences = len(prompts)
    median = statistics.median(passes) if passes else None
    return {"prefill_s": prompt_s, "prefill_tok_s": prompts.size / prompt_s, "pass_s": passes, "pass_s_median": median,
            "pass_bytes": (bytes_read() - began) / len(passes) if passes else None,
            "decode_tok_s": sequences / median if median else None,
            "ids": [[step[s] for step in tokens] for s in range(sequences)]}


def at_depth(peer: Peer, depth: int, args: argparse.Namespace) -> dict[str, float]:
    """A pass of one token and one of args.chunk tokens behind depth others, in sequence 0. Those are read as texts of 512 tokens, each
    of which sees but itself, and then made sequence 0's: reading them as one would take minutes."""
    ids = [int(t) for t in np.random.default_rng(args.seed).integers(3, peer.vocab, max(512, args.chunk))]
    peer.clear()
    for at in range(0, depth, 512):
        other = 1 + at // 512
        peer.decode([(t, at + i, other, i == 511) for i, t in enumerate(ids[:512])])
        peer.share(other, 0)
    passes = []
    for position in range(depth, depth + args.new + 1):
        start = time.perf_counter()
        peer.decode([(3, position, 0, True)])
        passes.append(time.perf_counter() - start)
    peer.forget(0, depth)
    start = time.perf_counter()
    peer.decode([(t, depth + i, 0, i == args.chunk - 1) for i, t in enumerate(ids[:args.chunk])])
    return {"decode_s": statistics.median(passes[1:]), "prompt_s": time.perf_counter() - start}


def measure(peer: Peer, args: argparse.Namespace, sequences: int) -> dict[str, Any]:
    """What `timed` says of the prompts asked for, after the passes that warm up."""
    if args.depths:
        return {"depths": {str(d): at_depth(peer, d, args) for d in args.depths}}
    if args.ids:
        prompts = np.array([args.ids] * sequences, np.int32)
    else:
        prompts = np.random.default_rng(args.seed).integers(3, peer.vocab, (sequences, args.prompt), np.int32)
    drawn = np.random.default_rng(args.draw).integers(3, peer.vocab, (sequences, args.new), np.int32) if args.draw else None
    for position in range(args.warm):
        peer.decode([(3, position, 0, True)])
    peer.clear()
    return timed(peer, prompts, args.new, drawn)


def arguments() -> argparse.Namespace:
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("model")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--prompt", type=int, default=16, metavar="N", help="tokens of each prompt, drawn from --seed")
    ap.add_argument("--new", type=int, default=16, metavar="N", help="tokens to choose after it")
    ap.add_argument("--sequences", type=int, nargs="+", default=[1], metavar="N")
    ap.add_argument("--load", choices=LOAD_MODES, default="mmap")
    ap.add_argument("--repack", choices=("on", "off"), default="on")
    ap.add_argument("--ctx", type=int, default=0, metavar="N", help="positions of all sequences together; 0: just enough")
    ap.add_argument("--batch", type=int, default=2048, metavar="N", help="tokens given to one llama_decode")
    ap.add_argument("--ubatch", type=int, default=512, metavar="N", help="tokens computed together, each reading all weights")
    ap.add_argument("--ids", metavar="ID,…", type=lambda text: [int(t) for t in text.split(",")],
                    help="this prompt, the same for every sequence")
    ap.add_argument("--warm", type=int, default=0, metavar="N", help="passes of one token before the timing")
    ap.add_argument("--kv", choices=("auto", "f16", "q8_0"), default="auto", help="type of K and V, with flash attention; auto: its own")
    ap.add_argument("--depths", metavar="N,…", type=lambda text: [int(n) for n in text.split(",")], default=[],
                    help="instead of a text: passes of one token and of --chunk behind so many others")
    ap.add_argument("--chunk", type=int, default=512, metavar="N")
    ap.add_argument("--draw", type=int, default=0, metavar="SEED", help="what follows the prompts is drawn, not chosen: of random "
                    "weights a chosen text soon repeats itself, and so do the experts")
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    if args.depths:
        args.ctx, args.sequences = max(args.depths) + 2 * args.chunk, [1 + max(args.depths) // 512]
    args.prompt = len(args.ids) if args.ids else args.prompt
    return args


def main() -> int:
    args = arguments()
    quiet = be_quiet()
    start = time.perf_counter()
    try:
        peer = Peer(args)
    except RuntimeError as error:
        print(f"peer: {error}", file=sys.stderr)
        return 1
    load_s = time.perf_counter() - start
    try:
        texts = {}
        for n in args.sequences:
            texts[n] = measure(peer, args, n)
            peer.clear()
    except RuntimeError as error:
        print(f"peer: {error}", file=sys.stderr)
        return 1
    finally:
        peer.close()
        del quiet
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"peer": peer_name(), "load": args.load, "repack": repacks(args),
                      "threads": args.threads, "prompt_tokens": args.prompt, "load_s": load_s,
                      **(texts[args.sequences[0]] if len(texts) == 1 else {"texts": texts}),
                      "rss_peak": used.ru_maxrss * 1024, "major_faults": used.ru_majflt}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
