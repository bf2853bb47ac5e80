"""Adding is one file and one row: a format and an architecture nobody knows run in the engine, and nothing else names one."""

from __future__ import annotations

import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from airpy import _core

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"

# ---- a format of 16 weights: a float32 step, and a signed byte for each ------------------------------------

FORMAT = {
    "quant/formats.def": ("FORMAT( MXFP4,", "FORMAT( DUMMY,   38,  16,   20,  air_decode_dummy,   MATRIX  )\nFORMAT( MXFP4,"),
    "CMakeLists.txt": ("quant/decode_float.c", "quant/decode_dummy.c quant/decode_float.c"),
    "quant/decode_dummy.c": """/* A step and sixteen signed bytes. */
#include <string.h>

#include "quant/format.h"

void air_decode_dummy(const void *src, float *dst, int64_t n_blocks)
{
    const unsigned char *block = src;
    for (int64_t i = 0; i < n_blocks; i++, block += 20, dst += 16) {
        float step;
        memcpy(&step, block, sizeof step);
        for (int j = 0; j < 16; j++) dst[j] = step * (float)(signed char)block[4 + j];
    }
}
""",
}

# ---- an architecture: Llama with rope over halves and norms on the heads -----------------------------------

ARCHITECTURE = {
    "model/archs.def": ("ARCH( llama )", "ARCH( dummy )\nARCH( llama )"),
    "CMakeLists.txt": ("model/arch/llama.c", "model/arch/dummy.c model/arch/llama.c"),
    "model/arch/dummy.c": """/* Rope over halves, and RMS norms on the heads of q and k. */
#include "model/arch.h"

const air_arch air_arch_dummy = {
    .name = "dummy",
    .rope = AIR_ROPE_NEOX,
    .activation = AIR_ACTIVATION_SILU,
    .qk_norm = AIR_QK_NORM_PER_HEAD,
};
""",
}

PROGRAM = r"""/* Opens argv[1], runs the token ids that follow, prints the last one's logits. */
#include <stdio.h>
#include <stdlib.h>

#include "engine/engine.h"

static int fail(const air_error *err)
{
    printf("%s\n", err->text);
    return 1;
}

int main(int argc, char **argv)
{
    air_error err;
    air_gguf_set *set;
    air_engine *e;
    air_sequence *s;
    air_batch *b;
    int32_t ids[64];
    for (int i = 2; i < argc; i++) ids[i - 2] = atoi(argv[i]);
    if (air_gguf_open(&set, argv[1], &err)) return fail(&err);
    air_engine_config config = {.set = set, .max_ram = 16 << 20, .io = AIR_IO_DIRECT, .threads = 2, .cpu_tier = AIR_TIER_COUNT,
                                .state_type = AIR_STATE_F32, .max_pins = 10000};
    if (air_engine_open(&e, &config, &err)) return fail(&err);
    if (air_sequence_new(&s, e, &err)) return fail(&err);
    air_batch_item item = {.sequence = s, .tokens = ids, .n_tokens = argc - 2, .want = 1};
    if (air_batch_submit(&b, e, &(air_batch_request){.items = &item, .n_items = 1}, &err)) return fail(&err);
    for (int done = 0; !done;)
        if (air_batch_wait(b, UINT64_MAX, &done, NULL, &err)) return fail(&err);
    for (int64_t i = 0; i < air_model_hparams(air_engine_model(e))->n_vocab; i++) printf("%.9g\n", (double)air_batch_logits(b)[i]);
    air_batch_free(b);
    air_sequence_free(s);
    air_engine_close(e);
    air_gguf_close(set);
    return 0;
}
"""


def tool(name: str) -> str | None:
    return shutil.which(name, path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")


def apply(source: Path, change: dict[str, object]) -> None:
    assert len(change) <= 3
    for name, what in change.items():
        file = source / "csrc" / name
        if isinstance(what, tuple):
            text = file.read_text()
            assert text.count(what[0]) == 1, f"{name} holds {what[0]!r} {text.count(what[0])} times"
            file.write_text(text.replace(*what))
        else:
            file.write_text(str(what))


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    """The program above over a library with both additions."""
    cmake = tool("cmake")
    if not cmake or not tool(os.environ.get("CC", "cc")):
        pytest.skip("building the library needs cmake and a C compiler")
    source = tmp_path_factory.mktemp("extended")
    shutil.copytree(CSRC, source / "csrc")
    shutil.copy(ROOT / "pyproject.toml", source)
    lists = (ROOT / "CMakeLists.txt").read_text()
    (source / "CMakeLists.txt").write_text(lists + "add_executable(try try.c)\ntarget_link_libraries(try PRIVATE air)\n")
    (source / "try.c").write_text(PROGRAM)
    apply(source, FORMAT)
    apply(source, ARCHITECTURE)
    generator = ["-G", "Ninja"] if tool("ninja") else []
    configure = [cmake, "-S", source, "-B", source / "build", *generator, "-DAIRPY_PYTHON=OFF", "-DAIRPY_CUDA=off", "-DAIRPY_WERROR=ON",
                 "-DCMAKE_BUILD_TYPE=Debug", "-DCMAKE_C_FLAGS=-O0 -g0"]  # fmt: skip
    for command in (configure, [cmake, "--build", source / "build", "--parallel", str(os.cpu_count() or 1), "--target", "try"]):
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    return source / "build" / "try"


def logits(program: Path, model: Path, ids: list[int]) -> np.ndarray:
    done = subprocess.run([program, model, *map(str, ids)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return np.array(done.stdout.split(), np.float64)


def dummy_blocks(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The packed bytes, and the weights they stand for."""
    groups = weights.reshape(*weights.shape[:-1], -1, 16)
    step = (np.abs(groups).max(-1, keepdims=True) / 127).astype(np.float32)
    q = np.rint(groups / step).astype(np.int8)
    packed = np.concatenate([step.view(np.uint8), q.view(np.uint8)], -1)
    return packed.reshape(*weights.shape[:-1], -1), (step * q.astype(np.float32)).reshape(weights.shape)


HEADS, HEAD, EMBED, FF, VOCAB, LAYERS = 4, 8, 32, 48, 40, 2
MATRICES = {"attn_q": (EMBED, EMBED), "attn_k": (EMBED // 2, EMBED), "attn_v": (EMBED // 2, EMBED), "attn_output": (EMBED, EMBED),
          "ffn_gate": (FF, EMBED), "ffn_up": (FF, EMBED), "ffn_down": (EMBED, FF)}  # fmt: skip


def text(string: str) -> bytes:
    return struct.pack("<Q", len(string.encode())) + string.encode()


def write_gguf(path: Path, keys: dict[str, str | int | float], tensors: dict[str, tuple[tuple[int, ...], int, bytes]]) -> None:
    """Version 3; tensors: shape with the contiguous axis last, type id, data."""
    head = bytearray(b"GGUF") + struct.pack("<IQQ", 3, len(tensors), len(keys))
    for key, value in keys.items():
        kind, packed = {str: (8, text), int: (4, struct.Struct("<I").pack), float: (6, struct.Struct("<f").pack)}[type(value)]
        head += text(key) + struct.pack("<I", kind) + packed(value)
    data = bytearray()
    for name, (shape, type_id, raw) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *reversed(shape), type_id, len(data))
        data += raw + bytes(-len(raw) % 32)
    path.write_bytes(head + bytes(-len(head) % 32) + data)


def write_model(path: Path, arch: str, type_id: int) -> Path:
    """A random model with its matrices in the dummy format (38), or the same numbers as float32 (0)."""
    rng = np.random.default_rng(3)
    numbers = {"block_count": LAYERS, "context_length": 64, "embedding_length": EMBED, "feed_forward_length": FF,
               "attention.head_count": HEADS, "attention.head_count_kv": HEADS // 2,
               "attention.layer_norm_rms_epsilon": 1e-5}  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (VOCAB, EMBED), "output_norm.weight": (EMBED,)}
    for i in range(LAYERS):
        shapes |= {f"blk.{i}.{name}.weight": shape for name, shape in MATRICES.items()}
        shapes |= {f"blk.{i}.{name}.weight": (EMBED,) for name in ("attn_norm", "ffn_norm")}
        shapes |= {f"blk.{i}.{name}.weight": (HEAD,) for name in ("attn_q_norm", "attn_k_norm")}
    tensors = {}
    for name, shape in shapes.items():
        data = (rng.standard_normal(shape) * 0.2 + (len(shape) == 1)).astype(np.float32)
        packed, exact = dummy_blocks(data) if len(shape) == 2 else (data, data)
        tensors[name] = (shape, type_id, packed.tobytes()) if len(shape) == 2 and type_id else (shape, 0, exact.tobytes())
    write_gguf(path, {"general.architecture": arch} | {f"{arch}.{key}": value for key, value in numbers.items()}, tensors)
    return path


@pytest.mark.timeout(300)  # the first test builds
def test_a_new_format_and_a_new_architecture_run_together(extended, tmp_path):
    """The dummy architecture is Qwen3 by another name, the dummy format's weights are known as float32: so are the logits."""
    ids = [(i * 7 + 3) % VOCAB for i in range(20)]
    engine = _core.Engine(_core.GGUF(write_model(tmp_path / "known.gguf", "qwen3", 0)), max_ram=16 << 20, kv_dtype="f32")
    want = np.array(engine.run([(engine.sequence(), np.array(ids, np.int32), 1, None, 0)], logits=True).logits)[0]
    engine.close()
    got = logits(extended, write_model(tmp_path / "new.gguf", "dummy", 38), ids)
    assert want.std() > 0.1
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5)


def test_the_new_names_are_unknown_without_their_files(tmp_path):
    with pytest.raises(_core.UnsupportedError, match='"dummy" is unsupported'):
        _core.Engine(_core.GGUF(write_model(tmp_path / "m.gguf", "dummy", 0)))
    with pytest.raises(_core.UnsupportedError, match="38"):
        _core.GGUF(write_model(tmp_path / "m.gguf", "qwen3", 38))


# ---- no other place names one ------------------------------------------------------------------------------

# Where names belong: the tables, the blocks of a format and their decoders, the kernels, an architecture's own file.
MAY_NAME_FORMATS = ("quant/", "kernels/")
MAY_NAME_ARCHITECTURES = ("model/arch/", "model/archs.def")
# F32 is what activations are, not a weight's format among others: everything decodes to it.
FORMAT_NAME = re.compile(r"\bAIR_TYPE_(?!COUNT\b|F32\b)\w+|\"(?:" + "|".join(n for n, *_ in _core.FORMATS) + r")\"")
ARCHITECTURE_NAME = re.compile(
    r"\"(?:" + "|".join(_core.ARCHITECTURES) + r")[\".]|\bair_arch_(?:" + "|".join(_core.ARCHITECTURES) + r")\b"
)
COMMENT = re.compile(r"/\*.*?\*/|//[^\n]*", re.DOTALL)


def naming(pattern: re.Pattern[str], allowed: tuple[str, ...]) -> list[str]:
    """FILE: NAME for each place outside of allowed and of comments."""
    files = [
        p
        for p in sorted(CSRC.rglob("*"))
        if p.suffix in {".c", ".h", ".def"} and not p.relative_to(CSRC).as_posix().startswith(allowed)
    ]
    assert len(files) > 40
    return [f"{p.relative_to(CSRC)}: {found}" for p in files for found in pattern.findall(COMMENT.sub("", p.read_text()))]


def test_only_tables_and_kernels_name_a_format():
    assert not naming(FORMAT_NAME, MAY_NAME_FORMATS)


def test_only_its_own_file_names_an_architecture():
    assert not naming(ARCHITECTURE_NAME, MAY_NAME_ARCHITECTURES)


@pytest.mark.parametrize(("code", "pattern"), [
    ("if (w->type == AIR_TYPE_Q4_K) return;", FORMAT_NAME), ('if (!strcmp(name, "Q8_0"))', FORMAT_NAME),
    ('if (strcmp(arch, "llama") == 0)', ARCHITECTURE_NAME), ("b->arch == &air_arch_qwen2", ARCHITECTURE_NAME),
    ('get("llama.rope.freq_base")', ARCHITECTURE_NAME),
])  # fmt: skip
def test_such_names_would_be_found(code, pattern):
    assert pattern.search(code)
