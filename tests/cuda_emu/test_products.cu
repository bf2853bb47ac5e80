/* Products on the device, and the 8-bit form of what they read, against the portable CPU (csrc/kernels/ref): every format that may be a
 * matrix, by what formats.def says. */
#include "cuda/kernels.h"
#include "kernel_check.h"

extern "C" {
#include "weights.h"
}

static const air_ops *ops;
static GuardedArray<uint8_t> *tables;

static double unit() { return (double)(check_random() >> 11) * 0x1p-53; }

static float gaussian()
{
    double sum = -6;
    for (int i = 0; i < 12; i++) sum += unit();
    return (float)sum;
}

enum input_kind { INPUT_GAUSSIAN, INPUT_ZERO, INPUT_EQUAL, INPUT_NEGATIVE, INPUT_HUGE, INPUT_TINY, INPUT_OUTLIERS, INPUT_KINDS };

static float input_value(int kind)
{
    switch (kind) {
    case INPUT_ZERO: return check_random() & 1 ? 0.0f : -0.0f;
    case INPUT_EQUAL: return 1.5f; /* every q is 127 */
    case INPUT_NEGATIVE: return -1.5f;
    case INPUT_HUGE: return gaussian() * 1e20f;
    case INPUT_TINY: return gaussian() * 1e-20f;
    case INPUT_OUTLIERS: return gaussian() * (check_random() % 64 ? 1.0f : 1000.0f);
    default: return gaussian();
    }
}

/* --- quantising --- */

/* The CPU's 8-bit form, and the memory it lies in. */
struct host_q8 {
    std::vector<uint8_t> memory;
    air_q8 at;

    host_q8(const std::vector<float> &x, int64_t k, int64_t n) : memory(air_q8_bytes(k, n) + 64)
    {
        at = air_q8_place((void *)(((uintptr_t)memory.data() + 63) / 64 * 64), k, n);
        for (int64_t c = 0; c < n; c++) ops->quantize(&x[(size_t)(c * k)], k, air_q8_at(at, k, c, 0));
    }
};

struct device_q8 {
    GuardedArray<uint8_t> memory;
    air_cuda_q8 at;

    device_q8(const std::vector<float> &x, int64_t k, int64_t n)
        : memory(air_cuda_q8_bytes(k, n)), at(air_cuda_q8_place(memory.get(), k, n))
    {
        GuardedArray<float> in(x);
        check_launch(air_cuda_quantize(in.get(), k, n, at, 0));
        CHECK(memory.guarded());
    }

    bool is(const air_q8 &want, int64_t k, int64_t n) const
    {
        std::vector<uint8_t> got = memory.read();
        const uint8_t *base = memory.get();
        return memcmp(&got[(size_t)((uint8_t *)at.q - base)], want.q, (size_t)(n * k)) == 0
               && memcmp(&got[(size_t)((uint8_t *)at.sums - base)], want.sums, (size_t)(n * k / AIR_Q8_SUM_GROUP) * 2) == 0
               && memcmp(&got[(size_t)((uint8_t *)at.scale - base)], want.scale, (size_t)(n * k / AIR_Q8_GROUP) * 4) == 0;
    }
};

static void check_quantize(const std::vector<float> &x, int64_t k)
{
    int64_t n = (int64_t)x.size() / k;
    host_q8 want(x, k, n);
    in_every_order([&] { CHECK(device_q8(x, k, n).is(want.at, k, n)); });
}

TEST(quantised_activations_are_those_of_the_cpu)
{
    for (int kind = 0; kind < INPUT_KINDS; kind++)
        for (int64_t k : {32, 64, 416, 4096}) {
            std::vector<float> x((size_t)(3 * k));
            for (float &each : x) each = input_value(kind);
            check_quantize(x, k);
        }
}

static float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* Each in a group of its own, among zeros and among ordinary numbers; halves that round to even among them. */
TEST(quantised_extremes_are_those_of_the_cpu)
{
    const uint32_t bits[] = {
        0x80000000, 1, 0x00800000, 0x087fffff, 0x08800000, 0x88800001, 0x7f7fffff, 0xff7fffff, 0x7f800000, 0xff800000, 0x7fc00000,
        0x7f800001, 0xffc12345,
    };
    std::vector<float> x;
    for (uint32_t each : bits)
        for (int among = 0; among < 2; among++)
            for (int i = 0; i < 32; i++) x.push_back(i == 13 ? float_of(each) : among ? gaussian() : 0.0f);
    for (int i = 0; i < 32; i++) x.push_back(i ? (float)i - 15.5f : 127.0f);
    check_quantize(x, (int64_t)x.size());
    check_quantize(x, 32);
}

TEST(a_group_of_part_of_the_width_is_refused)
{
    GuardedArray<float> x(48);
    CHECK_EQ(air_cuda_quantize(x.get(), 48, 1, {nullptr, nullptr, nullptr}, 0), cudaErrorInvalidValue);
}

/* --- products --- */

struct problem {
    const air_format *format;
    int64_t rows, k, n;
    size_t shift, row_bytes; /* where the first row begins, and how far apart they are */
    std::vector<uint8_t> w;
    std::vector<float> x;

    problem(const air_format *f, int64_t rows_, int64_t k_, int64_t n_, int weights = WEIGHTS_PLAIN, int input = INPUT_GAUSSIAN)
        : format(f), rows(rows_), k(k_), n(n_), shift(0), row_bytes((size_t)(k_ / f->block) * f->bytes)
    {
        w.resize((size_t)rows * row_bytes);
        x.resize((size_t)(n * k));
        weights_fill(w.data(), f, rows * k, (weights_kind)weights, check_random);
        for (float &each : x) each = input_value(input);
    }

    bool is_q8() const { return air_device_input(format->id) == AIR_INPUT_Q8; }

    /* The rows from first on, with columns from c on. */
    problem part(int64_t first, int64_t rows_, int64_t c, int64_t n_) const
    {
        problem p = *this;
        p.rows = rows_, p.n = n_;
        p.w.assign(w.begin() + first * (int64_t)row_bytes, w.begin() + (first + rows_) * (int64_t)row_bytes);
        p.x = part_of(x, c * k, n_ * k);
        return p;
    }
};

/* Weights as they lie on the device: shifted, rows apart, the gaps and ends garbage. */
static std::vector<uint8_t> laid_out(const problem &p, size_t row_bytes)
{
    std::vector<uint8_t> w(p.shift + (size_t)p.rows * row_bytes, (uint8_t)0xff);
    for (int64_t r = 0; r < p.rows; r++) memcpy(&w[p.shift + (size_t)r * row_bytes], &p.w[(size_t)r * p.row_bytes], p.row_bytes);
    return w;
}

struct settings {
    air_cuda_role role = AIR_CUDA_DECODE;
    air_cuda_epilogue epilogue = {};
    const std::vector<float> *bias = nullptr, *before = nullptr; /* out before, [n][rows] */
    int64_t gap = 2;
    size_t row_gap = 0; /* bytes from one row to the next beyond its own */
    int64_t heads = 1;  /* the problem's rows and columns are all of theirs, one head's after the other's; without gaps */
};

/* [n][rows]; checks that nothing else was written. */
static std::vector<float> on_device(const problem &p, const settings &s = settings())
{
    int64_t stride = s.heads > 1 ? p.rows : p.rows + s.gap;
    std::vector<float> all((size_t)(p.n * stride), -77.0f), bias = s.bias ? *s.bias : std::vector<float>(1);
    for (int64_t i = 0; s.before && i < p.n * p.rows; i++) all[(size_t)(i / p.rows * stride + i % p.rows)] = (*s.before)[(size_t)i];

    std::vector<uint8_t> w_before = laid_out(p, p.row_bytes + s.row_gap);
    GuardedArray<uint8_t> w(w_before);
    GuardedArray<float> x(p.x), out(all), b(bias);
    device_q8 q8(p.is_q8() ? p.x : std::vector<float>(32), p.is_q8() ? p.k : 32, p.is_q8() ? p.n : 1);
    air_cuda_product product = {};
    product.type = p.format->id, product.role = s.role, product.w = w.get() + p.shift, product.row_bytes = p.row_bytes + s.row_gap;
    product.rows = p.rows / s.heads, product.k = p.k, product.n = p.n / s.heads;
    product.heads = s.heads, product.head_columns = product.n, product.head_out = product.rows;
    product.x = x.get(), product.q8 = q8.at, product.bias = s.bias ? b.get() : nullptr;
    product.epilogue = s.epilogue, product.out = out.get(), product.out_stride = stride, product.tables = tables->get();
    check_launch(air_cuda_product_run(&product, 0));

    CHECK(out.guarded() && w.guarded() && x.guarded() && b.guarded() && same_bits(w.read(), w_before));
    std::vector<float> got = out.read(), y;
    for (int64_t i = 0; i < p.n * stride; i++) {
        if (i % stride < p.rows) y.push_back(got[(size_t)i]);
        else CHECK(got[(size_t)i] == -77.0f);
    }
    return y;
}

static std::vector<float> on_cpu(const problem &p)
{
    std::vector<float> y((size_t)(p.n * p.rows));
    host_q8 q8(p.is_q8() ? p.x : std::vector<float>(32), p.is_q8() ? p.k : 32, p.is_q8() ? p.n : 1);
    air_columns columns = {p.k, p.n, p.x.data(), (size_t)p.k, q8.at};
    ops->product[p.format->id].fn(p.w.data(), p.row_bytes, p.rows, &columns, y.data(), (size_t)p.rows);
    return y;
}

/* What errors are measured against: the sum of want^2, where each counts at least what random signs would give, the sum of its terms'
 * squares: a lone result near zero is no error. Nor is the rounding of an offset that weights of 0 were given beside a scale of 1. */
static double norm_of(const problem &p, const std::vector<float> &want, double least)
{
    double norm = 0;
    std::vector<float> row((size_t)p.k);
    for (int64_t r = 0; r < p.rows; r++) {
        p.format->decode(&p.w[(size_t)r * p.row_bytes], row.data(), p.k / p.format->block);
        for (int64_t c = 0; c < p.n; c++) {
            double squares = 0, y = (double)want[(size_t)(c * p.rows + r)];
            for (int64_t i = 0; i < p.k; i++) {
                double x = (double)p.x[(size_t)(c * p.k + i)], w = fmax(fabs((double)row[(size_t)i]), least);
                squares += w * w * x * x;
            }
            norm += fmax(y * y, squares);
        }
    }
    return norm;
}

static void check_product(const problem &p, int weights, const std::vector<float> &got)
{
    std::vector<float> want = on_cpu(p);
    double off = 0, norm = norm_of(p, want, weights >= WEIGHTS_ONES ? 0.125 : 0), most = p.is_q8() ? 1e-10 : 1e-12;
    for (size_t i = 0; i < want.size(); i++) off += ((double)got[i] - (double)want[i]) * ((double)got[i] - (double)want[i]);
    bool is_near = off <= most * norm;
    if (!is_near)
        printf("  %s %lld x %lld, %lld columns, weights %d: NMSE %.3g\n", p.format->name, (long long)p.rows, (long long)p.k, (long long)p.n,
               weights, off / norm);
    CHECK(is_near);
}

template <class F> static void for_each_format(F test)
{
    for (size_t i = 0; i < air_format_count(); i++)
        if (air_format_at(i)->role == AIR_FORMAT_MATRIX) test(air_format_at(i));
}

TEST(every_format_of_a_matrix_has_a_product)
{
    for (uint32_t type = 0; type < 2 * AIR_TYPE_COUNT; type++) {
        const air_format *f = air_format_by_id(type);
        CHECK_EQ(air_cuda_product_supports(type), f && f->role == AIR_FORMAT_MATRIX);
        if (f && f->role == AIR_FORMAT_MATRIX) CHECK_EQ(air_device_input(type), ops->product[type].input);
    }
}

TEST(products_are_those_of_the_cpu)
{
    for_each_format([](const air_format *f) {
        int64_t block = f->block < 32 ? 32 : f->block, longest = (4096 / block + 1) * block;
        for (int64_t n : {1, 2, 3, 4, 5, 6, 7, 8, 9, 17})
            for (int64_t k : {block, 3 * block, n == 1 || n == 8 ? longest : 5 * block}) {
                problem p(f, 1 + (int64_t)(check_random() % 4) * 2, k, n);
                check_product(p, WEIGHTS_PLAIN, on_device(p));
            }
    });
}

TEST(products_do_not_depend_on_the_order_of_threads)
{
    for_each_format([](const air_format *f) {
        int64_t k = f->block < 256 ? 1280 : 5 * 256;
        problem p(f, 5, k, 3);
        std::vector<float> first = on_device(p);
        in_every_order([&] { CHECK(same_bits(on_device(p), first)); });
    });
}

/* The n rows of results have those of all heads side by side: what is behind them, of as many columns as there are, stays. */
static void check_heads(const air_format *f, int64_t rows, int64_t n, air_cuda_role role)
{
    const int64_t heads = 3;
    problem all(f, heads * rows, f->block * 2, heads * n);
    settings s;
    s.role = role, s.gap = 0;
    settings by_heads = s;
    by_heads.heads = heads;
    std::vector<float> got = on_device(all, by_heads);
    for (int64_t h = 0; h < heads; h++) {
        std::vector<float> want = on_device(all.part(h * rows, rows, h * n, n), s);
        for (int64_t c = 0; c < n; c++)
            CHECK(same_bits(part_of(got, c * heads * rows + h * rows, rows), part_of(want, c * rows, rows)));
    }
    CHECK(got[(size_t)(n * heads * rows)] == -77.0f);
}

TEST(matrices_of_heads_have_the_bits_of_each_alone)
{
    for_each_format([](const air_format *f) {
        check_heads(f, 5, 1, AIR_CUDA_DECODE);
        check_heads(f, 5, 9, AIR_CUDA_DECODE);
        without_tensor_cores device;
        check_heads(f, 70, 3, AIR_CUDA_PROMPT);
    });
    check_heads(air_format_by_id(AIR_TYPE_Q8_0), 70, 3, AIR_CUDA_PROMPT);
    check_heads(air_format_by_id(AIR_TYPE_F16), 70, 3, AIR_CUDA_PROMPT);
}

TEST(extreme_weights_and_activations_have_their_products)
{
    for_each_format([](const air_format *f) {
        int64_t k = f->block < 256 ? 96 * (f->block == 64 ? 2 : 1) : 512;
        for (int weights = 0; weights < WEIGHTS_KINDS; weights++)
            for (int input = 0; input < INPUT_KINDS; input++) {
                if (f->block == 1 && weights == WEIGHTS_HUGE && input == INPUT_HUGE) continue;
                problem p(f, 3, k, 2, weights, input);
                check_product(p, weights, on_device(p));
            }
    });
}

/* Every place and stride of rows, from any address; the bits are those of aligned ones. */
TEST(rows_may_begin_anywhere)
{
    for_each_format([](const air_format *f) {
        problem p(f, 3, f->block < 256 ? 192 : 512, 2);
        std::vector<float> aligned = on_device(p);
        check_product(p, WEIGHTS_PLAIN, aligned);
        for (size_t shift = 0; shift < 16; shift++) {
            settings s;
            p.shift = shift;
            s.row_gap = check_random() % 2 ? 0 : check_random() % 19;
            CHECK(same_bits(on_device(p, s), aligned));
        }
    });
}

/* Only numbers have rows that are no whole groups. */
TEST(rows_of_numbers_may_have_any_length)
{
    for (uint32_t type : {AIR_TYPE_F32, AIR_TYPE_F16, AIR_TYPE_BF16})
        for (int64_t k : {1, 2, 3, 7, 8, 9, 31, 100, 1003, 1004}) {
            problem p(air_format_by_id(type), 3, k, 3);
            check_product(p, WEIGHTS_PLAIN, on_device(p));
        }
}

/* Invariant 1. A row and a column alone have the bits that they have among others, however many. */
TEST(the_bits_of_a_result_are_its_rows_and_columns_alone)
{
    for_each_format([](const air_format *f) {
        int64_t block = f->block < 32 ? 32 : f->block, k = (1400 / block + 1) * block;
        problem all(f, 7, k, 17);
        std::vector<float> together = on_device(all);
        auto check_part = [&](int64_t first, int64_t rows, int64_t c, int64_t n) {
            std::vector<float> got = on_device(all.part(first, rows, c, n)), want;
            for (int64_t i = 0; i < n * rows; i++) want.push_back(together[(size_t)((c + i / rows) * all.rows + first + i % rows)]);
            CHECK(same_bits(got, want));
        };
        for (int64_t n = 1; n <= 9; n++) check_part(0, 7, 17 - n, n);
        for (int64_t c = 0; c < 17; c += 5) check_part(c % 7, 1, c, 1);
        check_part(3, 4, 2, 11);
    });
}

/* So many that a warp has rows of its own, with rows long enough for whole chunks of pieces and some over. */
static void check_many_rows(const air_format *f, int64_t k)
{
    const int64_t rows = 4099;
    problem some(f, 13, k, 1), many = some;
    many.rows = rows;
    many.w.resize((size_t)rows * many.row_bytes);
    for (int64_t r = 0; r < rows; r++)
        memcpy(&many.w[(size_t)r * many.row_bytes], &some.w[(size_t)(r % 13) * some.row_bytes], some.row_bytes);
    std::vector<float> few = on_device(some), got = on_device(many);
    bool same = true;
    for (int64_t r = 0; r < rows; r++) same &= memcmp(&got[(size_t)r], &few[(size_t)(r % 13)], sizeof(float)) == 0;
    CHECK(same);
}

TEST(many_rows_have_the_bits_of_few)
{
    for_each_format([](const air_format *f) { check_many_rows(f, f->block < 256 ? 128 : 512); });
    for (uint32_t type : {AIR_TYPE_Q8_0, AIR_TYPE_F16}) check_many_rows(air_format_by_id(type), type == AIR_TYPE_Q8_0 ? 2144 : 1160);
    check_many_rows(air_format_by_id(AIR_TYPE_Q6_K), 4352);
}

static double exact_activation(double x, air_activation f)
{
    if (f == AIR_ACTIVATION_SILU) return x / (1 + exp(-x));
    if (f == AIR_ACTIVATION_GELU) return x / (1 + exp(-2 * sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    if (f == AIR_ACTIVATION_GELU_ERF) return x / 2 * erfc(-x / sqrt(2.0));
    if (f == AIR_ACTIVATION_RELU2) return fmax(x, 0) * fmax(x, 0);
    if (f == AIR_ACTIVATION_SWIGLU_OAI) return fmin(x, 7) / (1 + exp(-1.702 * fmin(x, 7)));
    if (f == AIR_ACTIVATION_SIGMOID) return 1 / (1 + exp(-x));
    return x;
}

static double exact_gated(double gate, double up, air_activation f)
{
    return exact_activation(gate, f) * (f == AIR_ACTIVATION_SWIGLU_OAI ? fmin(fmax(up, -7), 7) + 1 : up);
}

static float folded_on_cpu(float r, const float *bias, const air_cuda_epilogue &e, float held)
{
    if (bias) r += *bias;
    if (e.scale != 0) r *= e.scale;
    if (e.clamp != 0) r = r > e.clamp ? e.clamp : r < -e.clamp ? -e.clamp : r;
    if (e.softcap != 0) r = (float)((double)e.softcap * tanh((double)r / (double)e.softcap));
    if (e.kind == AIR_EPILOGUE_ADD) return held + r;
    if (e.kind == AIR_EPILOGUE_GATED) return (float)exact_gated((double)held, (double)r, e.activation);
    return (float)exact_activation((double)r, e.activation);
}

static void check_epilogue(const problem &p, air_cuda_role role, const std::vector<float> &plain, const air_cuda_epilogue &e, bool has_bias)
{
    std::vector<float> bias = random_floats(p.rows, 2), before = random_floats(p.n * p.rows, 3), want;
    settings s;
    s.role = role, s.epilogue = e, s.bias = has_bias ? &bias : nullptr, s.before = &before, s.gap = p.n % 3;
    for (size_t i = 0; i < plain.size(); i++)
        want.push_back(folded_on_cpu(plain[i], has_bias ? &bias[i % (size_t)p.rows] : nullptr, e, before[i]));
    bool exact = e.softcap == 0 && (e.kind == AIR_EPILOGUE_ADD || e.activation == AIR_ACTIVATION_NONE);
    check_near(on_device(p, s), want, exact ? 0 : 1e-12, "epilogue");
}

static void check_epilogues(const problem &p, air_cuda_role role)
{
    settings plainly;
    plainly.role = role;
    std::vector<float> plain = on_device(p, plainly);
    for (air_epilogue kind : {AIR_EPILOGUE_SET, AIR_EPILOGUE_ADD, AIR_EPILOGUE_GATED})
        for (int f = 0; f < (kind == AIR_EPILOGUE_ADD ? 1 : AIR_ACTIVATION_COUNT); f++)
            for (bool has_bias : {false, true}) check_epilogue(p, role, plain, {kind, (air_activation)f, 0, 0, 0}, has_bias);
    check_epilogue(p, role, plain, {AIR_EPILOGUE_ADD, AIR_ACTIVATION_NONE, 0.22f, 0, 0}, true);
    check_epilogue(p, role, plain, {AIR_EPILOGUE_ADD, AIR_ACTIVATION_NONE, 0.22f, 0, 0}, false);
    check_epilogue(p, role, plain, {AIR_EPILOGUE_SET, AIR_ACTIVATION_NONE, 0, 0.5f, 0}, true);
    check_epilogue(p, role, plain, {AIR_EPILOGUE_SET, AIR_ACTIVATION_NONE, 0, 0.5f, 0}, false);
    check_epilogue(p, role, plain, {AIR_EPILOGUE_SET, AIR_ACTIVATION_NONE, 0.125f, 0, 3}, false);
}

TEST(epilogues_fold_the_result_and_its_bias_in)
{
    for (uint32_t type : {AIR_TYPE_Q4_K, AIR_TYPE_Q8_0, AIR_TYPE_F16})
        for (int64_t n : {1, 3, 11}) check_epilogues(problem(air_format_by_id(type), 5, 512, n), AIR_CUDA_DECODE);
}

/* Tiles of which rows and columns are missing. */
TEST(epilogues_fold_a_prompts_results_in)
{
    for (uint32_t type : {AIR_TYPE_Q8_0, AIR_TYPE_F16})
        for (int64_t n : {3, 38}) check_epilogues(problem(air_format_by_id(type), n == 3 ? 5 : 67, 32, n), AIR_CUDA_PROMPT);
}

/* --- products of a prompt --- */

static settings prompt()
{
    settings s;
    s.role = AIR_CUDA_PROMPT;
    return s;
}

template <class F> static void for_each_packed_format(F test)
{
    for_each_format([&](const air_format *f) {
        if (f->block > 1) test(f);
    });
}

TEST(products_of_a_prompt_are_those_of_the_cpu)
{
    without_tensor_cores device;
    for_each_packed_format([](const air_format *f) {
        for (int64_t n : {1, 7, 66}) {
            problem p(f, n == 66 ? 67 : 3, f->block * (n == 7 ? 5 : 1), n);
            check_product(p, WEIGHTS_PLAIN, on_device(p, prompt()));
        }
        for (int weights = 0; weights < WEIGHTS_KINDS; weights++) {
            problem p(f, 3, f->block, 2, weights, weights % INPUT_KINDS);
            check_product(p, weights, on_device(p, prompt()));
        }
    });
}

/* MXFP4's scales are powers of two, of which a float does not always hold 2^24: of 2^108 it holds the products alone. */
static void check_great_scales()
{
    problem p(air_format_by_id(AIR_TYPE_MXFP4), 3, 64, 2);
    for (size_t i = 0; i < p.w.size(); i += p.format->bytes) p.w[i] = 236;
    for (float &x : p.x) x *= 1e-30f;
    check_product(p, WEIGHTS_PLAIN, on_device(p, prompt()));
}

/* A row whose scale is infinite, between others. */
static void check_infinite_scales()
{
    problem p(air_format_by_id(AIR_TYPE_Q8_0), 3, 64, 2);
    p.w[p.row_bytes] = 0, p.w[p.row_bytes + 1] = 0x7c;
    std::vector<float> y = on_device(p, prompt());
    for (size_t i = 0; i < y.size(); i++) CHECK_EQ(std::isfinite(y[i]), i % 3 != 1);
}

TEST(great_scales_of_a_prompt_have_their_products_and_infinite_ones_show)
{
    check_great_scales(), check_infinite_scales();
    without_tensor_cores device;
    check_great_scales(), check_infinite_scales();
}

/* As floats, not as halves: by what formats.def calls F32, F16 and BF16. Rows need not be whole groups. */
TEST(products_of_a_prompt_of_numbers_are_those_of_the_cpu)
{
    for (uint32_t type : {AIR_TYPE_F32, AIR_TYPE_F16, AIR_TYPE_BF16}) {
        const air_format *f = air_format_by_id(type);
        for (int64_t k : {1, 7, 32, 100, 1003, 1152}) {
            problem p(f, k == 100 ? 67 : 3, k, k == 100 ? 66 : 2);
            check_product(p, WEIGHTS_PLAIN, on_device(p, prompt()));
        }
        for (int weights = 0; weights < WEIGHTS_KINDS; weights++)
            for (int input = 0; input < INPUT_KINDS; input++) {
                if (weights == WEIGHTS_HUGE && input == INPUT_HUGE) continue;
                problem p(f, 3, 96, 2, weights, input);
                check_product(p, weights, on_device(p, prompt()));
            }
    }
}

static void check_bits_of_prompts(const air_format *f)
{
    problem all(f, 67, f->block < 256 ? 192 : 256, 66);
    std::vector<float> together = on_device(all, prompt());
    for (int64_t i : {0, 65}) {
        problem part = all.part(i, 2, i, 1);
        std::vector<float> got = on_device(part, prompt());
        CHECK(same_bits(got, part_of(together, i * all.rows + i, 2)));
        part.shift = 1 + (size_t)i % 15;
        CHECK(same_bits(on_device(part, prompt()), got));
    }
}

TEST(the_bits_of_a_prompts_result_are_its_rows_and_columns_alone)
{
    for (uint32_t type : {AIR_TYPE_F32, AIR_TYPE_F16, AIR_TYPE_BF16}) check_bits_of_prompts(air_format_by_id(type));
    without_tensor_cores device;
    for_each_packed_format(check_bits_of_prompts);
}

/* Columns and rows so many that tiles are of 128 columns. */
TEST(wide_tiles_have_the_bits_of_narrow_ones)
{
    for (uint32_t type : {AIR_TYPE_Q4_K, AIR_TYPE_Q2_K, AIR_TYPE_Q6_K, AIR_TYPE_Q8_0, AIR_TYPE_IQ3_XXS, AIR_TYPE_F16, AIR_TYPE_F32}) {
        problem all(air_format_by_id(type), 450, 256, 70);
        std::vector<float> wide = on_device(all, prompt());
        for (int64_t c : {0, 69}) {
            std::vector<float> narrow = on_device(all.part(0, all.rows, c, 1), prompt());
            CHECK(same_bits(narrow, part_of(wide, c * all.rows, all.rows)));
        }
    }
}

TEST(prompts_do_not_depend_on_the_order_of_threads)
{
    for (uint32_t type : {AIR_TYPE_Q2_K, AIR_TYPE_IQ2_XXS, AIR_TYPE_BF16}) {
        problem p(air_format_by_id(type), 5, 768, 3);
        std::vector<float> first = on_device(p, prompt());
        in_every_order([&] { CHECK(same_bits(on_device(p, prompt()), first)); });
        larger_device device; /* two slabs in shared memory */
        in_every_order([&] { CHECK(same_bits(on_device(p, prompt()), first)); });
    }
}

TEST(tensor_cores_give_a_prompt_the_bits_of_devices_without_them)
{
    for_each_packed_format([](const air_format *f) {
        problem p(f, 67, f->block < 256 ? 192 : 256, 9);
        std::vector<float> tensor = on_device(p, prompt());
        {
            older_device device;
            CHECK(same_bits(on_device(p, prompt()), tensor));
        }
        without_tensor_cores device;
        CHECK(same_bits(on_device(p, prompt()), tensor));
    });
}

TEST(numbers_of_a_prompt_are_decoded_by_devices_without_tensor_cores)
{
    problem p(air_format_by_id(AIR_TYPE_F16), 5, 100, 3);
    std::vector<float> decoded = on_device(p);
    without_tensor_cores device;
    if (device.WORKS) CHECK(same_bits(on_device(p, prompt()), decoded));
}

TEST(what_no_kernel_takes_is_refused)
{
    problem p(air_format_by_id(AIR_TYPE_Q4_K), 1, 256, 1);
    air_cuda_product product = {};
    product.type = AIR_TYPE_Q4_K, product.rows = 1, product.k = 128, product.n = 1;
    CHECK_EQ(air_cuda_product_run(&product, 0), cudaErrorInvalidValue);
    product.k = 256, product.n = 0;
    CHECK_EQ(air_cuda_product_run(&product, 0), cudaErrorInvalidValue);
    product.n = 1, product.type = AIR_TYPE_Q8_K;
    CHECK_EQ(air_cuda_product_run(&product, 0), cudaErrorInvalidValue);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    ops = air_ops_tier(AIR_TIER_REF);
    std::vector<uint8_t> filled(air_cuda_tables_bytes());
    air_cuda_tables_fill(filled.data());
    GuardedArray<uint8_t> on_it(filled);
    tables = &on_it;
    RUN(quantised_activations_are_those_of_the_cpu);
    RUN(quantised_extremes_are_those_of_the_cpu);
    RUN(a_group_of_part_of_the_width_is_refused);
    RUN(every_format_of_a_matrix_has_a_product);
    RUN(products_are_those_of_the_cpu);
    RUN(products_do_not_depend_on_the_order_of_threads);
    RUN(matrices_of_heads_have_the_bits_of_each_alone);
    RUN(extreme_weights_and_activations_have_their_products);
    RUN(rows_may_begin_anywhere);
    RUN(rows_of_numbers_may_have_any_length);
    RUN(the_bits_of_a_result_are_its_rows_and_columns_alone);
    RUN(many_rows_have_the_bits_of_few);
    RUN(epilogues_fold_the_result_and_its_bias_in);
    RUN(epilogues_fold_a_prompts_results_in);
    RUN(products_of_a_prompt_are_those_of_the_cpu);
    RUN(great_scales_of_a_prompt_have_their_products_and_infinite_ones_show);
    RUN(products_of_a_prompt_of_numbers_are_those_of_the_cpu);
    RUN(the_bits_of_a_prompts_result_are_its_rows_and_columns_alone);
    RUN(wide_tiles_have_the_bits_of_narrow_ones);
    RUN(prompts_do_not_depend_on_the_order_of_threads);
    RUN(tensor_cores_give_a_prompt_the_bits_of_devices_without_them);
    RUN(numbers_of_a_prompt_are_decoded_by_devices_without_tensor_cores);
    RUN(what_no_kernel_takes_is_refused);
    return check_end();
}
