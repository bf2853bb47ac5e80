/* What adapters add to products on the device, against its definition (backend/adapter.h): ranks and sizes of all kinds, columns with
 * different adapters and with none; and that a column's bits are its own, whatever is beside it and however its rows are cut. */
#include <algorithm>
#include <memory>

#include "cuda/kernels.h"
#include "kernel_check.h"

/* An adapter of one weight; rank 0: of another one. */
struct pair {
    int64_t rank;
    float scale;
    std::vector<float> a, b; /* [rank][k], [rank][rows] */
};

/* Sequences with adapters, rows of a pass in some order, and a weight of [rows][k] whose number is 1. */
class Scene {
public:
    Scene(int64_t rows_, int64_t k_, const std::vector<std::pair<int64_t, float>> &of, const std::vector<int32_t> &sequence_of_row,
          const std::vector<int32_t> &wanted_rows = {})
        : rows(rows_), k(k_), sequences(sequence_of_row), wanted(wanted_rows)
    {
        std::vector<air_device_adapted> table_of;
        for (const auto &[r, scale] : of) {
            pairs.push_back({r, scale, random_floats(r * k, 1), random_floats(r * rows, 1)});
            rank = std::max(rank, r);
            as.push_back(std::make_unique<GuardedArray<float>>(pairs.back().a));
            bs.push_back(std::make_unique<GuardedArray<float>>(pairs.back().b));
            std::vector<air_adapter_part> table(2);
            if (r) table[1] = {r, as.back()->get(), bs.back()->get(), rows};
            parts.push_back(std::make_unique<GuardedArray<air_adapter_part>>(table));
            table_of.push_back({parts.back()->get(), scale});
        }
        table_of.push_back({nullptr, 0}); /* the last sequence has none */
        pairs.push_back({0, 0, {}, {}});
        on_device = std::make_unique<GuardedArray<air_device_adapted>>(table_of);
        of_rows = std::make_unique<GuardedArray<int32_t>>(sequences);
        of_columns = std::make_unique<GuardedArray<int32_t>>(wanted);
        n = (int64_t)(wanted.empty() ? sequences.size() : wanted.size());
        x = random_floats(n * k, 1);
        part = random_floats(n * rows, 1);
        held = random_floats(n * rows, 1);
        bias = random_floats(rows, 1);
    }

    const pair &of(int64_t column) const
    {
        return pairs[(size_t)sequences[(size_t)(wanted.empty() ? column : wanted[(size_t)column])]];
    }

    air_cuda_adapted adapted(float *reduced) const
    {
        return {on_device->get(), of_rows->get(), wanted.empty() ? nullptr : of_columns->get(), 1, rank, reduced};
    }

    /* What the columns' results become, in double. */
    std::vector<float> want(const air_cuda_epilogue &e, bool biased) const
    {
        std::vector<float> out;
        for (int64_t c = 0; c < n; c++)
            for (int64_t row = 0; row < rows; row++) {
                const pair &p = of(c);
                double y = part[(size_t)(c * rows + row)], before = held[(size_t)(c * rows + row)];
                for (int64_t r = 0; r < p.rank; r++) {
                    double t = 0;
                    for (int64_t i = 0; i < k; i++) t += (double)p.a[(size_t)(r * k + i)] * x[(size_t)(c * k + i)];
                    y += p.scale * t * p.b[(size_t)(r * rows + row)];
                }
                if (biased) y += bias[(size_t)row];
                if (e.scale != 0) y *= e.scale;
                if (e.kind == AIR_EPILOGUE_ADD) y += before;
                if (e.kind == AIR_EPILOGUE_GATED) y *= before / (1 + exp(-before));
                if (e.kind == AIR_EPILOGUE_SET && e.activation == AIR_ACTIVATION_SILU) y /= 1 + exp(-y);
                out.push_back((float)y);
            }
        return out;
    }

    /* The same by the device: columns in groups of so many at a time, rows likewise. */
    std::vector<float> got(const air_cuda_epilogue &e, bool biased, int64_t columns, int64_t rows_at_once) const
    {
        GuardedArray<float> in(x), reduced((size_t)(n * std::max<int64_t>(rank, 1))), parts_in(part), out(held), biases(bias);
        air_cuda_adapted a = adapted(reduced.get());
        check_launch(air_cuda_reduce(&a, in.get(), k, n, 0));
        for (int64_t c = 0; c < n; c += columns)
            for (int64_t row = 0; row < rows; row += rows_at_once) {
                air_cuda_adapted_part f = {parts_in.get() + c * rows + row, rows, row, std::min(rows_at_once, rows - row), c,
                                      std::min(columns, n - c), biased ? biases.get() + row : nullptr, e, out.get() + c * rows + row, rows};
                check_launch(air_cuda_fold_adapted(&a, &f, 0));
            }
        CHECK(reduced.guarded() && out.guarded() && parts_in.guarded() && in.guarded());
        return out.read();
    }

    int64_t rows, k, n, rank = 0;
    std::vector<int32_t> sequences, wanted;
    std::vector<pair> pairs;
    std::vector<float> x, part, held, bias;

private:
    std::vector<std::unique_ptr<GuardedArray<float>>> as, bs;
    std::vector<std::unique_ptr<GuardedArray<air_adapter_part>>> parts;
    std::unique_ptr<GuardedArray<air_device_adapted>> on_device;
    std::unique_ptr<GuardedArray<int32_t>> of_rows, of_columns;
};

static air_cuda_epilogue epilogue_of(air_epilogue kind, air_activation activation = AIR_ACTIVATION_NONE, float scale = 0)
{
    return {kind, activation, scale, 0, 0};
}

static const air_cuda_epilogue SET = epilogue_of(AIR_EPILOGUE_SET), ADD = epilogue_of(AIR_EPILOGUE_ADD),
                               GATED = epilogue_of(AIR_EPILOGUE_GATED, AIR_ACTIVATION_SILU);

TEST(products_have_what_adapters_add_before_anything_else)
{
    for (const air_cuda_epilogue &e : {SET, ADD, GATED, epilogue_of(AIR_EPILOGUE_SET, AIR_ACTIVATION_SILU), epilogue_of(AIR_EPILOGUE_ADD, AIR_ACTIVATION_NONE, 0.25f)})
        for (bool biased : {false, true}) {
            Scene s(300, 129, {{5, 1.0f}, {3, -0.5f}}, {0, 0, 0, 0, 0, 2, 1, 1, 0});
            in_every_order([&] { check_near(s.got(e, biased, 9, 300), s.want(e, biased), 1e-12, "products"); });
        }
}

TEST(ranks_and_sizes_may_be_any)
{
    for (int64_t rank : {1, 2, 4, 7, 8, 33, 64})
        for (int64_t k : {1, 31, 128, 500}) {
            Scene one(17, k, {{rank, 2.0f}}, {0}), some(257, k, {{rank, 2.0f}}, {0, 0, 0, 0, 0, 0});
            check_near(one.got(ADD, false, 1, 17), one.want(ADD, false), 1e-11, "a column");
            check_near(some.got(SET, true, 6, 257), some.want(SET, true), 1e-11, "columns");
        }
    Scene wide(3, 40, {{300, 1.0f}, {1, 1.0f}}, {0, 1, 0, 1, 2}); /* as ranks beyond a matrix's are */
    check_near(wide.got(ADD, false, 5, 3), wide.want(ADD, false), 1e-11, "a large rank");
}

TEST(columns_that_are_few_of_the_rows_have_their_rows_adapter)
{
    Scene s(40, 64, {{4, 1.0f}, {2, 3.0f}, {0, 1.0f}}, {0, 0, 1, 1, 2, 2, 3, 3}, {1, 2, 5, 7});
    check_near(s.got(SET, false, 4, 40), s.want(SET, false), 1e-12, "wanted columns");
}

TEST(a_columns_bits_are_its_own)
{
    Scene s(300, 200, {{6, 1.0f}, {6, 1.0f}, {2, 0.5f}}, {0, 0, 0, 0, 1, 2, 3, 0, 1, 1, 1});
    std::vector<float> want = s.got(GATED, true, 11, 300);
    CHECK(same_bits(s.got(GATED, true, 1, 300), want));
    CHECK(same_bits(s.got(GATED, true, 3, 77), want));
    for (int64_t c = 0; c < s.n; c++) { /* in a pass of its own, of another place in it */
        Scene alone = Scene(300, 200, {{6, 1.0f}}, {0});
        GuardedArray<float> in(part_of(s.x, c * s.k, s.k)), reduced(8), raw(part_of(s.part, c * s.rows, s.rows)), out(part_of(s.held, c * s.rows, s.rows)),
            bias(s.bias);
        air_cuda_adapted a = s.adapted(reduced.get());
        GuardedArray<int32_t> sequence(std::vector<int32_t>{s.sequences[(size_t)c]});
        a.sequences = sequence.get();
        air_cuda_adapted_part f = {raw.get(), s.rows, 0, s.rows, 0, 1, bias.get(), GATED, out.get(), s.rows};
        check_launch(air_cuda_reduce(&a, in.get(), s.k, 1, 0));
        check_launch(air_cuda_fold_adapted(&a, &f, 0));
        CHECK(same_bits(out.read(), part_of(want, c * s.rows, s.rows)));
    }
}

TEST(columns_without_an_adapter_have_the_bits_of_products_without)
{
    Scene s(300, 64, {{3, 1.0f}}, {1, 0, 1, 1, 0, 1});
    for (const air_cuda_epilogue &e : {SET, ADD, GATED}) {
        std::vector<float> got = s.got(e, true, 6, 300);
        GuardedArray<float> raw(s.part), out(s.held), bias(s.bias);
        air_cuda_folding f = {};
        f.part = raw.get(), f.bias = bias.get(), f.rows = f.out_stride = s.rows, f.n = s.n, f.epilogue = e, f.out = out.get();
        check_launch(air_cuda_fold(&f, 0));
        std::vector<float> want = out.read();
        for (int64_t c = 0; c < s.n; c++) CHECK(same_bits(part_of(got, c * 300, 300), part_of(want, c * 300, 300)) == !s.of(c).rank);
    }
}

TEST(results_may_become_what_they_are_where_they_lie)
{
    Scene s(300, 64, {{3, 1.0f}}, {0, 1, 0});
    std::vector<float> want = s.got(SET, true, 3, 300);
    GuardedArray<float> in(s.x), reduced(9), out(s.part), bias(s.bias);
    air_cuda_adapted a = s.adapted(reduced.get());
    air_cuda_adapted_part f = {out.get(), s.rows, 0, s.rows, 0, s.n, bias.get(), SET, out.get(), s.rows};
    check_launch(air_cuda_reduce(&a, in.get(), s.k, s.n, 0));
    check_launch(air_cuda_fold_adapted(&a, &f, 0));
    CHECK(out.guarded() && same_bits(out.read(), want));
}

TEST(what_no_kernel_takes_is_refused)
{
    float x = 0;
    air_cuda_adapted a = {};
    air_cuda_adapted_part f = {};
    CHECK_EQ(air_cuda_reduce(&a, &x, 1, 1, 0), cudaErrorInvalidValue);
    a.rank = INT32_MAX;
    CHECK_EQ(air_cuda_reduce(&a, &x, 1, 1, 0), cudaErrorInvalidValue);
    a.rank = 1;
    CHECK_EQ(air_cuda_reduce(&a, &x, 0, 1, 0), cudaErrorInvalidValue);
    CHECK_EQ(air_cuda_reduce(&a, &x, 1, 0, 0), cudaErrorInvalidValue);
    f.rows = 1;
    CHECK_EQ(air_cuda_fold_adapted(&a, &f, 0), cudaErrorInvalidValue);
    f.rows = 0, f.n = 1;
    CHECK_EQ(air_cuda_fold_adapted(&a, &f, 0), cudaErrorInvalidValue);
}

int main(int argc, char **argv)
{
    check_begin(argc, argv);
    RUN(products_have_what_adapters_add_before_anything_else);
    RUN(ranks_and_sizes_may_be_any);
    RUN(columns_that_are_few_of_the_rows_have_their_rows_adapter);
    RUN(a_columns_bits_are_its_own);
    RUN(columns_without_an_adapter_have_the_bits_of_products_without);
    RUN(results_may_become_what_they_are_where_they_lie);
    RUN(what_no_kernel_takes_is_refused);
    return check_end();
}
